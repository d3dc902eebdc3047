"""What teachers know about images that people labelled only in part; `training.teach` writes it."""
