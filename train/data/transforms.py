"""Transforms of clips ``[T, H, W, 3]`` uint8. Every frame of a clip is treated alike."""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

#: Top, left, height and width in pixels.
Window = tuple[int, int, int, int]

#: Sides of the crop relative to the frame's short side (TSM's multi-scale crop).
SCALES = (1.0, 0.875, 0.75, 0.66)


def resize(frames: Tensor, height: int, width: int) -> Tensor:
    """Resizes with antialiased bicubic interpolation, ``[T, H, W, 3] -> [T, height, width, 3]``."""
    if frames.shape[1:3] == (height, width):
        return frames
    channels_last = frames.permute(0, 3, 1, 2)  # the layout for which uint8 has a fast path
    resized = torch.nn.functional.interpolate(
        channels_last, (height, width), mode="bicubic", antialias=True, align_corners=False
    )
    return resized.permute(0, 2, 3, 1)


def short_side_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width with the given short side; the other one is truncated, as published."""
    if height <= width:
        return short_side, width * short_side // height
    return height * short_side // width, short_side


def resize_short_side(frames: Tensor, short_side: int) -> Tensor:
    """Resizes so that the short side is ``short_side``, ``[T, H, W, 3] -> [T, H', W', 3]``."""
    return resize(frames, *short_side_size(frames.shape[1], frames.shape[2], short_side))


def crop(frames: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Cuts a window out of all frames, ``[T, H, W, 3] -> [T, height, width, 3]``."""
    return frames[:, top : top + height, left : left + width]


def center_window(height: int, width: int, size: int) -> Window:
    """The middle ``size x size`` pixels, from ``H // 2 - size // 2`` as published."""
    return height // 2 - size // 2, width // 2 - size // 2, size, size


def center_crop(frames: Tensor, size: int) -> Tensor:
    """The pixels of :func:`center_window`."""
    return crop(frames, *center_window(frames.size(1), frames.size(2), size))


def random_window(height: int, width: int, size: int, generator: np.random.Generator) -> Window:
    """``size x size`` pixels anywhere."""
    top = int(generator.integers(height - size + 1))
    left = int(generator.integers(width - size + 1))
    return top, left, size, size


def multi_scale_window(height: int, width: int, size: int, generator: np.random.Generator) -> Window:
    """TSM's crop: a window of a random scale and a slightly random shape, at one of 13 places, to be
    resized to ``size x size``.
    """
    sides = [int(min(height, width) * scale) for scale in SCALES]
    sides = [size if abs(side - size) < 3 else side for side in sides]
    shapes = [(a, b) for i, a in enumerate(sides) for j, b in enumerate(sides) if abs(i - j) <= 1]
    h, w = shapes[generator.integers(len(shapes))]
    dy, dx = (height - h) // 4, (width - w) // 4
    places = [(y, x) for y in (0, 2, 4) for x in (0, 2, 4)] + [(1, 1), (1, 3), (3, 1), (3, 3)]
    y, x = places[generator.integers(len(places))]
    return y * dy, x * dx, h, w


def spread_windows(height: int, width: int, size: int, count: int) -> list[Window]:
    """``count`` windows of ``size x size`` from one end of the frame to the other.

    Crop ``k`` lies at ``int(linspace(0, H - size, count))[k]`` and likewise across, as the published
    dense protocol has it (11 crops); with 3 they are the ends and the middle.
    """
    tops = np.linspace(0, height - size, count).astype(int)
    lefts = np.linspace(0, width - size, count).astype(int)
    return [(int(y), int(x), size, size) for y, x in zip(tops, lefts)]


def shift_brightness(frames: Tensor, most: float, generator: np.random.Generator) -> Tensor:
    """Adds one number, uniform in ``[-most, most)`` of full brightness, to all pixels of the clip.

    Rounded as published: ``floor(255.5 (x / 255 + delta))``, clipped to 0..255.
    """
    delta = generator.uniform(-most, most)
    values = torch.arange(256, dtype=torch.float64)
    table = (255.5 * (values / 255 + delta)).floor().clamp(0, 255).to(torch.uint8)
    # The standard library's table look-up takes a third of the time of NumPy's and PyTorch's.
    shifted = bytearray(frames.numpy().tobytes()).translate(bytes(table.tolist()))
    return torch.frombuffer(shifted, dtype=torch.uint8).view(frames.shape)


class Augment:
    """RandAugment and color jitter of torchvision, the same for all frames of a clip.

    Args:
        color_jitter: Largest relative change of brightness, contrast and saturation.
        rand_augment: Magnitude of RandAugment's two operations; 0: none.
    """

    def __init__(self, color_jitter: float, rand_augment: int):
        self.color_jitter, self.rand_augment = color_jitter, rand_augment
        self.steps: list[torch.nn.Module] = []
        if rand_augment:
            self.steps.append(v2.RandAugment(num_ops=2, magnitude=rand_augment))
        if color_jitter:
            self.steps.append(v2.ColorJitter(color_jitter, color_jitter, color_jitter))

    def __call__(self, frames: Tensor, generator: np.random.Generator) -> Tensor:
        """A clip ``[T, H, W, 3]`` uint8, changed."""
        if not self.steps:
            return frames
        clip = tv_tensors.Video(frames.permute(0, 3, 1, 2))
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's generator
            torch.manual_seed(int(generator.integers(2**63)))
            for step in self.steps:
                clip = step(clip)
        return clip.as_subclass(Tensor).permute(0, 2, 3, 1)

    def __str__(self) -> str:
        text = f", color jitter {self.color_jitter:g}" if self.color_jitter else ""
        return text + (f", RandAugment {self.rand_augment}" if self.rand_augment else "")


def flip(frames: Tensor) -> Tensor:
    """Mirrors left and right."""
    return frames.flip(2)


def mirrored_classes(classes: list[str]) -> list[int | None]:
    """The class of a mirrored clip, for every class: the template with left and right exchanged.

    ``None`` where that template is not a class: such a clip must not be mirrored. "Right out" and the
    like are no directions, unless there is the class with the opposite.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    exchanged = [_SIDE.sub(_opposite, name) for name in classes]
    return [
        numbers.get(other if other in numbers else _DIRECTION.sub(_opposite, name))
        for name, other in zip(classes, exchanged)
    ]


_OPPOSITE = {"left": "right", "right": "left"}
#: As a word, between underscores, or in camel case.
_WORD = (
    r"(?:(?<![A-Za-z])(?:left|right|Left|Right|LEFT|RIGHT)|(?<=[a-z])(?:Left|Right))"
    r"(?![a-z])(?!(?<=[A-Z])[A-Z])"
)
_SIDE = re.compile(_WORD)
_DIRECTION = re.compile(
    _WORD + r"(?![ _](?:out|away|off|up|down|over|through|into|in|at|after|before|now)(?![A-Za-z]))"
)


def _opposite(match: re.Match) -> str:
    word = _OPPOSITE[match[0].lower()]
    if match[0].isupper():
        return word.upper()
    return word.capitalize() if match[0][0].isupper() else word
