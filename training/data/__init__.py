"""Data sets, transforms and batches; every sample says which tasks it labels."""
