"""Faster ways to the same numbers. The plain formulas beside them are their specification."""
