"""Finds where the videos of a list lie below a folder, and reads them there.

Every folder is listed once.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rstg_pyg.train.data.paths import subfolders
from rstg_pyg.train.data.sources.base import FrameSource

#: What a video file is called, in any case. Where two files have one name, the earlier suffix counts.
VIDEO_SUFFIXES = (
    ".webm", ".mp4", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".asf", ".flv", ".f4v",
    ".3gp", ".3g2", ".ts", ".mts", ".m2ts", ".vob", ".ogv", ".ogg", ".gif", ".webp", ".apng", ".ivf",
    ".nut", ".y4m", ".mjpeg", ".mjpg", ".h264", ".264", ".h265", ".265", ".hevc", ".m2v", ".mxf", ".dv",
    ".rm", ".rmvb", ".qt", ".divx",
)  # fmt: skip

#: What the folders and lists of a split are called, in any case.
SPLIT_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "eval"),
    "test": ("test", "testing"),
}

#: The names in a folder by what they are asked for with.
Names = dict[str, str]


@dataclass
class Place:
    """Where videos lie.

    Attributes:
        folder: The folder, the first one if there are several.
        paths: Of the videos that are there.
        prefix: A path that all ids begin with and that is not below the folder.
    """

    folder: Path
    paths: dict[str, Path] = field(default_factory=dict)
    prefix: str = ""


class PlacedVideos(FrameSource):
    """Videos as files, or as folders of images.

    Args:
        place: Where they are.
        kind: ``"video"`` or ``"frames"``.
        detail: One line for people.
        open_one: Opens a video by its path, see :meth:`FrameSource._open`.
        suffix: The suffix of the file that is expected where a video is missing.
    """

    def __init__(
        self,
        place: Place,
        kind: str,
        detail: str,
        open_one: Callable[[Path], Any],
        suffix: str = "",
    ):
        self.place, self.kind, self.detail, self.suffix = place, kind, detail, suffix
        self._open_one = open_one
        self._last: tuple[str, Any] | None = None  # counting comes right before reading

    def location(self, video: str) -> Path:
        """The video's file or folder, or where it would be expected."""
        if video in self.place.paths:
            return self.place.paths[video]
        suffix = "" if is_video_name(video) else self.suffix
        return self.place.folder / f"{video.removeprefix(self.place.prefix)}{suffix}"

    def missing(self, videos: list[str]) -> list[str]:
        """The videos that are not there."""
        return [video for video in videos if video not in self.place.paths]

    def _open(self, video: str) -> Any:
        if self._last is None or self._last[0] != video:
            self._last = video, self._open_one(self.location(video))
        return self._last[1]


def split_of(name: str) -> str | None:
    """The split that a folder's name means, if any."""
    return next((s for s, words in SPLIT_WORDS.items() if name.lower() in words), None)


def normal(name: str) -> str:
    """A name in Unicode's composed form (NFC). File systems and editors may use the other one."""
    return unicodedata.normalize("NFC", name)


def is_video_name(name: str) -> bool:
    """Whether a file of this name is taken for a video."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def without_suffix(name: str) -> str:
    """A name without the suffix of a video file, if it has one."""
    return os.path.splitext(name)[0] if is_video_name(name) else name


def names_of_folders(folder: str) -> Names:
    """The folders in a folder."""
    return {normal(name): name for name in _scan(folder, os.DirEntry.is_dir)}


def names_of_videos(folder: str) -> Names:
    """The video files in a folder, by their names with and without suffix."""
    rank = {suffix: number for number, suffix in enumerate(VIDEO_SUFFIXES)}
    found = [name for name in _scan(folder, os.DirEntry.is_file) if is_video_name(name)]
    # The earlier suffix last, so that it stays.
    found.sort(key=lambda name: rank[os.path.splitext(name)[1].lower()], reverse=True)
    names = {normal(os.path.splitext(name)[0]): name for name in found}
    return names | {normal(name): name for name in found}


def _scan(folder: str, wanted: Callable[[os.DirEntry], bool]) -> Iterator[str]:
    """The names in a folder that are wanted; none where it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(OSError):  # a loop of links
                    if not entry.name.startswith(".") and wanted(entry):
                        yield entry.name
    except OSError:
        return


def find_place(
    root: Path,
    videos: Sequence[str],
    names: Callable[[str], Names],
    usable: Callable[[Place], bool] = lambda place: True,
) -> Place | None:
    """The place below ``root`` with the most of the videos, the first of several.

    Looked at are ``root`` and the folders in it, if they have none the folders in those, and each of
    them with its split folders (``train``, ``val``, ...) together. Ids may begin with a path that leads
    to the folder from elsewhere; where it names a split, the folders of others do not count.

    Args:
        root: The data set's folder.
        videos: The videos' ids.
        names: :func:`names_of_folders` or :func:`names_of_videos`.
        usable: Whether a place has what it should have.
    """
    best, most = None, 0
    listed: dict[str, Names] = {}
    wanted = {prefix: _by_folder(videos, prefix) for prefix in _prefixes(videos)}
    for depth in range(3):
        for group in _groups(root, depth):
            for prefix, heads in wanted.items():
                own = {split_of(part) for part in prefix.split("/")} - {None}
                folders = [f for f in group if not own or split_of(f.name) in (None, *own)]
                place = Place(group[0], prefix=prefix)
                for folder in reversed(folders):  # so that the first one's stay
                    for head, loose_and_exact in heads.items():
                        where = os.path.join(folder, head)
                        if where not in listed:
                            listed[where] = names(where)
                        for ids in loose_and_exact:
                            for name in ids.keys() & listed[where].keys():
                                place.paths[ids[name]] = Path(where, listed[where][name])
                if len(place.paths) > most and usable(place):
                    best, most = place, len(place.paths)
                    if most == len(videos):
                        return best
        if best is not None and depth > 0:
            break
    return best


def _by_folder(videos: Sequence[str], prefix: str) -> dict[str, tuple[Names, Names]]:
    """The ids by folder, and there by name: first without a suffix, then with it, because a file with
    exactly that name takes precedence.
    """
    found: dict[str, tuple[Names, Names]] = {}
    for video in videos:
        head, _, name = video[len(prefix) :].rpartition("/")
        loose, exact = found.setdefault(head, ({}, {}))
        name = normal(name)
        loose[without_suffix(name)] = exact[name] = video
    return found


def _prefixes(videos: Sequence[str]) -> Iterator[str]:
    """The paths that all ids begin with, from none to the longest."""
    yield ""
    first, *others = {video.rpartition("/")[0] for video in videos}
    parts = first.split("/") if first else []
    for count in range(1, len(parts) + 1):
        prefix = "/".join(parts[:count]) + "/"
        if all(f"{other}/".startswith(prefix) for other in others):
            yield prefix


def _groups(root: Path, depth: int) -> Iterator[list[Path]]:
    """The folders at a depth, one by one, and each with its split folders together."""
    folders = [root]
    for _ in range(depth):
        folders = [below for folder in folders for below in subfolders(folder)]
    for folder in folders:
        yield [folder]
        names = (name for words in SPLIT_WORDS.values() for name in words)
        if splits := [folder / name for name in names if os.path.isdir(folder / name)]:
            yield splits
