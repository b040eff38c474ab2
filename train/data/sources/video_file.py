"""One video file: counting its frames, finding them, and showing them as a player does."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from PIL import Image
from torch import Tensor

from rstg_pyg.train.data.paths import beside
from rstg_pyg.train.data.sources.containers import FORMATS, key_test, missing_bytes
from rstg_pyg.train.data.sources.images import MOST_PIXELS, check_size, over_black
from rstg_pyg.train.data.transforms import resize
from rstg_pyg.train.errors import UserError

#: Codecs with one packet per frame and containers with true time stamps: these can be counted without
#: decoding, and sought in.
_CODECS = ("vp8", "vp9", "av1", "h264", "hevc", "mjpeg")
_CONTAINERS = ("matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2")
_STILL = ("mjpeg", "png", "bmp", "gif", "webp", "tiff")  # codecs of pictures

#: Seconds without a packet after which a file is given up: one may be all gap.
PATIENCE = 30.0
_CONTAINER_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
_CODEC_OPTIONS = {"max_pixels": str(MOST_PIXELS)}  # the size may also change later
_NEARLY_SQUARE = 0.01  # pixels that are wider than high by less are taken as square
_REMEDY = "download or copy it again"


def open_file(path: str | Path) -> VideoFile | AnimatedImage:
    """Opens a video file, whatever its name.

    Raises:
        UserError: If the file is missing, empty, truncated or not a video; it names file and reason.
    """
    path = Path(path)
    if not os.path.isfile(path):
        if os.path.exists(path) and not os.path.isdir(path):
            raise UserError(f"{path}: expected a file (a camera, a pipe or another device is not read)")
        raise UserError(f"{path}: the video is missing{beside(path.name, path.parent)}")
    try:
        size, missing = path.stat().st_size, missing_bytes(path)
        with open(path, "rb") as file:
            start = file.read(12)
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror or e})") from e
    if size == 0:
        raise UserError(f"{path}: the video is empty (0 bytes); download it again")
    if missing:
        raise UserError(
            f"{path}: the video is truncated, at least {missing:,} bytes are missing at its end; "
            f"download it again"
        )
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return AnimatedImage(path)
    return VideoFile(path, length_known=missing is not None)


class _CannotSeek(Exception):
    """A seek led to another frame than expected."""


class VideoFile:
    """A file that FFmpeg reads. Its frames are counted when it is opened, since webm does not say.

    Frames are those that a player shows: of a recording that begins between key frames those that can
    be decoded; turned and mirrored as the file says, in square pixels, and what is transparent over
    black. Memory does not grow with the video but for its table of time stamps. One decoder thread is
    used, because the loader has a process per core.

    Args:
        path: The file, see :func:`open_file`.
        length_known: Whether the file is known to be whole. Else one whose frames end long before its
            header says is taken for truncated.

    Attributes:
        num_frames (int): The number of frames.
        fps (float): The average frame rate, if it is known.
        times (NDArray): When the frames are shown, in seconds from the first one, evenly where there
            are no time stamps; ``None`` where there is no rate either.
        span (tuple): When a player shows the first frame, and until when the last one, in seconds: the
            sound may begin earlier.

    Raises:
        UserError: If it is truncated or not a video; it names file and reason.
    """

    def __init__(self, path: Path, length_known: bool = False):
        self.path = path
        self._keys: list[int] = []  # numbers of the frames that decoding can start from
        self._begins_between_keys = False
        self._kept: tuple[int, Any] = (0, None)  # by which process; what was opened to count
        with self._open(keep=True) as (container, stream):
            rate, unit = stream.average_rate, stream.time_base
            self.fps = float(rate) if rate else None
            begin = (container.start_time or 0) / av.time_base
            stamps, trusted, end = self._scan(container, stream, length_known)
        if not trusted:  # opened again, because seeking back needs time stamps
            with self._open() as (container, stream):
                stamps = [frame.pts for frame in self._decoded(container, stream)]
        self.num_frames = len(stamps)
        if self.num_frames == 0:
            raise UserError(f"{path}: the video has no frames; {_REMEDY}")
        known = None not in stamps and all(a < b for a, b in zip(stamps, stamps[1:]))
        self._stamps = stamps if known else []
        self.times = None
        if known:
            self.times = np.array([stamp - stamps[0] for stamp in stamps]) * float(unit)
        elif self.fps:
            self.times = np.arange(self.num_frames) / self.fps
        first = max(float(stamps[0] * unit) - begin, 0.0) if known else 0.0
        last = first + (1 / self.fps if self.fps else 0.0)
        last += 0.0 if self.times is None else float(self.times[-1])
        self.span = first, max(last, end - begin) if known else last

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_kept": (0, None)}

    @contextmanager
    def _open(self, keep: bool = False):
        """The container and its video stream. Errors of PyAV become a ``UserError``.

        Opening is costly, as FFmpeg decodes some frames. So what was opened to count is kept for the
        first reading, where that begins with a seek.
        """
        (process, container), self._kept = self._kept, (0, None)
        try:
            if process != os.getpid():  # another process would move the place in the file
                container = av.open(f"file:{self.path}", options=_CONTAINER_OPTIONS, timeout=PATIENCE)
            with ExitStack() as stack:
                stack.enter_context(container)
                stream = best_stream(self.path, container)
                codec = stream.codec_context
                check_size(self.path, codec.width, codec.height)
                codec.thread_count = 1
                codec.options = _CODEC_OPTIONS
                yield container, stream
                if keep and self._keys:
                    self._kept = os.getpid(), container
                    stack.pop_all()
        except (UserError, _CannotSeek, GeneratorExit):
            raise
        except Exception as e:  # PyAV raises nearly anything on damaged files
            reason = getattr(e, "strerror", None) or str(e) or type(e).__name__
            if isinstance(e, av.error.ExitError):
                reason = f"no packet in {PATIENCE:g} seconds of reading"
            remedy = _REMEDY
            if isinstance(e, av.error.DecoderNotFoundError):
                remedy = "convert it"
            raise UserError(f"{self.path}: the video cannot be decoded ({reason}); {remedy}") from e

    def _scan(
        self, container: av.container.InputContainer, stream: av.VideoStream, length_known: bool
    ) -> tuple[list[Any], bool, float]:
        """The frames' time stamps as the packets have them, whether they can be trusted, and when the
        last one ends, in seconds.
        """
        codec, is_key = stream.codec_context.codec.canonical_name, key_test(stream)
        stamps: list[Any] = []  # numbers, or None where a packet has none
        keys: list[Any] = []
        firsts: list[Any] = []  # the first packet's
        end = last = 0  # in time, and in the file
        honest = True  # whether decoding can start at what is marked as a key frame
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            if packet.is_corrupt and container.format.name != "mpegts":  # there, also where two join
                raise UserError(f"{self.path}: the video is damaged or truncated; {_REMEDY}")
            key, hidden = packet.is_keyframe, codec == "vp8" and not bytes(packet)[0] & 0x10
            if not firsts:
                firsts.append(packet.pts)
                self._begins_between_keys = not key
            if not packet.is_discard and not hidden:  # cut off by an edit list, or only for reference
                stamps.append(packet.pts)
                if key:
                    keys.append(packet.pts)
                end = max(end, (packet.pts or 0) + (packet.duration or 0))
                last = max(last, (packet.pos or 0) + packet.size)
            honest = honest and (not key or is_key(packet))
        told = (container.duration or 0) / av.time_base
        seconds = float(end * (stream.time_base or 0))
        read = container.format.name == _CONTAINERS[1] or last + 500 > 0.9 * container.size
        whole = length_known and read  # then the last frame is a long one
        if not whole and len(container.streams) == 1 and seconds + 0.5 < 0.9 * told:
            raise UserError(
                f"{self.path}: the video is truncated, {len(stamps)} frames end at {seconds:.1f} of "
                f"{told:.1f} seconds; {_REMEDY}"
            )
        others = {other.type for other in container.streams if other.index != stream.index}
        if len(stamps) == 1 and codec in _STILL and "audio" in others:
            raise UserError(f"{self.path}: the file has no video, only a cover picture")
        trusted = (
            honest
            and codec in _CODECS
            and container.format.name in _CONTAINERS
            and not self._begins_between_keys
            and None not in stamps
            and len(set(stamps)) == len(stamps)
            and all(firsts[0] <= stamp for stamp in stamps)  # pictures before it need what is not there
        )
        if trusted:
            stamps.sort()
            self._keys = [bisect_left(stamps, key) for key in sorted(keys)]
        return stamps, trusted, seconds

    def _decoded(
        self,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        wanted: set[int] | None = None,
    ) -> Iterator[av.VideoFrame]:
        """Decodes on from where the container is, if time stamps are given only these and what they
        need. Damage is an error, but not before the first key frame of a recording that begins earlier.
        """
        strict, codec = not self._begins_between_keys, stream.codec_context
        # Other codecs' frames without references may have some in a higher temporal layer (HEVC).
        h264 = codec.codec.canonical_name == "h264"
        for packet in container.demux(stream):
            if h264 and wanted is not None:
                codec.skip_frame = "DEFAULT" if packet.pts in wanted or not packet.size else "NONREF"
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                if strict:
                    raise
                continue
            for frame in frames:
                strict = strict or frame.key_frame
                if strict and frame.is_corrupt:
                    raise UserError(f"{self.path}: the video is damaged; {_REMEDY}")
                yield frame

    def frames(self, indices: Sequence[int] | None = None) -> Iterator[Tensor]:
        """Yields frames ``[H, W, 3]`` uint8 of the given numbers, which increase (by default all).

        Frames between two wanted ones are skipped, by seeking where a key frame allows it, and in H.264
        those that no other frame needs. Where that turns out not to work everything is decoded from the
        start, from then on.
        """
        indices = range(self.num_frames) if indices is None else indices
        reformatter, done = VideoReformatter(), 0  # one for all frames: it is costly to set up
        while done < len(indices):
            try:
                for frame, stream in self._find(indices[done:]):
                    yield as_shown(self.path, frame, stream, reformatter)
                    done += 1
            except _CannotSeek:
                self._keys = []

    def _find(self, indices: Sequence[int]) -> Iterator[tuple[av.VideoFrame, av.VideoStream]]:
        """The frames of the given numbers, with the stream they are of."""
        with self._open() as (container, stream):
            wanted = {self._stamps[index] for index in indices} if self._keys else None
            frames, at = self._from(container, stream, 0, wanted), -1  # at: the last frame's number
            for index in indices:
                before = bisect_right(self._keys, index)  # keys; none where an edit list cut them off
                key = self._keys[before - 1] if before else 0
                if key > at + 1:
                    frames = self._from(container, stream, key, wanted)
                while at != index:
                    at, frame = next(frames)
                yield frame, stream

    def _from(
        self,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        number: int,
        wanted: set[int] | None,
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decodes on from a key frame, or with ``wanted=None`` all from the start: numbers and frames,
        at least those of the wanted time stamps.
        """
        at, stamps = number, self._stamps
        try:
            if wanted is not None:
                container.seek(stamps[number], stream=stream)
            for frame in self._decoded(container, stream, wanted):
                if wanted is not None:
                    if at == number and frame.pts is not None and frame.pts < stamps[at]:
                        continue  # a seek may end too early
                    while at < len(stamps) and stamps[at] != frame.pts and stamps[at] not in wanted:
                        at += 1
                if stamps and (at >= len(stamps) or frame.pts != stamps[at]):
                    break
                yield at, frame
                at += 1
        except (UserError, av.error.FFmpegError) as e:
            if wanted is not None:
                raise _CannotSeek from e
            raise
        if wanted is not None:
            raise _CannotSeek
        raise UserError(
            f"{self.path}: frame {at} of {self.num_frames} cannot be decoded, the video is damaged; "
            f"{_REMEDY}"
        )


