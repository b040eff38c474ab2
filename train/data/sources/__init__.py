"""Where the frames of videos come from: folders of images, video files, or a packed store."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import av

from rstg_pyg.train.data.paths import beside, home, subfolders
from rstg_pyg.train.data.sources.base import SOURCES, FrameSource, Times
from rstg_pyg.train.data.sources.folders import find_frame_folders, frame_folders, frame_numbers
from rstg_pyg.train.data.sources.packed import STORE, PackedVideos
from rstg_pyg.train.data.sources.places import (
    Place,
    PlacedVideos,
    find_place,
    is_video_name,
    names_of_videos,
)
from rstg_pyg.train.data.sources.trimmed import TrimmedVideos
from rstg_pyg.train.data.sources.video_file import open_file
from rstg_pyg.train.data.video_lists import split_range
from rstg_pyg.train.errors import UserError

__all__ = ["SOURCES", "FrameSource", "Times", "find_sources", "no_videos", "open_source", "open_video"]


def find_sources(root: str | Path, videos: Sequence[str]) -> list[FrameSource]:
    """The sources below ``root``, those with the most of the videos first, of these the fastest first.

    Args:
        root: The data set's folder.
        videos: The videos' ids.

    Raises:
        UserError: If a source is there but cannot be used.
    """
    root, videos = home(root), list(videos)
    names = list(dict.fromkeys(split_range(video)[0] for video in videos))
    packed = PackedVideos(root / STORE) if os.path.isfile(root / STORE) else None
    found: list[FrameSource] = [
        source
        for source in (packed, find_frame_folders(root, names), _find_video_files(root, names))
        if source is not None
    ]
    if not set(videos) <= set(names):  # a store has parts by their complete names
        found = [source if source is packed else TrimmedVideos(source) for source in found]
    return sorted(found, key=lambda source: len(source.missing(videos)))


def open_source(root: str | Path, videos: Sequence[str], kind: str = "auto") -> FrameSource:
    """The source below ``root`` that has the videos.

    Args:
        root: The data set's folder.
        videos: The videos' ids.
        kind: One of :data:`SOURCES`; ``"auto"`` takes the one with the most of the videos, of several a
            packed store before frame folders before video files.

    Raises:
        UserError: If the kind asked for is not there; the message says what is.
    """
    if kind not in SOURCES:
        raise UserError(f"data.source: expected one of {', '.join(SOURCES)} (got {kind!r})")
    root = home(root)
    found = find_sources(root, videos)
    for source in found:
        if kind in ("auto", source.kind):
            return source
    if found:
        have = ", ".join(source.kind for source in found)
        raise UserError(f"data.source={kind}: {root} has none; it has data.source={have}")
    raise UserError(f"data.root: {no_videos(root, videos)}")


def no_videos(root: Path, videos: Sequence[str]) -> str:
    """Says where videos were looked for, and where they are instead."""
    parent = root.resolve().parent
    if find_sources(parent, videos):
        return f"{root} has no videos; that is one level too low, give {parent}"
    first, folders = split_range(videos[0])[0], subfolders(root)
    for folder in (*folders, root):
        if near := beside(first, folder):
            break
    names = ", ".join(folder.name for folder in folders[:5]) or "none"
    return (
        f"none of the videos is in {root} or its folders ({names})\nexpected FOLDER/{first}/00001.jpg "
        f"and so on, FOLDER/{first}.webm, or a packed store{near}"
    )


def open_video(path: str | Path) -> tuple[FrameSource, str]:
    """A source for one video of one's own: a file or a folder of frames, or a part of a file
    (``match.mp4#t=12.5,17``); and the video's id in it.

    Raises:
        UserError: If there is neither a file nor a folder with frames.
    """
    name, path = str(path), home(path)
    if "#t=" in name and not os.path.exists(path):
        whole, start, end = split_range(name)
        if whole == name or (end is not None and end <= start):
            raise UserError(
                f"{name}: expected a start and a later end in seconds after #t=, such as #t=12.5,17"
            )
        source, video = open_video(whole)
        return TrimmedVideos(source), video + name[len(whole) :]
    if "://" in name or (name.isdigit() and not os.path.exists(path)):
        raise UserError(
            f"{name}: expected a file or a folder of frames (addresses and cameras are not read as one "
            f"video); use Predictor.watch, or predict.py with an address or --camera"
        )
    place = Place(path.parent, {path.name: path})
    if not os.path.isdir(path):
        return _video_files(place), path.name
    names, frames = frame_numbers(path)
    if not frames:
        files = [name for name in names if is_video_name(name)]
        have = f"it has video files, such as {files[0]}; give those" if files else "it has none"
        raise UserError(f"{path}: expected a video, or a folder with numbered frames ({have})")
    return frame_folders(place, min(frames)), path.name


def _find_video_files(root: Path, videos: Sequence[str]) -> PlacedVideos | None:
    place = find_place(root, videos, names_of_videos)
    return None if place is None else _video_files(place)


def _video_files(place: Place) -> PlacedVideos:
    suffixes = Counter(path.suffix for path in place.paths.values())
    kinds = ", ".join(sorted({suffix[1:].lower() for suffix in suffixes if suffix}))
    usual = suffixes.most_common(1)[0][0]
    detail = f"{kinds} files in {place.folder}, PyAV {av.__version__}"
    return PlacedVideos(place, "video", detail, open_file, usual)
