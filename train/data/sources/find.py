"""Finds where the frames of a data set are: folders of images, video files, or a packed store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rstg_pyg.train.data.paths import beside, home, subfolders
from rstg_pyg.train.data.sources.base import SOURCES, FrameSource
from rstg_pyg.train.data.sources.folders import FrameFolders, detect_template
from rstg_pyg.train.data.sources.packed import STORE, PackedVideos
from rstg_pyg.train.data.sources.videos import VideoFiles
from rstg_pyg.train.errors import UserError

_MOST_SAMPLES = 16  # videos that are looked for in every folder


def find_sources(root: str | Path, videos: Sequence[str]) -> list[FrameSource]:
    """The sources below ``root`` that have the videos, the fastest first.

    A few of the videos are looked for in ``root`` itself and then in the folders in it, whatever their
    names are; so this takes no longer for a larger data set.

    Args:
        root: The data set's folder.
        videos: The videos' ids.

    Raises:
        UserError: If a source is there but cannot be used.
    """
    root = home(root)
    step = max(1, len(videos) // _MOST_SAMPLES)
    samples = [*videos[:3], *videos[3::step]][:_MOST_SAMPLES]
    found: list[FrameSource] = []
    if os.path.isfile(root / STORE):
        found.append(PackedVideos(root / STORE))
    for source in (FrameFolders, VideoFiles):
        here = source.find(root, samples)
        for folder in [] if here else subfolders(root):
            here = here or source.find(folder, samples)
        if here:
            found.append(here)
    return found


def open_source(root: str | Path, videos: Sequence[str], kind: str = "auto") -> FrameSource:
    """The source below ``root`` that has the videos.

    Args:
        root: The data set's folder.
        videos: The videos' ids.
        kind: One of :data:`SOURCES`; ``"auto"`` takes a packed store before frame folders before
            video files.

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
    raise UserError(f"data.root: {_no_videos(root, videos)}")


def _no_videos(root: Path, videos: Sequence[str]) -> str:
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
    path = home(path)
    if os.path.isdir(path):
        template = detect_template([path])
        if template is None:
            raise UserError(f"{path}: expected a video, or a folder with numbered frames (it has none)")
        return FrameFolders(path.parent, template), path.name
    return VideoFiles(path.parent, path.suffix), path.stem