def best_stream(where: str | Path, container: av.container.InputContainer) -> av.VideoStream:
    """FFmpeg's choice, but not a still picture if there is a video."""
    best, streams = container.streams.best("video"), container.streams.video
    if best is None:
        raise UserError(f"{where}: the file has no video stream")
    attached = av.stream.Disposition.attached_pic
    videos = [stream for stream in streams if not stream.disposition & attached]
    if not videos:
        raise UserError(f"{where}: the file has no video, only a cover picture")
    moving = [s for s in videos if s.codec_context.codec.canonical_name not in _STILL] or videos
    return next((stream for stream in moving if stream.index == best.index), moving[0])


def as_shown(
    where: str | Path, frame: av.VideoFrame, stream: av.VideoStream, reformatter: VideoReformatter
) -> Tensor:
    """A frame's pixels as a player shows them, ``[H, W, 3]`` uint8."""
    if frame.format.has_palette or any(part.is_alpha for part in frame.format.components):
        pixels = reformatter.reformat(frame, format="rgba", threads=1).to_ndarray()
        opacity = pixels[..., 3:].astype(np.uint16)
        pixels = ((pixels[..., :3] * opacity + 127) // 255).astype(np.uint8)
    else:
        pixels = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    shown = torch.from_numpy(pixels)
    height, width = pixels.shape[:2]
    aspect = float(stream.sample_aspect_ratio or 1)
    if abs(aspect - 1) > _NEARLY_SQUARE and aspect > 0:  # nothing is made smaller
        height, width = round(height / min(aspect, 1)), round(width * max(aspect, 1))
        check_size(where, width, height)
        shown = resize(shown[None], height, width)[0]
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    return shown if matrix is None else _oriented(shown, np.frombuffer(bytes(matrix), np.int32))


def _oriented(pixels: Tensor, matrix: np.ndarray) -> Tensor:
    """Pixels ``[H, W, 3]`` turned and mirrored by a display matrix, to the nearest quarter turn.

    The matrix takes a place ``(x, y)`` to ``(a x + c y, b x + d y)``; it is stored by rows, ``a b u``,
    ``c d v``, ``x y w``.
    """
    a, b, _, c, d = matrix[:5].astype(int).tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels, a, d = pixels.transpose(0, 1), c, b  # now a is what moves along x
    axes = [axis for axis, sign in ((1, a), (0, d)) if sign < 0]
    return pixels.flip(axes).contiguous() if axes else pixels.contiguous()


class AnimatedImage:
    """An animated WebP (or a still one, of one frame), which Pillow decodes.

    Args:
        path: The file, see :func:`open_file`.

    Attributes:
        num_frames, fps, times, span: As those of :class:`VideoFile`.

    Raises:
        UserError: If it is damaged; it names file and reason.
    """

    def __init__(self, path: Path):
        self.path = path
        durations = [duration for _, duration in self._images()]
        self.num_frames = len(durations)
        known = self.num_frames == 1 or any(durations)
        self.times = np.cumsum([0, *durations[:-1]]) / 1000 if known else None
        self.fps = 1000 * self.num_frames / sum(durations) if sum(durations) else None
        self.span = 0.0, sum(durations) / 1000

    def frames(self, indices: Sequence[int] | None = None) -> Iterator[Tensor]:
        """Yields frames ``[H, W, 3]`` uint8 of the given numbers, which increase (by default all)."""
        wanted = set(range(self.num_frames) if indices is None else indices)
        for number, (image, _) in enumerate(self._images()):
            if number in wanted:
                yield torch.from_numpy(np.array(over_black(image)))

    def _images(self) -> Iterator[tuple[Image.Image, int]]:
        """The images with their durations in milliseconds."""
        try:
            with Image.open(self.path, formats=["WEBP"]) as image:
                check_size(self.path, *image.size)
                for number in range(getattr(image, "n_frames", 1)):
                    image.seek(number)
                    image.load()
                    yield image, int(image.info.get("duration", 0))
        except (UserError, GeneratorExit):
            raise
        except Exception as e:  # Pillow's readers raise nearly anything on damaged data
            raise UserError(f"{self.path}: the video cannot be decoded ({e}); {_REMEDY}") from e
