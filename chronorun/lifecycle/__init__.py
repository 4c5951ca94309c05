"""The expert lifecycle."""
