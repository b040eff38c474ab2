"""What a config may say: every key, its type and its default."""
