"""Grids computed once more, in fractions, and strategies for them."""

from fractions import Fraction

from hypothesis import strategies as st

scale_lists = st.lists(
    st.one_of(st.integers(1, 5), st.tuples(st.integers(1, 4), st.integers(1, 5))),
    min_size=1,
    max_size=3,
)


def pair(scale):
    return (scale, scale) if isinstance(scale, int) else tuple(scale)


def exact_regions(scales):
    """``(x0, y0, x1, y1)`` of every region as fractions, in the documented order."""
    return [
        (Fraction(c, cols), Fraction(r, rows), Fraction(c + 1, cols), Fraction(r + 1, rows))
        for rows, cols in map(pair, scales)
        for r in range(rows)
        for c in range(cols)
    ]


def overlap(a0, a1, b0, b1):
    return max(Fraction(0), min(a1, b1) - max(a0, b0))
