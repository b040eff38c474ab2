"""One training: the task, Lightning's trainer, and what watches over both."""
