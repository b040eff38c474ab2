"""Videos as files, decoded by PyAV."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from rstg_pyg.train.data.paths import beside, missing_names
from rstg_pyg.train.data.sources.base import FrameSource
from rstg_pyg.train.data.sources.containers import FORMATS, missing_bytes
from rstg_pyg.train.data.sources.images import MOST_PIXELS
from rstg_pyg.train.errors import UserError

SUFFIXES = (".webm", ".mp4", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".gif")

#: Codecs with one packet per frame and containers with true time stamps: these can be counted without
#: decoding, and sought in.
_CODECS = ("vp8", "vp9", "av1", "h264", "hevc", "mjpeg", "gif")
_CONTAINERS = ("matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "gif")


#: Seconds without a packet after which a file is given up: one may be all gap.
PATIENCE = 30.0
_CONTAINER_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
_CODEC_OPTIONS = {"max_pixels": str(MOST_PIXELS)}  # the size may also change later


class VideoFile:
    """One video file. Its frames are counted once, when it is opened, since webm does not say.

    Memory does not grow with the video but for its table of time stamps. One decoder thread is used,
    because the loader has a process per core.

    Args:
        path: The file.

    Raises:
        UserError: If the file is missing, empty, truncated or not a video; it names file and reason.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not os.path.isfile(self.path):
            near = beside(self.path.name, self.path.parent)
            raise UserError(f"{self.path}: the video is missing{near}")
        try:
            size, missing = self.path.stat().st_size, missing_bytes(self.path)
        except OSError as e:
            raise UserError(f"{self.path}: cannot be read ({e.strerror or e})") from e
        if size == 0:
            raise UserError(f"{self.path}: the video is empty (0 bytes); download it again")
        if missing:
            raise UserError(
                f"{self.path}: the video is truncated, at least {missing:,} bytes are missing at its "
                f"end; download it again"
            )
        self._times: list[int] = []  # of all frames, in order
        self._keys: list[int] = []  # numbers of the frames that decoding can start from
        with self._open() as (container, stream):
            rate = stream.average_rate
            self.fps = float(rate) if rate else None
            self.num_frames = self._scan(container, stream)
        if self.num_frames == 0:  # opened again, because seeking back needs time stamps
            with self._open() as (container, stream):
                self.num_frames = sum(1 for _ in container.decode(stream))
        if self.num_frames == 0:
            raise UserError(f"{self.path}: the video has no frames; download it again")

    @contextmanager
    def _open(self):
        """The container and its video stream; what goes wrong with them becomes a ``UserError``."""
        try:
            with av.open(str(self.path), options=_CONTAINER_OPTIONS, timeout=PATIENCE) as container:
                if not container.streams.video:
                    raise UserError(f"{self.path}: the file has no video stream")
                stream = container.streams.video[0]
                codec = stream.codec_context
                if codec.width * codec.height > MOST_PIXELS:
                    raise UserError(
                        f"{self.path}: expected frames of at most {MOST_PIXELS:,} pixels (it says that "
                        f"they have {codec.width} x {codec.height})"
                    )
                codec.thread_count = 1
                codec.options = _CODEC_OPTIONS
                yield container, stream
        except (UserError, GeneratorExit):
            raise
        except Exception as e:  # PyAV raises nearly anything on damaged files
            reason = getattr(e, "strerror", None) or str(e) or type(e).__name__
            if isinstance(e, av.error.ExitError):
                reason = f"no packet in {PATIENCE:g} seconds of reading"
            raise UserError(
                f"{self.path}: the video cannot be decoded ({reason}); download it again"
            ) from e

    def _scan(self, container: av.container.InputContainer, stream: av.VideoStream) -> int:
        """Fills the tables from the packets and returns the number of frames; 0 if they do not tell."""
        name, times, keys = stream.codec_context.name, [], []
        end = 0
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:
                continue
            if packet.is_corrupt:
                raise UserError(f"{self.path}: the video is damaged or truncated; download it again")
            if name == "vp8" and not bytes(packet)[0] & 0x10:
                continue  # an invisible reference frame
            times.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
            end = max(end, (packet.pts or 0) + (packet.duration or 0))
        self._check_length(container, float(end * stream.time_base), len(times))
        tells = name.removeprefix("lib") in _CODECS and container.format.name in _CONTAINERS
        if not tells or None in times or len(set(times)) != len(times):
            return 0
        self._times = sorted(times)
        self._keys = sorted(bisect_left(self._times, time) for time in keys)
        return len(times)

    def _check_length(self, container: av.container.InputContainer, end: float, count: int) -> None:
        """A download that broke off has the length in its header and less behind it."""
        told = (container.duration or 0) / av.time_base
        if len(container.streams) == 1 and end + 0.5 < 0.9 * told:
            raise UserError(
                f"{self.path}: the video is truncated, {count} frames end at {end:.1f} of "
                f"{told:.1f} seconds; download it again"
            )

    def frames(self, indices: Sequence[int] | None = None) -> Iterator[Tensor]:
        """Yields frames ``[H, W, 3]`` uint8 of the given numbers, which increase (by default all).

        Frames between two wanted ones are skipped by seeking where a key frame allows it.
        """
        indices = range(self.num_frames) if indices is None else indices
        reformatter = VideoReformatter()  # one for all frames: it is costly to set up
        with self._open() as (container, stream):
            decoded, at = container.decode(stream), -1  # at: the number of the last decoded frame
            for index in indices:
                key = self._keys[bisect_right(self._keys, index) - 1] if self._keys else 0
                if key > at + 1:
                    container.seek(self._times[key], stream=stream)
                    decoded, at = container.decode(stream), -1
                frame = None
                while at < index and (frame := next(decoded, None)) is not None:
                    at = bisect_left(self._times, frame.pts) if self._times else at + 1
                if frame is None or at != index or frame.is_corrupt:
                    raise UserError(
                        f"{self.path}: frame {index} of {self.num_frames} cannot be decoded, the video "
                        f"is damaged; download it again"
                    )
                rgb = reformatter.reformat(frame, format="rgb24", threads=1)
                yield _upright(rgb.to_ndarray(), frame)


