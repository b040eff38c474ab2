"""What all lists of videos share: the videos, the part that is held out, ids, and reading the text."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from rstg_pyg.train.errors import UserError

#: Control characters and lone surrogates, which are in no name of a video.
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_NUMBER = r"([0-9]+(?:\.[0-9]+)?)?"
_RANGE = re.compile(rf"(.+)#t={_NUMBER},?{_NUMBER}")
_USUAL_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
_MOST_BYTES = 1 << 28  # of a label file; the largest official one has 34 MB
_LONGEST_NAME = 240  # bytes of a file's name without its suffix; file systems have 255
_LONGEST_ID = 1_000  # characters of the path


class Video(NamedTuple):
    """A video of a split: its id (a path below the videos' folder), its class, if it is known, or all
    its classes where videos have several, and how many frames its list says that it has.
    """

    id: str
    label: int | tuple[int, ...] | None
    frames: int | None = None

    @property
    def whole(self) -> str:
        """The id of the video that this one is a part of, or its own."""
        return split_range(self.id)[0]

    @property
    def labels(self) -> tuple[int, ...]:
        """Its classes: none, one, or several."""
        if isinstance(self.label, tuple):
            return self.label
        return () if self.label is None else (self.label,)


def split_range(video: str) -> tuple[str, float, float | None]:
    """The video that an id is of, and the start and end of its part in seconds: ``match.mp4#t=12.5,17``
    is a part of ``match.mp4``. Of a whole video, the start is 0 and the end ``None``.
    """
    match = _RANGE.fullmatch(video)
    if match is None:
        return video, 0.0, None
    return match[1], float(match[2] or 0), float(match[3]) if match[3] else None


def held_out(
    videos: Sequence[Video], share: float, fold: int = 0, leave_one: bool = False
) -> list[Video]:
    """The share of a training list that is kept for validation, by the order of the ids' hashes: the
    first of these shares, at least one video; or with ``fold`` a later one. With ``leave_one``, a video
    of every class stays. Parts of one video are kept together and count as one.
    """
    classes: dict[str, set[int]] = {}
    for video in videos:
        classes.setdefault(video.whole, set()).update(video.labels)
    left = Counter(label for labels in classes.values() for label in labels)

    def can_go(name: str) -> bool:
        return not leave_one or all(left[label] > 1 for label in classes[name])

    order = sorted(classes, key=lambda name: hashlib.sha256(name.encode()).digest())
    order = list(filter(can_go, order))
    first, last = (max(1, round((fold + i) * share * len(classes))) for i in (0, 1))
    kept = set()
    for name in filter(can_go, order[first if fold else 0 : last]):
        kept.add(name)
        left.subtract(classes[name])
    return [video for video in videos if video.whole in kept]


def check_val_fraction(share: float, fold: int = 0) -> None:
    """Checks the share and the fold for :func:`held_out`.

    Raises:
        UserError: If nothing would be left for training, or there are not so many folds.
    """
    if not 0 <= share < 1:
        raise UserError(f"data.val_fraction: expected 0 to below 1 (got {share})")
    last = math.ceil(1 / share - 1e-9) - 1 if share else 0
    if not 0 <= fold <= last:
        folds = f"data.val_fraction={share:g} has folds 0 to {last}"
        raise UserError(f"data.val_fold: expected another fold (got {fold}); {folds}")


def class_order(classes: list[str]) -> str:
    """``"sorted"`` if the classes are in alphabetical order, else ``"file"``."""
    return "sorted" if classes == sorted(classes) else "file"


def check_id(where: str, name: str) -> None:
    """Ids are paths below the videos' folder; they must not lead out of it, and files can have them."""
    if _USUAL_ID.fullmatch(name):  # lists are long, and paths slow
        return
    path = PurePosixPath(name)
    leaves = path.is_absolute() or ".." in path.parts or PureWindowsPath(name).anchor
    if leaves or "\\" in name or not path.name or _UNFIT.search(name):
        hint = "; write / between folders" if "\\" in name else ""
        raise UserError(
            f"{where}: expected the name of a video below the data folder (got {name[:200]!r}){hint}"
        )
    if max(len(part.encode()) for part in path.parts) > _LONGEST_NAME or len(name) > _LONGEST_ID:
        raise UserError(f"{where}: the name of the video is too long for a file (got {name[:60]!r}...)")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield number, line.strip()


def read_text(path: Path) -> str:
    """A label file's text, with line feeds.

    Raises:
        UserError: If it cannot be read, is very large, or is not UTF-8.
    """
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise UserError(
                f"{path}: expected label files of at most {_MOST_BYTES >> 20} MiB (got {size >> 20})"
            )
        data = path.read_bytes()
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror or e})") from e
    encoding = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "Latin-1 or another encoding"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: expected UTF-8 text (it seems to be {encoding}); convert it") from e
    if "\0" in text:
        raise UserError(f"{path}: expected UTF-8 text (it has zero bytes: UTF-16, or damaged)")
    return text.replace("\r\n", "\n").replace("\r", "\n")
