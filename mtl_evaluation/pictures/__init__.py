"""Frames made visible: what recordings and reports share."""
