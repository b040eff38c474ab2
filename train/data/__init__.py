"""Data sets: what a video is, where it comes from, how batches of it are made."""
