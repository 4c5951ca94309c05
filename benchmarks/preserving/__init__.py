"""How little edits are felt: the parts of ``preservation.py``."""
