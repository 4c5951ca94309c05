"""Progress, metrics and W&B."""
