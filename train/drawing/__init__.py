"""Pictures: clips, and what the nodes of a graph attend to."""
