"""Evaluation protocols: which clips of a video are looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rstg_pyg.train.data.boxes import BoxedClip, Boxes, in_window
from rstg_pyg.train.data.sampling import test_indices
from rstg_pyg.train.data.sources import FrameSource
from rstg_pyg.train.data.transforms import Window, center_window, crop, spread_windows


@dataclass(frozen=True)
class Protocol:
    """Which clips of a video are evaluated; the logits of all of them are averaged.

    Attributes:
        name: The protocol's name.
        spatial: Crops per frame: the center, or so many from one end of the frame to the other.
        temporal: Samplings in time, 1 or 2.
        whole: Crops as large as the short side, instead of the training crop.
    """

    name: str
    spatial: int
    temporal: int
    whole: bool

    @property
    def num_clips(self) -> int:
        """Clips per video."""
        return self.spatial * self.temporal

    def describe(self) -> str:
        """The protocol's numbers, for people."""
        clips = "clip" if self.num_clips == 1 else "clips"
        return (
            f"{self.name}: {self.spatial} spatial x {self.temporal} temporal = {self.num_clips} {clips}"
        )


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("center1", 1, 1, whole=False),
        Protocol("dense11x2", 11, 2, whole=True),
        Protocol("full3x2", 3, 2, whole=True),
    )
}


def read_clips(
    source: FrameSource,
    video: str,
    protocol: Protocol,
    num_frames: int,
    short_side: int,
    size: int,
    sampling: str,
    stride: int = 1,
    boxes: Boxes | None = None,
) -> Any:
    """Reads a video's clips, all crops of the first sampling in time before those of the second.

    Args:
        source: Where frames come from.
        video: The video's id.
        protocol: Which clips.
        num_frames: Frames :math:`T` of a clip.
        short_side: Short side that frames are resized to.
        size: Side of the crops.
        sampling: ``"uniform"``, ``"segments"`` or ``"dense"``.
        stride: From one frame of ``"dense"`` to the next.
        boxes: Where boxes come from. (default: none)

    Returns:
        ``[L, 3, T, size, size]`` uint8; with boxes, a :class:`BoxedClip` of them and
        ``[L, T, N, 4]``.

    Raises:
        UserError: If the video is missing or damaged.
    """
    length = source.num_frames(video)
    times = source.varying_times(video)
    places = test_indices(length, num_frames, sampling, protocol.temporal, times, stride)
    frames = source.read(video, np.concatenate(places), short_side)  # [temporal * T, H, W, 3]
    clips = crop_clips(frames, protocol, num_frames, size)
    if boxes is None:
        return clips
    height, width = frames.shape[1:3]
    parts = [boxes.read(video, indices, length) for indices in places]
    windows = crop_windows(protocol, height, width, size)
    found = [in_window(part, window, (height, width)) for part in parts for window in windows]
    return BoxedClip(clips, torch.stack(found))


def crop_clips(frames: Tensor, protocol: Protocol, num_frames: int, size: int) -> Tensor:
    """The clips ``[L, 3, T, size, size]`` of frames ``[temporal * T, H, W, 3]``."""
    windows = crop_windows(protocol, frames.size(1), frames.size(2), size)
    clips = [crop(part, *window) for part in frames.split(num_frames) for window in windows]
    return torch.stack([clip.permute(3, 0, 1, 2) for clip in clips])


def crop_windows(protocol: Protocol, height: int, width: int, size: int) -> list[Window]:
    """The crops of each sampling in time."""
    if protocol.spatial == 1:
        return [center_window(height, width, size)]
    return spread_windows(height, width, size, protocol.spatial)
