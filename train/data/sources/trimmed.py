"""Parts of videos: ``match.mp4#t=12.5,17`` is what ``match.mp4`` shows from 12.5 to 17 seconds (the
notation of W3C's Media Fragments).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from rstg_pyg.train.data.sources.base import FrameSource, Times
from rstg_pyg.train.data.video_lists import split_range
from rstg_pyg.train.errors import UserError

_ROUNDING = 1e-6  # seconds
_SLACK = 1.0  # seconds by which a part may end after its video: ends are often rounded up


class TrimmedVideos(FrameSource):
    """Parts of the videos of another source, and whole ones.

    Args:
        source: Where the videos are.
    """

    def __init__(self, source: FrameSource):
        self.source, self.kind, self.detail = source, source.kind, source.detail

    def location(self, video: str) -> Path:
        """The file or folder that holds the video, or the one that the part is of."""
        return self.source.location(split_range(video)[0])

    def missing(self, videos: list[str]) -> list[str]:
        """Those of the given videos that are not there."""
        names = {video: split_range(video)[0] for video in videos}
        gone = set(self.source.missing(list(names.values())))
        return [video for video in videos if names[video] in gone]

    def num_frames(self, video: str) -> int:
        """The number of frames, at least 1.

        Raises:
            UserError: If the video is missing or damaged, or too short for the part.
        """
        first, last = self._range(video)
        return last - first

    def frames_per_second(self, video: str) -> float | None:
        """The video's average frame rate, if it is known."""
        return self.source.frames_per_second(split_range(video)[0])

    def times(self, video: str) -> Times | None:
        """When the frames are shown, in seconds from the part's first, if it is known."""
        times, (first, last) = self.source.times(split_range(video)[0]), self._range(video)
        return None if times is None else times[first:last] - times[first]

    def _frames(self, video: str, indices: Sequence[int]) -> Iterator[Tensor]:
        first, _ = self._range(video)
        return self.source._frames(split_range(video)[0], [first + index for index in indices])

    def _range(self, video: str) -> tuple[int, int]:
        """The part's first frame, and the one after its last."""
        name, start, end = split_range(video)
        if name == video:  # whole
            return 0, self.source.num_frames(name)
        times, where = self.source.times(name), self.location(video)
        if times is None:
            raise UserError(
                f"{where}: expected a video that says when its frames are shown, to take the part "
                f"{video!r} (folders of frames do not); extract the parts, or give the video file"
            )
        begin, length = self.source.span(name)
        times = times + begin
        if start >= length or (end is not None and end > length + _SLACK):
            raise UserError(f"{where}: has {length:.2f} seconds, too few for {video!r}")
        last = len(times) if end is None else int(np.searchsorted(times, end - _ROUNDING))
        first = min(int(np.searchsorted(times, start - _ROUNDING)), len(times) - 1)
        if first >= last:  # shorter than a frame: the one that is shown
            first = max(int(np.searchsorted(times, start + _ROUNDING, side="right")) - 1, 0)
        return first, max(first + 1, last)
