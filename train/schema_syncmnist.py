"""The section ``data`` of a config for SyncMNIST."""

from __future__ import annotations

from typing import Literal

from rstg_pyg.train.schema_model import (
    Few,
    FewOrNone,
    Fraction,
    Frames,
    Many,
    Number,
    Pixels,
    Place,
    Positive,
    PositiveInt,
    Section,
    Seed,
)


class SyncMNISTConfig(Section):
    """Generated videos of digits; see :class:`rstg_pyg.train.data.syncmnist.SyncMNIST`."""

    dataset: Literal["syncmnist"] = "syncmnist"
    #: The folder with MNIST's four IDX files.
    root: Place | None = None
    #: MNIST, scikit-learn's digits, or (auto) MNIST if it is found or can be downloaded.
    digits: Literal["auto", "mnist", "builtin"] = "auto"
    #: Seed of the generated videos.
    seed: Seed = 0
    #: Digits in a video, all of different classes.
    num_digits: PositiveInt = 5
    #: Fraction of the training videos, those that come first, in which only three of the digits are
    #: visible: the pair and another one (a curriculum).
    curriculum: Fraction = 0.0
    #: Number of digit classes; the digits 0 to num_classes - 1 are used.
    num_classes: PositiveInt = 10
    num_frames: Frames = 10
    #: Side of a clip, in pixels: the canvas is resized to it.
    frame_size: Pixels = 64
    #: Side of the canvas on which the digits move, in pixels.
    canvas_size: Pixels = 100
    #: Side of a digit on the canvas, in pixels.
    digit_size: Few = 28
    #: Longest step of a digit from frame to frame along an axis, in pixels of the canvas.
    max_step: PositiveInt = 10
    #: Fraction of videos in which no two digits move together; null: as published, 1 / (2 pairs + 2).
    none_probability: Fraction | None = None
    train_videos: Many = 600_000
    val_videos: Many = 2_000
    test_videos: Many = 10_000
    #: Test on the digits and paths of this file instead (the authors' predefined_path_test.pickle).
    paths: Place | None = None
    #: Mean and standard deviation of the pixels, 0..255: clips become (x - mean) / std.
    mean: Number = 0.0
    std: Positive = 1.0
    #: 0: complete batches on the model's device; otherwise the number of DataLoader workers.
    num_workers: FewOrNone = 0

    @property
    def channels(self) -> int:
        """Channels of a clip: gray."""
        return 1

    @property
    def size(self) -> int:
        """Side of a clip, in pixels."""
        return self.frame_size

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """Channels, frames, rows and columns of a clip."""
        return self.channels, self.num_frames, self.size, self.size
