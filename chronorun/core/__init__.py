"""What every room may use: lazy exports, JSON lines, atomic files."""
