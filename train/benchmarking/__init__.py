"""The parts of ``train/benchmark.py``: cases and timing, variants, and the pages it writes."""
