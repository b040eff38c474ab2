"""Finds where the frames of a data set are: folders of images, video files, or a packed store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rstg_pyg.train.data.paths import beside, home, subfolders
from rstg_pyg.train.data.sources.base import SOURCES, FrameSource
from rstg_pyg.train.data.sources.folders import FrameFolders, frame_numbers
from rstg_pyg.train.data.sources.packed import STORE, PackedVideos
from rstg_pyg.train.data.sources.places import Place, is_video_name
from rstg_pyg.train.data.sources.videos import VideoFiles
from rstg_pyg.train.errors import UserError


def find_sources(root: str | Path, videos: Sequence[str]) -> list[FrameSource]:
    """The sources below ``root``, those with the most of the videos first, of these the fastest first.

    Args:
        root: The data set's folder.
        videos: The videos' ids.

    Raises:
        UserError: If a source is there but cannot be used.
    """
    root, videos = home(root), list(videos)
    packed = PackedVideos(root / STORE) if os.path.isfile(root / STORE) else None
    found = [packed, FrameFolders.find(root, videos), VideoFiles.find(root, videos)]
    return sorted(
        (source for source in found if source is not None), key=lambda s: len(s.missing(videos))
    )


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
    first, folders = videos[0], subfolders(root)
    for folder in (*folders, root):
        if near := beside(first, folder):
            break
    names = ", ".join(folder.name for folder in folders[:5]) or "none"
    return (
        f"none of the videos is in {root} or its folders ({names})\nexpected FOLDER/{first}/00001.jpg "
        f"and so on, FOLDER/{first}.webm, or a packed store{near}"
    )


def open_video(path: str | Path) -> tuple[FrameSource, str]:
    """A source for one video of one's own: a file or a folder of frames; and the video's id in it.

    Raises:
        UserError: If there is neither a file nor a folder with frames.
    """
    name, path = str(path), home(path)
    if "://" in name or (name.isdigit() and not os.path.exists(path)):
        raise UserError(
            f"{name}: expected a file or a folder of frames (addresses and cameras are not read); save "
            f"the video to a file first"
        )
    if not os.path.isdir(path):
        return VideoFiles(Place(path.parent, {path.name: path})), path.name
    names, frames = frame_numbers(path)
    if not frames:
        files = [name for name in names if is_video_name(name)]
        have = f"it has video files, such as {files[0]}; give those" if files else "it has none"
        raise UserError(f"{path}: expected a video, or a folder with numbered frames ({have})")
    place = Place(path.parent, {path.name: path})
    return FrameFolders(place, {0, 1, min(frames)}), path.name
