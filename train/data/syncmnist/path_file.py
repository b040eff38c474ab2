"""The authors' test videos: arrays with the digits' paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rstg_pyg.train.errors import UserError

_ARRAYS = {"coords_digits": 5, "ind_digits": 3, "set_digits": 3, "sincron_prob": 2}  # dimensions


class Paths(NamedTuple):
    """Digits and their paths in ``N`` videos, the pair first.

    Attributes:
        corners: Row and column of the digits' top-left pixels on the canvas, ``[N, T, D, 2]``.
        images: The digits' images: places in MNIST's file of test images, ``[N, D]``.
        others: Classes of the digits but the first one, ``[N, D - 1]``.
        synchronous: Whether the pair moves alike, ``[N]``.
    """

    corners: Tensor
    images: Tensor
    others: Tensor
    synchronous: Tensor


def as_paths(content: Mapping[str, Any], path: str) -> Paths:
    """The arrays of ``predefined_path_test.pickle`` of the published repository, checked.

    Args:
        content: The arrays by name.
        path: The file, for messages.

    Raises:
        UserError: If an array is missing or does not belong to the others.
    """
    for name, dims in _ARRAYS.items():
        array: Any = content.get(name)
        shape: Any = getattr(array, "shape", ())
        if len(shape) != dims or shape[0] != 1 or array.dtype.kind not in "biu":
            found = list(shape) or ("nothing" if array is None else type(array).__name__)
            raise UserError(
                f"data.paths: {path}: expected {name}, integers of {dims} dimensions, first of size 1 "
                f"(got {found})"
            )
    corners, index, others, flags = (
        torch.from_numpy(content[name][0].astype(np.int64)) for name in _ARRAYS
    )
    videos, digits = index.shape
    shapes = [(*corners.shape[:1], *corners.shape[2:]), tuple(others.shape), tuple(flags.shape)]
    if shapes != [(videos, digits, 2), (videos, digits - 1), (videos,)] or videos == 0:
        raise UserError(
            f"data.paths: {path}: its arrays do not belong together: {digits} digits in {videos} "
            f"videos, but coords_digits is {list(corners.shape)}, set_digits {list(others.shape)} and "
            f"sincron_prob {list(flags.shape)}"
        )
    return Paths(corners, index, others, flags > 0)


def check_paths(paths: Paths, dataset: Any) -> None:
    """Raises an error if paths are of other videos than a :class:`SyncMNIST` data set makes.

    Raises:
        UserError: If they are; the message names the setting.
    """
    _, frames, digits, _ = paths.corners.shape
    wanted = {"num_digits": digits, "num_frames": frames, "num_classes": 10}
    for name, value in wanted.items():
        if getattr(dataset, name) != value:
            raise UserError(
                f"data.paths: its videos have data.{name}={value} (got {getattr(dataset, name)})"
            )
    if not 0 <= int(paths.corners.min()) <= int(paths.corners.max()) <= dataset.last_corner:
        raise UserError(
            f"data.paths: its digits are at 0 to {int(paths.corners.max())}, outside the canvas (0 to "
            f"{dataset.last_corner}); it belongs to another data.canvas_size or data.digit_size"
        )
    labels = dataset.image_classes
    if int(paths.images.max()) >= len(labels) or not torch.equal(
        labels[paths.images[:, 1:]], paths.others
    ):
        raise UserError(
            f"data.paths: it names other digits than {dataset.digits.detail}; it needs MNIST's test "
            f"images in their order (data.digits=mnist)"
        )
