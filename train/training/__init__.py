"""Training: the Lightning task, trainer, checkpoints, callbacks and loggers."""
