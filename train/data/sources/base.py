"""The base class of sources of frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rstg_pyg.train.data.sampling import Indices, Times
from rstg_pyg.train.data.transforms import resize_short_side
from rstg_pyg.train.errors import UserError

SOURCES = ("auto", "packed", "frames", "video")

_MOST_ASPECT = 32


def if_varying(times: Times) -> Times | None:
    """The times (seconds from the first frame) if the frame rate varies, else ``None``. It varies if a
    frame is shown more than one step earlier or later than at a constant rate.
    """
    if len(times) < 3 or (np.diff(times) < 0).any():  # a live source's clock may be set back
        return None
    even = np.linspace(0, times[-1], len(times))
    return times if np.abs(times - even).max() > even[1] else None


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
    def location(self, video: str) -> Path:
        """The file or folder that holds the video."""

    @abstractmethod
    def missing(self, videos: list[str]) -> list[str]:
        """Those of the given videos that are not there, found without opening the others."""

    def _open(self, video: str) -> Any:
        """A video: its ``num_frames`` (at least 1), average frame rate ``fps`` and ``times`` in seconds
        from the first frame (both ``None`` if unknown), and ``frames(indices)``.
        """
        raise NotImplementedError

    def num_frames(self, video: str) -> int:
        """The number of frames, at least 1.

        Raises:
            UserError: If the video is missing or damaged; the message names the file.
        """
        return self._open(video).num_frames

    def _frames(self, video: str, indices: Sequence[int]) -> Iterator[Tensor]:
        """Yields the frames ``[H, W, 3]`` of the given numbers, which increase."""
        return self._open(video).frames(indices)

    def frames_per_second(self, video: str) -> float | None:
        """The video's average frame rate, if it is known."""
        return self._open(video).fps

    def times(self, video: str) -> Times | None:
        """When the frames are shown, in seconds from the first, ``[num_frames]``, if it is known."""
        return self._open(video).times

    def span(self, video: str) -> tuple[float, float]:
        """Of a video file: when a player shows the first frame, and until when the last, in seconds."""
        return self._open(video).span

    def varying_times(self, video: str) -> Times | None:
        """:meth:`times` of a video whose frame rate varies, ``None`` for others."""
        times = self.times(video)
        return None if times is None else if_varying(times)

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

    def read(
        self, video: str, indices: Sequence[int] | Indices, short_side: int | None = None
    ) -> Tensor:
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
