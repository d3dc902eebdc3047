"""Runs: every answer of a model to a list of bags, kept so that any figure can be made of it."""
