"""Where the frames of a data set come from: folders of images, video files, or a packed store."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rstg_pyg.train.data.label_files import home, subfolders
from rstg_pyg.train.data.names import beside
from rstg_pyg.train.data.transforms import resize_short_side
from rstg_pyg.train.errors import UserError

SOURCES = ("auto", "packed", "frames", "video")

_MOST_SAMPLES = 16  # videos that are looked for in every folder
_MOST_ASPECT = 32


class FrameSource(ABC):
    """Frames of videos, by the video's id and the frame's number.

    A source holds names, not open files: it can be sent to a worker process, where it opens what it
    needs. Nothing is ever put in the place of a frame that is missing or damaged.
    """

    #: One of :data:`SOURCES`.
    kind: str
    #: One line for people.
    detail: str

    @abstractmethod
    def num_frames(self, video: str) -> int:
        """The number of frames, at least 1.

        Raises:
            UserError: If the video is missing or damaged; the message names the file.
        """

    @abstractmethod
    def _frames(self, video: str, indices: Sequence[int]) -> Iterator[Tensor]:
        """Yields the frames ``[H, W, 3]`` of the given numbers, which increase."""

    @abstractmethod
    def location(self, video: str) -> Path:
        """The file or folder that holds the video."""

    @abstractmethod
    def missing(self, videos: list[str]) -> list[str]:
        """Those of the given videos that are not there, found without opening the others."""

    def frames_per_second(self, video: str) -> float | None:
        """The video's frame rate, if it is known."""
        return None

    def frames(
        self, video: str, indices: Sequence[int] | None = None, short_side: int | None = None
    ) -> Iterator[Tensor]:
        """Yields frames ``[H, W, 3]``, one at a time, so memory does not grow with the video.

        Args:
            video: The video's id.
            indices: Frame numbers in increasing order. By default all.
            short_side: Resize to this short side.

        Raises:
            UserError: If a frame is missing, damaged or of another size than the first.
        """
        indices = range(self.num_frames(video)) if indices is None else indices
        size = None
        for index, frame in zip(indices, self._frames(video, indices)):
            size = size or frame.shape
            if frame.shape != size:
                raise UserError(
                    f"{self.location(video)}: expected frames of {size[1]} x {size[0]} pixels like the "
                    f"first one (frame {index} has {frame.shape[1]} x {frame.shape[0]})"
                )
            if short_side is None:
                yield frame
                continue
            if max(size[:2]) > _MOST_ASPECT * min(size[:2]):  # the long side could be of any length
                raise UserError(
                    f"{self.location(video)}: expected frames at most {_MOST_ASPECT} times as long as "
                    f"wide, to give them a short side of {short_side} (they have {size[1]} x {size[0]})"
                )
            yield resize_short_side(frame[None], short_side)[0]

    def read(self, video: str, indices: Sequence[int], short_side: int | None = None) -> Tensor:
        """Reads frames, ``[T, H, W, 3]`` uint8.

        Args:
            video: The video's id.
            indices: Frame numbers, in any order, also more than once.
            short_side: Resize to this short side.

        Raises:
            UserError: If the video or a frame is missing or damaged.
        """
        wanted, place = torch.as_tensor(indices).unique(sorted=True, return_inverse=True)
        frames = torch.stack(list(self.frames(video, wanted.tolist(), short_side)))
        return frames if torch.equal(place, torch.arange(len(frames))) else frames[place]


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
    from rstg_pyg.train.data.folders import FrameFolders
    from rstg_pyg.train.data.packed import STORE, PackedVideos
    from rstg_pyg.train.data.videos import VideoFiles

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
    from rstg_pyg.train.data.folders import FrameFolders, detect_template
    from rstg_pyg.train.data.videos import VideoFiles

    path = home(path)
    if os.path.isdir(path):
        template = detect_template([path])
        if template is None:
            raise UserError(f"{path}: expected a video, or a folder with numbered frames (it has none)")
        return FrameFolders(path.parent, template), path.name
    return VideoFiles(path.parent, path.suffix), path.stem
