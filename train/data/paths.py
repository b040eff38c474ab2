"""Folders, what is missing in them, and what has a similar name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from rstg_pyg.train.errors import UserError

_MOST_FOLDERS = 100
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
        numbered = [(abs(number - wanted), n) for n in names if (number := _number(n)) is not None]
        if numbered:
            return [n for _, n in sorted(numbered)][:count]
    return difflib.get_close_matches(name, names, n=count, cutoff=0.3) or sorted(names)[:count]


def _number(name: str) -> int | None:
    digits = "".join(c for c in name.partition(".")[0] if c in "0123456789")[:_MOST_DIGITS]
    return int(digits) if digits else None


def beside(name: str, among: Path | Iterable[str]) -> str:
    """``"; nearest: a, b, c"``, or nothing where no name is at hand."""
    near = nearest_names(name, among)
    return f"; nearest: {', '.join(near)}" if near else ""


def home(path: str | Path) -> Path:
    """A path with ``~`` put out.

    Raises:
        UserError: If it is another user's home and there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as e:
        raise UserError(f"{path}: there is no such home folder; write the path out") from e


def subfolders(folder: Path) -> list[Path]:
    """The first folders in a folder, in order; none where it cannot be listed."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    paths = [folder / name for name in names if not name.startswith(".")]
    return list(islice((path for path in paths if os.path.isdir(path)), _MOST_FOLDERS))
