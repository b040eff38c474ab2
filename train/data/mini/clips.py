"""The clips of *mini-something*: textured objects move, meet, hide and appear in front of a textured
background, seen by a shaking, noisy camera; what happens is in
:data:`~rstg_pyg.train.data.mini.scenes.EVENTS`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rstg_pyg.train.data.mini.scenes import (
    EVENTS,
    Array,
    Body,
    Draws,
    Event,
    Stage,
    interpolate,
    smooth_noise,
)
from rstg_pyg.train.errors import UserError

SPLITS = ("train", "validation", "test")

#: Changes whenever the same parameters give other clips.
VERSION = 1


@dataclass(frozen=True)
class MiniSomething:
    """The clips, rendered one by one: item ``i`` of a split is the same clip alone or in a set.

    Args:
        size: Side of the frames, in pixels.
        num_frames: Frames :math:`T` of a clip.
        seed: Random seed.
        shake: Largest displacement of the camera, in sides of the frame.
        noise: Largest noise of a pixel, in gray levels 0..255; its standard deviation is 0.4 of it.
        distractors: Largest number of small objects that lie about.

    Raises:
        UserError: If a number is out of range.
    """

    size: int = 64
    num_frames: int = 12
    seed: int = 0
    shake: float = 0.03
    noise: float = 12.0
    distractors: int = 1

    def __post_init__(self):
        for name, low, high in (
            ("size", 16, 4096),
            ("num_frames", 2, 10_000),
            ("seed", 0, math.inf),
            ("shake", 0, 0.2),
            ("noise", 0, 255),
            ("distractors", 0, 100),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"mini-something: expected {name} from {low} to {high} (got {value})")

    def label(self, item: int) -> str:
        """The class of item ``i`` of any split: the classes take turns."""
        return list(EVENTS)[item % len(EVENTS)]

    def render(self, split: str, item: int, label: str | None = None) -> NDArray[np.uint8]:
        """One clip.

        Args:
            split: One of ``SPLITS``.
            item: Which one.
            label: Its class, if not ``self.label(item)``. The two classes of a reversible pair then
                give the same frames in opposite order.

        Returns:
            Frames ``[T, H, W, 3]``.
        """
        event = EVENTS[label or self.label(item)]
        stage, bodies, camera = self._scene(event, split, item)
        draws = stage.draws
        frames = self._background(draws, stage.colors[0], camera)
        for body in bodies:
            _paint(frames, body, camera)
        frames *= draws.array(0.85, 1.1, 1)
        if self.noise:
            size = (2, self.num_frames, self.size, self.size, 1)
            bits = np.frombuffer(draws.generator.bytes(int(np.prod(size))), np.uint8).reshape(size)
            grain = bits[0].astype(np.float32) + bits[1] - 255  # a triangle of width 510
            frames += grain * np.float32(self.noise / 255)
        clip = np.rint(np.clip(frames, 0, 255)).astype(np.uint8)
        return clip[::-1] if event.reverse else clip

    def boxes(self, split: str, item: int) -> Array:
        """Where the objects of a clip are, nearest first: corners ``(x0, y0, x1, y1)`` in sides of the
        frame, ``[T, N, 4]``. What :meth:`render` draws may be hidden, or outside of the frame.
        """
        event = EVENTS[self.label(item)]
        _, bodies, camera = self._scene(event, split, item)
        found = []
        for body in reversed(bodies):
            stretch = np.sqrt(np.float32(body.aspect))
            axis = np.abs(body.axis)
            half = body.radius[:, None] * (axis * stretch + axis[:, ::-1] / stretch)
            found.append(np.concatenate([body.center - camera - half, body.center - camera + half], 1))
        boxes = np.stack(found, axis=1)
        return boxes[::-1] if event.reverse else boxes

    def _scene(self, event: Event, split: str, item: int) -> tuple[Stage, list[Body], Array]:
        """What is drawn, back to front, and the camera's way."""
        draws = Draws(self.seed, SPLITS.index(split), item)
        stage = Stage(draws, self.num_frames)
        bodies = event.scene(stage)
        lying = [_lying(stage) for _ in range(draws.choose(range(self.distractors + 1)))]
        return stage, lying + bodies, self._camera(draws)

    def _camera(self, draws: Draws) -> Array:
        """The shake: a slow sway and a little tremble, ``[T, 2]``, in sides of the frame."""
        x = np.arange(self.num_frames, dtype=np.float32) * np.float32(2.99 / (self.num_frames - 1))
        sway = interpolate(draws.array(-0.7, 0.7, 4, 2), x)
        return (sway + draws.array(-0.3, 0.3, self.num_frames, 2)) * np.float32(self.shake)

    def _background(self, draws: Draws, color: Array, camera: Array) -> Array:
        """A wall and perhaps a table, both blotchy, as the camera sees them, ``[T, H, W, 3]``."""
        margin = int(self.shake * self.size) + 2
        side = self.size + 2 * margin
        light = smooth_noise(draws, 4, side) * 22 + smooth_noise(draws, 12, side) * 14
        if draws.choose((False, True)):
            horizon = draws.uniform(0.3, 0.8) * side
            below = np.clip(np.arange(side, dtype=np.float32) - np.float32(horizon), 0, 1)
            light += below[:, None] * draws.array(-40, 40, 1)
        tint = draws.array(0.7, 1.3, 3)
        canvas = color + light[..., None] * tint
        offset = camera * self.size + margin
        corner = np.floor(offset).astype(np.intp)
        right, down = (offset - corner).T[..., None, None, None]
        side = self.size + 1
        view = np.stack([canvas[y : y + side, x : x + side] for x, y in corner])  # [T, H + 1, W + 1, 3]
        view = view[:, :-1] + (view[:, 1:] - view[:, :-1]) * down  # bilinear: first along y, then x
        return view[:, :, :-1] + (view[:, :, 1:] - view[:, :, :-1]) * right


