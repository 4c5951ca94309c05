"""A run folder read leniently: its logs as typed lines, series and lineage."""
