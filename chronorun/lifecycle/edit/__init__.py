"""What changes the model: edits of experts, router and optimizer at once, and their undoing."""
