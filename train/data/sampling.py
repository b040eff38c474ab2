"""Which frames of a video make a clip: pure functions from its length to frame numbers.

Every function returns ``num_frames`` numbers from ``0`` to ``length - 1`` that do not decrease; a video
with fewer frames than the clip repeats some. For a video whose frame rate varies, ``times`` are the
seconds at which its frames are shown: the clip then has the frames that are seen when a constant rate
would show the chosen ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAMPLINGS = ("uniform", "segments", "dense")

Indices = NDArray[np.int64]
Times = NDArray[np.float64]


def uniform(length: int, num_frames: int, times: Times | None = None) -> Indices:
    """The published sampling: evenly spaced from the first frame to the last, truncated; ``[T]``."""
    return _frames(np.linspace(0, length - 1, num_frames), length, times)


def uniform_shifted(length: int, num_frames: int, times: Times | None = None) -> Indices:
    """The published dense protocol's second sampling: :func:`uniform` half a step later; ``[T]``."""
    start = round(0.5 * length / num_frames)
    return _frames(np.linspace(start, length - 1 + start, num_frames), length, times)


def segments(
    length: int, num_frames: int, offset: float | Times, times: Times | None = None
) -> Indices:
    """One frame of each of ``num_frames`` equal segments; ``[T]``.

    Args:
        length: Frames of the video.
        num_frames: Number of segments :math:`T`.
        offset: Where in its segment, from 0 (first frame) to below 1: one number, or one per segment.
        times: When the frames are shown.
    """
    return _frames((np.arange(num_frames) + offset) * (length / num_frames), length, times)


def dense(
    length: int, num_frames: int, stride: int, offset: float, times: Times | None = None
) -> Indices:
    """Frames that are ``stride`` apart; all of the video, evenly, if it is too short for that; ``[T]``.

    Args:
        length: Frames of the video.
        num_frames: Frames :math:`T` of the clip.
        stride: From one frame to the next.
        offset: Where the clip begins, from 0 (with the video) to 1 (so that it ends with it).
        times: When the frames are shown.
    """
    span = min(stride * (num_frames - 1), length - 1)
    first = int(offset * (length - 1 - span) + 0.5)
    return _frames(np.linspace(first, first + span, num_frames), length, times)


def _frames(places: NDArray[np.floating], length: int, times: Times | None) -> Indices:
    """The frames at places from 0 to ``length - 1``."""
    if times is None or length == 1:
        return places.astype(np.int64).clip(0, length - 1)
    wanted = places * (times[-1] / (length - 1)) + 1e-6  # equal but for rounding is equal
    return (np.searchsorted(times, wanted, side="right") - 1).clip(0, length - 1)


def train_indices(
    length: int,
    num_frames: int,
    sampling: str,
    generator: np.random.Generator,
    times: Times | None = None,
    stride: int = 1,
) -> Indices:
    """The frames of a training clip, ``[T]``.

    Args:
        length: Frames of the video.
        num_frames: Frames :math:`T` of the clip.
        sampling: ``"uniform"`` (as published, nothing random), ``"segments"`` (as in TSN and TSM: a
            random frame of every segment) or ``"dense"`` (:func:`dense` from a random frame on).
        generator: Source of random numbers.
        times: When the frames are shown.
        stride: Of ``"dense"``.
    """
    if sampling == "uniform":
        return uniform(length, num_frames, times)
    if sampling == "dense":
        return dense(length, num_frames, stride, generator.random(), times)
    return segments(length, num_frames, generator.random(num_frames), times)


def test_indices(
    length: int,
    num_frames: int,
    sampling: str,
    count: int = 1,
    times: Times | None = None,
    stride: int = 1,
) -> list[Indices]:
    """The frames of one or two test clips, each ``[T]``.

    ``"uniform"``: the published sampling, then the one half a step later. ``"segments"``: the centers
    of the segments, then their first frames (TSM's "twice sample"). ``"dense"``: the middle of the
    video, or a quarter and three quarters of the way.
    """
    if sampling == "dense":
        places = [(i + 0.5) / count for i in range(count)]
        return [dense(length, num_frames, stride, place, times) for place in places]
    if sampling == "uniform":
        clips = [uniform(length, num_frames, times), uniform_shifted(length, num_frames, times)]
    else:
        clips = [segments(length, num_frames, offset, times) for offset in (0.5, 0.0)]
    return clips[:count]


setattr(test_indices, "__test__", False)  # noqa: B010  (not a test, whatever pytest thinks)
