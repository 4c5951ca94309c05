"""``report.html``: a run as one page of pictures and tables."""
