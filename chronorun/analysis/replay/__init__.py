"""``chronorun replay``: decisions derived again from the logs."""
