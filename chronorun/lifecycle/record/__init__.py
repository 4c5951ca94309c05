"""What is written down: the ledger of the population, decisions and log lines. No torch."""
