"""Boxes of a detector, one file per video, which follow the crops and flips of clips."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rstg_pyg.train.data.sampling import Indices
from rstg_pyg.train.data.sources.places import without_suffix
from rstg_pyg.train.data.transforms import Window
from rstg_pyg.train.errors import UserError, some


class BoxedClip(NamedTuple):
    """A clip, or a batch of them, with boxes.

    Attributes:
        clip (Tensor): Pixels ``[..., 3, T, H, W]`` uint8.
        boxes (Tensor): Corners ``(x0, y0, x1, y1)`` in 0..1 of the clip's sides, ``[..., T, N, 4]``;
            zeros where a frame has fewer than N.
    """

    clip: Tensor
    boxes: Tensor


class Boxes:
    """Reads the boxes of videos from ``FOLDER/VIDEO.npz`` or ``FOLDER/VIDEO.json``.

    Both hold ``boxes``, the corners ``(x0, y0, x1, y1)`` of every box of every frame, best ones first,
    and ``size``, height and width of the frames in which they were found; without it the corners are
    fractions of the sides. In the ``.npz`` file ``boxes`` is an array ``[F, N, 4]``, in which boxes
    without an area (or NaN) are none; in the ``.json`` file it is a list of lists of four numbers, one
    for each frame. A file of fewer frames than the video (a detector that saw every tenth, say) counts
    as evenly spread. A part of a video (``match.mp4#t=1,2``) has a file of its own
    (``match.mp4#t=1,2.npz``).

    Args:
        folder: The folder.
        count: Boxes per frame: the first ones are taken, and missing ones are zeros.
        videos: The videos that must be there.

    Raises:
        UserError: If files are missing.
    """

    def __init__(self, folder: str | Path, count: int, videos: Sequence[str]):
        self.folder, self.count = Path(folder), count
        missing = [str(self.folder / f"{v}.npz") for v in videos if self._file(v) is None]
        if missing:
            raise UserError(
                f"data.boxes: {len(videos) - len(missing):,} of the {len(videos):,} videos have boxes "
                f"(missing are {some(missing)}, or .json)"
            )

    def _file(self, video: str) -> Path | None:
        """Without or with the extension of a video file."""
        names = (video, without_suffix(video))
        paths = [self.folder / f"{name}{end}" for name in names for end in (".npz", ".json")]
        return next((path for path in paths if path.is_file()), None)

    def read(self, video: str, indices: Indices, length: int) -> Tensor:
        """The boxes of some frames.

        Args:
            video: The video.
            indices: The frames' numbers, ``[T]``.
            length: Frames of the video.

        Returns:
            ``[T, N, 4]``, in 0..1 of the frame's sides.

        Raises:
            UserError: If the file is damaged.
        """
        path = self._file(video) or self.folder / f"{video}.npz"
        try:
            if path.suffix == ".json":
                held = json.loads(path.read_text(encoding="utf-8"))
                frames = [np.array(frame, np.float32).reshape(-1, 4) for frame in held["boxes"]]
            else:
                with np.load(path, allow_pickle=False) as file:
                    held = {name: file[name] for name in file.files}
                frames = list(held["boxes"].astype(np.float32))
            if not frames or any(frame.ndim != 2 or frame.shape[1] != 4 for frame in frames):
                raise ValueError("expected boxes of one frame or more, [F, N, 4]")
            height, width = map(float, held.get("size", (1, 1)))
            if not (height > 0 and width > 0):
                raise ValueError("expected size to be the frames' height and width")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as e:
            raise UserError(f"{path}: cannot be read as boxes ({e or type(e).__name__})") from e
        out = np.zeros((len(indices), self.count, 4), np.float32)
        for row, frame in zip(out, (frames[i * len(frames) // length] for i in indices)):
            row[: len(frame)] = frame[: self.count]
        return torch.from_numpy(out / np.array([width, height, width, height], np.float32))


def in_window(boxes: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """Boxes in 0..1 of a window's sides; what is outside of it is cut off, and zero if nothing is left.

    Args:
        boxes: In 0..1 of the frame's sides, ``[..., 4]``.
        window: The window of the frame, in pixels.
        size: The frame's height and width.
    """
    top, left, height, width = window
    factor = boxes.new_tensor([size[1], size[0]] * 2)
    moved = (boxes * factor - boxes.new_tensor([left, top] * 2)) / boxes.new_tensor([width, height] * 2)
    moved = moved.nan_to_num(0.0).clamp(0, 1)
    there = (moved[..., 2:] > moved[..., :2]).all(-1, keepdim=True)
    return torch.where(there, moved, 0)


def flip(boxes: Tensor) -> Tensor:
    """Mirrors left and right; what is not there stays zero."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    there = (x1 > x0)[..., None]
    return torch.where(there, torch.stack([1 - x1, y0, 1 - x0, y1], dim=-1), 0)
