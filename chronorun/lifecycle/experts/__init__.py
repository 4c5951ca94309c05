"""Who lives: the states of experts, their records, and the registry of slots. No torch."""