def _lying(stage: Stage) -> Body:
    """A small object that lies in a corner of the view."""
    place = 0.5 + np.float32([stage.draws.sign(), stage.draws.sign()]) * stage.draws.array(0.3, 0.45, 2)
    return stage.body(place, stage.draws.uniform(0.04, 0.06))


def _paint(frames: Array, body: Body, camera: Array) -> None:
    """Draws an object over the frames ``[T, H, W, 3]``, with soft edges."""
    size, texels = frames.shape[1], len(body.texture)
    pixel = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / size
    x, y = (pixel - (body.center - camera)[:, i, None] for i in range(2))  # [T, W], [T, H]
    stretch = np.sqrt(np.float32(body.aspect))
    along, across = (body.axis / body.radius[:, None]).T[..., None]
    u = ((x * along)[:, None, :] + (y * across)[:, :, None]) / stretch
    v = ((y * along)[:, :, None] - (x * across)[:, None, :]) * stretch
    t, i, j = np.nonzero(np.maximum(np.abs(u), np.abs(v)) < 1.5)
    u, v = u[t, i, j], v[t, i, j]
    edge = (1 - outline(body.shape, u, v)) * (body.radius * size)[t] + np.float32(0.5)
    column, row = (np.clip((w / 2 + 0.5) * texels, 0, texels - 1).astype(np.intp) for w in (u, v))
    under = frames[t, i, j]
    frames[t, i, j] = under + (body.texture[row, column] - under) * np.clip(edge, 0, 1)[:, None]


def outline(shape: str, u: Array, v: Array) -> Array:
    """Less than 1 inside a shape, 1 on its edge, and then growing by about 1 per radius."""
    if shape == "disc":
        return np.sqrt(u * u + v * v)
    if shape == "squircle":
        return np.sqrt(np.sqrt(u * u * u * u + v * v * v * v))
    u, v = np.abs(u), v if shape == "triangle" else np.abs(v)
    if shape == "square":
        return np.maximum(u, v) / np.float32(0.85)
    if shape == "hexagon":
        return np.maximum(v, u * np.float32(0.866) + v / 2) / np.float32(0.9)
    if shape == "triangle":
        return np.maximum(-v, u * np.float32(0.866) + v / 2) / np.float32(0.62)
    bar = np.minimum(np.maximum(u, v * np.float32(2.2)), np.maximum(v, u * np.float32(2.2)))
    return bar / np.float32(0.95)  # a cross
