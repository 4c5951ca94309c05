"""The bench: arms and scenarios trained as jobs, compared, and reported."""
