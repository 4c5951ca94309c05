"""What a checkpoint shows: routing, weights and inputs, read into signals."""
