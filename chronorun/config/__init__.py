"""The typed schema of what conf/ holds."""
