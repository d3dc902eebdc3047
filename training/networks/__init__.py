"""Networks: trunk, neck and the HydraNet that joins them to the task heads."""
