"""The real node, fed from a bag over DDS, and how fast and how late it answers."""
