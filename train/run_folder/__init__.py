"""The run folder and the files in it, except checkpoints; reading weights."""
