"""A sweep reported: tables, figures, Markdown and a page."""
