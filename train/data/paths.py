"""Folders, what is in them, and what has a similar name."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from rstg_pyg.train.errors import UserError

_MOST_FOLDERS = 100


def beside(name: str, among: Path | Iterable[str]) -> str:
    """``"; nearest: a, b, c"``: the names that resemble ``name`` most, by their number where both have
    one, else by spelling; or nothing where no name is at hand.

    Args:
        name: The missing name.
        among: The names that are there, or the folder that has them.
    """
    if isinstance(among, Path):
        try:
            among = os.listdir(among)
        except (OSError, ValueError):  # it is missing or no folder, or the name cannot be one
            return ""
    names = [other for other in among if not other.startswith(".")]
    wanted = _digits(name)
    numbered = [other for other in names if _digits(other)] if wanted else []
    if numbered:
        near = sorted(numbered, key=lambda other: (abs(int(_digits(other)) - int(wanted)), other))
    else:
        near = difflib.get_close_matches(name, names, cutoff=0.3) or sorted(names)
    return f"; nearest: {', '.join(near[:3])}" if near else ""


def _digits(name: str) -> str:
    return re.sub("[^0-9]", "", name.partition(".")[0])


def home(path: str | Path) -> Path:
    """A path with ``~`` expanded.

    Raises:
        UserError: If it is another user's home and there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as e:
        raise UserError(f"{path}: there is no such home folder; write the path out") from e


def cache_folder() -> Path:
    """Where downloads, rendered clips and listings are kept: ``$XDG_CACHE_HOME/rstg_pyg``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rstg_pyg"


def subfolders(folder: Path) -> list[Path]:
    """The first folders in a folder, in order; none where it cannot be listed."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    paths = [folder / name for name in names if not name.startswith(".")]
    return list(islice((path for path in paths if os.path.isdir(path)), _MOST_FOLDERS))
