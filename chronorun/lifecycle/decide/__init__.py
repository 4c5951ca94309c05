"""Pure policies: signals in, verdicts and a new policy state out. No torch."""
