"""The parts of `python -m training.evaluate`: scores, costs, official formats and their oracle."""
