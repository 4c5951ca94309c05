"""Training the jobs of a sweep: the plan, one job, waves of workers."""
