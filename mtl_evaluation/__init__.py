"""Drives on disk: bags in, bags out, ground truth by stamp, metrics and what a person looks at."""
