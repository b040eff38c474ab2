"""Overlapping windows of a long video, or of a camera: which frames make the clips of each."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import av
import numpy as np
import torch
from av.format import Flags
from av.video.reformatter import VideoReformatter
from torch import Tensor

from rstg_pyg.train.data.sampling import Indices, Times
from rstg_pyg.train.data.sources import FrameSource
from rstg_pyg.train.data.sources.base import if_varying
from rstg_pyg.train.data.sources.video_file import as_shown, best_stream
from rstg_pyg.train.data.transforms import resize_short_side
from rstg_pyg.train.errors import UserError

#: Chooses the frames of all clips of a window from their number, and times where their rate varies.
Sample = Callable[[int, "Times | None"], Indices]
#: Start and end in seconds, and the frames ``[L * T, H, W, 3]``.
Part = tuple[float, float, Tensor]

_PATIENCE = 20.0  # seconds without a frame
_PROTOCOLS = "http,https,httpproxy,tls,tcp,udp,rtp,rtsp,rtsps,srtp,rtmp,rtmps,hls,crypto"


def is_live(name: Any) -> bool:
    """Whether a name is an address (``rtsp://...``) or a camera (``camera:0``), not a file."""
    return isinstance(name, str) and ("://" in name or name.startswith("camera:"))


def plan(times: Times, seconds: float, step: float) -> list[tuple[float, float]]:
    """Start and end of the windows of a video; the last one ends with it, and a short one has one.

    Args:
        times: When the frames are shown.
        seconds: Length of a window.
        step: From one start to the next.
    """
    rest = times[-1] / max(len(times) - 1, 1)  # how long the last frame is shown
    length = float(times[-1] + rest)
    if length <= seconds:
        return [(0.0, length)]
    starts = np.arange(0, length - seconds + 1e-6, step).tolist()
    if starts[-1] + seconds < length - 1e-6:
        starts.append(length - seconds)
    return [(start, start + seconds) for start in starts]


def windows_of_file(
    source: FrameSource, video: str, sample: Sample, short_side: int, seconds: float, step: float
) -> Iterator[Part]:
    """The windows of a video, whose frames are decoded once, in order.

    Raises:
        UserError: If the video cannot be read, or has no time stamps.
    """
    times, varying = source.times(video), source.varying_times(video) is not None
    if times is None:
        raise UserError(
            f"{source.location(video)}: expected a video with a frame rate, to cut it into windows of "
            f"{seconds:g} seconds (a folder of frames has none); give a video file"
        )
    parts = []
    for start, end in plan(times, seconds, step):
        first, last = np.searchsorted(times, [start - 1e-6, end - 1e-6]).tolist()
        if len(times) == 1:
            last = 1  # nobody knows how long it is shown
        if last > first:  # else a gap between two frames
            own = times[first:last] - times[first] if varying else None
            parts.append((start, end, first + sample(last - first, own)))
    wanted = sorted({index for *_, indices in parts for index in indices.tolist()})
    stream = zip(wanted, source.frames(video, wanted, short_side))
    frames: dict[int, Tensor] = {}
    # Where the frame rate varies, a later window may begin with an earlier frame.
    first_needed = np.minimum.accumulate([indices.min() for *_, indices in parts[::-1]])[::-1]
    for (start, end, indices), oldest in zip(parts, first_needed):
        frames = {index: frame for index, frame in frames.items() if index >= oldest}
        while indices.max() not in frames:
            index, frame = next(stream)
            frames[index] = frame
        yield start, end, torch.stack([frames[index] for index in indices.tolist()])


def windows_of_stream(
    name: str, sample: Sample, short_side: int, seconds: float, step: float
) -> Iterator[Part]:
    """The windows of a camera or an address, each as soon as its last frame is there.

    Raises:
        UserError: If it cannot be opened, or sends nothing.
    """
    frames: list[tuple[float, Tensor]] = []
    start = done = now = 0.0  # of the next window, the end of the one before, and the last frame
    count = 0
    for now, frame in _live_frames(name):
        count += 1
        while now >= start + seconds - 1e-6:
            if not frames or frames[-1][0] < start - 1e-6:  # a gap
                start = now
                break
            done = start + seconds
            yield start, done, _chosen(frames, start, sample)
            # The last window of all may begin between this one and the next.
            frames = [(t, kept) for t, kept in frames if t >= start - 1e-6]
            start += step
        frame = resize_short_side(frame[None], short_side)[0]
        if frames and frame.shape != frames[-1][1].shape:
            (a, b), (c, d) = frames[-1][1].shape[:2], frame.shape[:2]
            raise UserError(
                f"{name}: expected frames of one shape (resized to short side {short_side} they had "
                f"{b} x {a} pixels, and {d} x {c} after {now:.1f} s); start again"
            )
        frames.append((now, frame))
    length = now + now / max(count - 1, 1)
    if length > done + 1e-6 and frames:
        start = max(length - seconds, 0.0)
        yield start, length, _chosen(frames, start, sample)


def _chosen(frames: list[tuple[float, Tensor]], start: float, sample: Sample) -> Tensor:
    """The frames of the clips of a window that begins at a time and ends with the last frame."""
    inside = [(t, frame) for t, frame in frames if t >= start - 1e-6]
    times = if_varying(np.array([t - inside[0][0] for t, _ in inside]))
    return torch.stack([inside[index][1] for index in sample(len(inside), times).tolist()])


def _live_frames(name: str) -> Iterator[tuple[float, Tensor]]:
    """Seconds since the first frame, and frames ``[H, W, 3]``."""
    first, now, step = None, 0.0, 0.0
    try:
        with _open(name) as container:
            stream = best_stream(name, container)
            reformatter = VideoReformatter()
            # FFmpeg makes up 25 frames a second where a stream says no times, as IP cameras' JPEGs.
            timed = Flags.no_timestamps not in Flags(stream.container.format.flags)
            for frame in container.decode(stream):
                stamp = frame.time if timed and frame.time is not None else time.monotonic()
                if first is None:
                    first = stamp
                elif stamp - first < now:  # the times begin anew, as at an advertisement
                    first = stamp - now - step
                step, now = stamp - first - now, stamp - first
                yield now, as_shown(name, frame, stream, reformatter)
    except (OSError, av.error.FFmpegError, ValueError) as e:
        reason = getattr(e, "strerror", None) or str(e) or type(e).__name__
        if isinstance(e, av.error.ExitError):
            reason = f"nothing came for {_PATIENCE:g} seconds"
        what = f"there is no such camera ({reason}); cameras are numbered from 0"
        if first is not None:
            what = f"ended after {now:.1f} s ({reason}); start again"
        elif "://" in name:
            what = f"cannot be read ({reason}); check the address"
        raise UserError(f"{name}: {what}") from e


def _open(name: str) -> Any:
    if "://" in name:
        return av.open(name, timeout=_PATIENCE, options={"protocol_whitelist": _PROTOCOLS})
    device = name.removeprefix("camera:")
    if sys.platform == "darwin":
        return av.open(device, format="avfoundation", timeout=_PATIENCE)
    if sys.platform == "win32":  # by its name
        return av.open(f"video={device}", format="dshow", timeout=_PATIENCE)
    return av.open(f"/dev/video{device}", format="v4l2", timeout=_PATIENCE)
