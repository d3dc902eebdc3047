"""Bags: what lies in them, reading them behind a wall, writing and making them."""
