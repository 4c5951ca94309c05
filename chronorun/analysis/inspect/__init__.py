"""``chronorun inspect``: runs and logs on the screen."""
