"""What is known about a frame: label files of every form, joined to frames."""
