"""What an evaluation sees: routing, weights and inputs, read into signals."""
