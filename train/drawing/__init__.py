"""Pictures of clips and of attention."""
