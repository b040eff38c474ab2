"""Videos as files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
from torch import Tensor

from rstg_pyg.train.data.sources.base import FrameSource, Times
from rstg_pyg.train.data.sources.places import Place, find_place, is_video_name, names_of_videos
from rstg_pyg.train.data.sources.video_file import AnimatedImage, VideoFile, open_file


class VideoFiles(FrameSource):
    """Videos as files, of one format or of several.

    Args:
        place: Where the files are.
    """

    kind = "video"

    def __init__(self, place: Place):
        self.place = place
        suffixes = Counter(path.suffix for path in place.paths.values())
        self.suffix = max(suffixes, key=suffixes.__getitem__, default="")  # a missing one's
        kinds = ", ".join(sorted({suffix[1:].lower() for suffix in suffixes if suffix}))
        self.detail = f"{kinds} files in {place.folder}, PyAV {av.__version__}"
        self._last: VideoFile | AnimatedImage | None = None  # counting comes right before reading

    @classmethod
    def find(cls, root: Path, videos: Sequence[str]) -> VideoFiles | None:
        """The files of the videos below ``root``, if there are any."""
        place = find_place(root, videos, names_of_videos)
        return None if place is None else cls(place)

    def location(self, video: str) -> Path:
        """The video's file."""
        path = self.place.path(video)
        if video in self.place.paths or is_video_name(video):
            return path
        return path.with_name(path.name + self.suffix)

    def missing(self, videos: list[str]) -> list[str]:
        """The videos without a file."""
        return [video for video in videos if video not in self.place.paths]

    def num_frames(self, video: str) -> int:
        """The number of frames, counted."""
        return self._file(video).num_frames

    def frames_per_second(self, video: str) -> float | None:
        """The average rate."""
        return self._file(video).fps

    def times(self, video: str) -> Times | None:
        """The frames' time stamps, from the first one's."""
        return self._file(video).times

    def _frames(self, video: str, indices: Sequence[int]) -> Iterator[Tensor]:
        return self._file(video).frames(indices)

    def _file(self, video: str) -> VideoFile | AnimatedImage:
        path = self.location(video)
        if self._last is None or self._last.path != path:
            self._last = open_file(path)
        return self._last
