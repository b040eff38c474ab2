"""The names nearest to one that is missing."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

_MOST_DIGITS = 1_000  # Python turns at most 4,300 into a number


def nearest_names(name: str, among: Path | Iterable[str], count: int = 3) -> list[str]:
    """The names that resemble ``name`` most: by their number where both are numbers, else by spelling.

    Args:
        name: The missing name.
        among: The names that are there, or the folder that has them.
        count: How many to return.
    """
    if isinstance(among, Path):
        try:
            among = os.listdir(among)
        except (OSError, ValueError):  # it is missing or no folder, or the name cannot be one
            among = []
    names = [n for n in among if not n.startswith(".")]
    wanted = _number(name)
    if wanted is not None:
        numbered = [n for n in names if _number(n) is not None]
        if numbered:
            return sorted(numbered, key=lambda n: (abs(_number(n) - wanted), n))[:count]
    return difflib.get_close_matches(name, names, n=count, cutoff=0.3) or sorted(names)[:count]


def _number(name: str) -> int | None:
    digits = "".join(c for c in name.partition(".")[0] if c in "0123456789")[:_MOST_DIGITS]
    return int(digits) if digits else None


def beside(name: str, among: Path | Iterable[str]) -> str:
    """``"; nearest: a, b, c"``, or nothing where no name is at hand."""
    near = nearest_names(name, among)
    return f"; nearest: {', '.join(near)}" if near else ""
