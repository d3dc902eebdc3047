"""Offline training: builds HydraNet-style models and writes the bundles that the vehicle reads."""
