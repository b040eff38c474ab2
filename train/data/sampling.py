"""Which frames of a video make a clip: pure functions from its length to frame numbers.

A video with fewer frames than the clip repeats some; every function returns ``num_frames`` numbers that
do not decrease, from ``0`` to ``length - 1``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAMPLINGS = ("uniform", "segments")

Indices = NDArray[np.int64]


def uniform(length: int, num_frames: int) -> Indices:
    """The published sampling: evenly spaced from the first frame to the last, truncated; ``[T]``."""
    return np.linspace(0, length - 1, num_frames).astype(np.int64)


def uniform_shifted(length: int, num_frames: int) -> Indices:
    """The published dense protocol's second sampling: :func:`uniform` half a step later; ``[T]``."""
    start = round(0.5 * length / num_frames)
    shifted = np.linspace(start, length - 1 + start, num_frames).astype(np.int64)
    return shifted.clip(0, length - 1)


def segments(length: int, num_frames: int, offset: float | Indices) -> Indices:
    """One frame of each of ``num_frames`` equal segments; ``[T]``.

    Args:
        length: Frames of the video.
        num_frames: Number of segments :math:`T`.
        offset: Where in its segment, from 0 (first frame) to below 1: one number, or one per segment.
    """
    place = (np.arange(num_frames) + offset) * (length / num_frames)
    return place.astype(np.int64).clip(0, length - 1)


def train_indices(
    length: int, num_frames: int, sampling: str, generator: np.random.Generator
) -> Indices:
    """The frames of a training clip, ``[T]``.

    Args:
        length: Frames of the video.
        num_frames: Frames :math:`T` of the clip.
        sampling: ``"uniform"`` (as published, nothing random) or ``"segments"`` (as in TSN and TSM: a
            random frame of every segment).
        generator: Source of random numbers.
    """
    if sampling == "uniform":
        return uniform(length, num_frames)
    return segments(length, num_frames, generator.random(num_frames))


def test_indices(length: int, num_frames: int, sampling: str, count: int = 1) -> list[Indices]:
    """The frames of one or two test clips, each ``[T]``.

    ``"uniform"``: the published sampling, then the one half a step later. ``"segments"``: the centers
    of the segments, then their first frames (TSM's "twice sample").
    """
    if sampling == "uniform":
        clips = [uniform(length, num_frames), uniform_shifted(length, num_frames)]
    else:
        clips = [segments(length, num_frames, 0.5), segments(length, num_frames, 0.0)]
    return clips[:count]


test_indices.__test__ = False  # not a test, whatever pytest thinks of the name
