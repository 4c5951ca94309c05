"""Break runs on purpose: what must survive survives, what must be refused is refused."""
