"""Two runs beside each other: differences, how sure they are, and the verdict of a gate."""
