"""What a sweep shows: metrics of runs, statistics, comparisons and verdicts."""