def _upright(pixels: np.ndarray, frame: av.VideoFrame) -> Tensor:
    """The frame's pixels as the camera was held, ``[H, W, 3]`` uint8."""
    if frame.rotation:
        pixels = np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90))
    return torch.from_numpy(pixels)


class VideoFiles(FrameSource):
    """Videos as files in one folder.

    Args:
        folder: The folder.
        suffix: The suffix of the files, such as ``".webm"``.
    """

    kind = "video"

    def __init__(self, folder: Path, suffix: str):
        self.folder = folder
        self.suffix = suffix
        self.detail = f"{suffix[1:]} files in {folder}, PyAV {av.__version__}"
        self._last: VideoFile | None = None  # counting comes right before reading

    @classmethod
    def find(cls, folder: Path, samples: Sequence[str]) -> VideoFiles | None:
        """The files of the sample videos, if ``folder`` has them."""
        for suffix in SUFFIXES:
            if any(os.path.isfile(folder / f"{video}{suffix}") for video in samples):
                return cls(folder, suffix)
        return None

    def location(self, video: str) -> Path:
        """The video's file."""
        return self.folder / f"{video}{self.suffix}"

    def missing(self, videos: list[str]) -> list[str]:
        """The videos without a file."""
        return missing_names(self.folder, videos, self.suffix)

    def num_frames(self, video: str) -> int:
        """The number of frames, counted."""
        return self._file(video).num_frames

    def frames_per_second(self, video: str) -> float | None:
        """The average rate."""
        return self._file(video).fps

    def _frames(self, video: str, indices: Sequence[int]) -> Iterator[Tensor]:
        return self._file(video).frames(indices)

    def _file(self, video: str) -> VideoFile:
        path = self.location(video)
        if self._last is None or self._last.path != path:
            self._last = VideoFile(path)
        return self._last
