"""Metrics with one owner, and what they are made of."""
