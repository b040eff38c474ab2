"""Evaluation protocols: which clips of a video are looked at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rstg_pyg.train.data.sampling import test_indices
from rstg_pyg.train.data.sources import FrameSource
from rstg_pyg.train.data.transforms import center_crop, spread_crops


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
) -> Tensor:
    """Reads a video's clips, all crops of the first sampling in time before those of the second.

    Args:
        source: Where frames come from.
        video: The video's id.
        protocol: Which clips.
        num_frames: Frames :math:`T` of a clip.
        short_side: Short side that frames are resized to.
        size: Side of the crops.
        sampling: ``"uniform"``, ``"segments"`` or ``"dense"``, the last one with this
        stride: from one frame to the next.

    Returns:
        ``[L, 3, T, size, size]`` uint8.

    Raises:
        UserError: If the video is missing or damaged.
    """
    length = source.num_frames(video)
    times = source.varying_times(video)
    places = test_indices(length, num_frames, sampling, protocol.temporal, times, stride)
    frames = source.read(video, np.concatenate(places), short_side)  # [temporal * T, H, W, 3]
    return crop_clips(frames, protocol, num_frames, size)


def crop_clips(frames: Tensor, protocol: Protocol, num_frames: int, size: int) -> Tensor:
    """The clips ``[L, 3, T, size, size]`` of frames ``[temporal * T, H, W, 3]``."""
    clips = []
    for part in frames.split(num_frames):
        if protocol.spatial == 1:
            clips.append(center_crop(part, size))
        else:
            clips += spread_crops(part, size, protocol.spatial)
    return torch.stack([clip.permute(3, 0, 1, 2) for clip in clips])
