"""What a run writes: checkpoints, weights, results."""
