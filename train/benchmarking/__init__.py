"""What ``train/benchmark.py`` measures, how, and the pages it writes."""
