"""What a run writes beside the checkpoints, and where; reading weights back."""
