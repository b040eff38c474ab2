"""The parts of ``train/benchmark.py``: cases, variants, measuring, and the pages it writes."""
