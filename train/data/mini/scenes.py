"""The scenes of *mini-something*: who moves where, and what it looks like.

Most events come in pairs that are one scene played forwards and backwards: their clips have the same
frames in opposite order, and nothing but the order tells them apart.

Only operations that every machine rounds alike are used on the way to a pixel (arithmetic and square
roots, element by element; no sine, exponential or matrix product), so a clip is the same everywhere.

Positions and lengths are in sides of the frame: x to the right and y down, from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Item = TypeVar("Item")

_SOLID = ("disc", "square", "hexagon", "squircle")
_SHAPES = (*_SOLID, "triangle", "cross")


class Draws:
    """The random numbers of one clip.

    Args:
        key: Numbers that name the clip; nearby keys give independent streams.
    """

    def __init__(self, *key: int):
        self.generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))

    def uniform(self, low: float, high: float) -> float:
        """A number from ``low`` to ``high``."""
        return low + (high - low) * float(self.generator.random())

    def array(self, low: float, high: float, *shape: int) -> Array:
        """Numbers from ``low`` to ``high``."""
        return np.float32(low) + np.float32(high - low) * self.generator.random(shape, np.float32)

    def choose(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[int(self.generator.integers(len(items)))]

    def sign(self) -> float:
        """-1 or 1."""
        return self.choose((-1.0, 1.0))

    def direction(self) -> Array:
        """A unit vector of any direction, ``[2]``."""
        while True:
            vector = self.array(-1, 1, 2)
            square = vector[:1] * vector[:1] + vector[1:] * vector[1:]
            if 0.01 < square[0] < 1:
                return vector / np.sqrt(square)


@dataclass
class Body:
    """A textured object and its path.

    Attributes:
        shape: A name of ``outline``.
        center: Positions, ``[T, 2]``.
        radius: Half the extent, ``[T]``.
        axis: Where the object's own x axis points, ``[T, 2]``.
        aspect: Length along its axis over that across it.
        texture: Colors 0..255 over the square that holds it, ``[K, K, 3]``.
    """

    shape: str
    center: Array
    radius: Array
    axis: Array
    aspect: float
    texture: Array


class Stage:
    """What a scene is made with: the random numbers, the clock, and colors that stand out.

    Args:
        draws: The clip's random numbers.
        num_frames: Frames :math:`T`.
    """

    def __init__(self, draws: Draws, num_frames: int):
        self.draws = draws
        self.clock = np.arange(num_frames, dtype=np.float32) / np.float32(num_frames - 1)
        self.colors = [draws.array(50, 200, 3)]  # the background's is the first

    def ramp(self, low: float, high: float) -> Array:
        """From 0 to 1 within a random share ``low..high`` of the clip, evenly, ``[T]``."""
        length = self.draws.uniform(low, high)
        start = self.draws.uniform(0, 1 - length)
        return np.clip((self.clock - np.float32(start)) / np.float32(length), 0, 1)

    def progress(self, low: float = 0.55, high: float = 0.85) -> Array:
        """From 0 to 1 like ``ramp``, gently at both ends, ``[T]``."""
        return smoothstep(self.ramp(low, high))

    def spot(self, low: float = 0.46, high: float = 0.54) -> Array:
        """A place near the middle, ``[2]``."""
        return self.draws.array(low, high, 2)

    def body(
        self,
        center: Array,
        radius: float | Array,
        shapes: tuple[str, ...] = _SHAPES,
        axis: Array | None = None,
        aspect: float | None = None,
    ) -> Body:
        """An object of a random shape and look that goes along ``center`` (``[T, 2]`` or ``[2]``)."""
        draws, ones = self.draws, np.ones_like(self.clock)
        if axis is None:
            t = draws.array(-0.8, 0.8, 1) + draws.array(-0.15, 0.15, 1) * self.clock
            # Twice the angle whose tangent is t: the object turns a little, without a sine.
            axis = np.stack([1 - t * t, 2 * t], axis=1) / (1 + t * t)[:, None]
        return Body(
            shape=draws.choose(shapes),
            center=center * ones[:, None],
            radius=radius * ones,
            axis=axis * ones[:, None],
            aspect=draws.uniform(0.85, 1.18) if aspect is None else aspect,
            texture=texture(draws, self.color()),
        )

    def color(self) -> Array:
        """A color unlike those given before, ``[3]``."""
        for _ in range(100):
            color = self.draws.array(10, 245, 3)
            if all(np.abs(color - other).sum() > 190 for other in self.colors):
                break
        self.colors.append(color)
        return color


def texture(draws: Draws, color: Array, texels: int = 64) -> Array:
    """A pattern of ``color`` and a lighter or darker one, ``[K, K, 3]``, 0..255."""
    grid = np.arange(texels, dtype=np.float32) / texels
    waves = draws.array(1.5, 4, 2)[:, None] * grid + draws.array(0, 1, 2)[:, None]
    x, y = np.abs(waves - np.floor(waves) - 0.5) * 4 - 1  # triangle waves, -1..1
    kind = draws.choose(("plain", "stripes", "checks", "dots", "blotches"))
    if kind == "plain":
        share = np.zeros((texels, texels), np.float32)
    elif kind == "stripes":
        share = np.broadcast_to(x * 2, (texels, texels))
    elif kind == "checks":
        share = x * y[:, None] * 4
    elif kind == "dots":
        share = (x * x + (y * y)[:, None] - np.float32(0.8)) * 2
    else:
        share = smooth_noise(draws, 5, texels) * 3
    share = np.clip(share * np.float32(0.5) + np.float32(0.5), 0, 1)[..., None]
    other = color + (draws.choose((0, 255)) - color) * draws.array(0.3, 0.6, 1)
    light = 1 + draws.array(-0.25, 0.25, 1) * (grid - np.float32(0.5))
    return (color + (other - color) * share) * light[:, None, None]


def smooth_noise(draws: Draws, cells: int, size: int) -> Array:
    """Random values at ``cells`` x ``cells`` places and smoothly between, -1..1, ``[size, size]``."""
    x = np.arange(size, dtype=np.float32) * np.float32((cells - 1) / size)
    rows = interpolate(draws.array(-1, 1, cells, cells), x)
    return interpolate(rows.T, x).T


def interpolate(knots: Array, x: Array) -> Array:
    """The rows of ``knots [K, C]`` and smoothly between, at places ``x`` from 0 to below K - 1."""
    left = x.astype(np.intp)
    s = smoothstep(x - left)[:, None]
    return knots[left] * (1 - s) + knots[left + 1] * s


def smoothstep(s: Array) -> Array:
    """From 0 to 1 like ``s``, gently at both ends."""
    return s * s * (3 - 2 * s)


def path(start: Array, end: Array, s: Array) -> Array:
    """From ``start`` to ``end`` (``[2]`` each) as ``s`` goes from 0 to 1, ``[T, 2]``."""
    return start + (end - start) * s[:, None]


def _shift(stage: Stage, start: tuple[float, float], end: tuple[float, float]) -> list[Body]:
    """One object goes along a line, up or across."""
    draws, jitter = stage.draws, stage.draws.array(-0.06, 0.06, 2, 2)
    aside = draws.uniform(-0.2, 0.2) * np.float32([start[0] == end[0], start[1] == end[1]])
    start, end = np.float32(start) + aside + jitter[0], np.float32(end) + aside + jitter[1]
    return [stage.body(path(start, end, stage.progress()), draws.uniform(0.12, 0.19))]


def _grow(stage: Stage) -> list[Body]:
    """One object comes toward the camera."""
    s, draws = stage.progress(), stage.draws
    far, near = np.float32([draws.uniform(0.08, 0.12), draws.uniform(0.3, 0.38)])
    return [stage.body(path(stage.spot(0.35, 0.65), stage.spot(), s), far + (near - far) * s)]


def _join_one(stage: Stage) -> list[Body]:
    """One object goes next to another one at rest."""
    draws, u = stage.draws, stage.draws.direction()
    moving, resting = draws.uniform(0.1, 0.15), draws.uniform(0.1, 0.15)
    place = stage.spot() - draws.uniform(0.22, 0.28) * u
    start = place + draws.uniform(0.56, 0.64) * u
    end = place + (moving + resting + draws.uniform(0.03, 0.06)) * u
    return [stage.body(place, resting), stage.body(path(start, end, stage.progress()), moving)]


def _join_both(stage: Stage) -> list[Body]:
    """Two objects go next to each other."""
    draws, u, s = stage.draws, stage.draws.direction(), stage.progress()
    middle, far, gap = stage.spot(), draws.uniform(0.34, 0.4) * u, draws.uniform(0.015, 0.03)
    one, two = draws.uniform(0.1, 0.15), draws.uniform(0.1, 0.15)
    return [
        stage.body(path(middle - far, middle - (one + gap) * u, s), one),
        stage.body(path(middle + far, middle + (two + gap) * u, s), two),
    ]


def _meet(stage: Stage, collide: bool) -> list[Body]:
    """Two objects come from opposite sides; they bounce off each other or go past each other."""
    draws, u = stage.draws, stage.draws.direction()
    one, two = draws.uniform(0.11, 0.15), draws.uniform(0.11, 0.15)
    contact, far = (one + two) / 2, draws.uniform(0.36, 0.4)
    along = 1 - 2 * stage.ramp(0.8, 0.95)  # 1 to -1
    if collide:
        along, offset = contact + (far - contact) * np.abs(along), 0.1 * contact
    else:
        along, offset = far * along, draws.uniform(0.5, 0.8) * contact
    line = along[:, None] * u + draws.sign() * offset * np.float32([-u[1], u[0]])
    middle = stage.spot()
    return [stage.body(middle - line, one), stage.body(middle + line, two)]


def _cover(stage: Stage, in_front: bool) -> list[Body]:
    """A large object goes in front of a small one, or a small one behind a large one."""
    draws, u = stage.draws, stage.draws.direction()
    large, small = draws.uniform(0.18, 0.23), draws.uniform(0.09, 0.12)
    place = stage.spot() - draws.uniform(0.18, 0.22) * u
    track = path(place + draws.uniform(0.5, 0.58) * u, place, stage.progress())
    back, front = (place, track) if in_front else (track, place)
    return [stage.body(back, small), stage.body(front, large, _SOLID)]


def _enter(stage: Stage) -> list[Body]:
    """An object comes into view, from any side."""
    radius, u = stage.draws.uniform(0.13, 0.19), stage.draws.direction()
    outside = 0.5 + u / np.abs(u).max() * np.float32(0.5 + 1.3 * radius)
    return [stage.body(path(outside, stage.spot(0.36, 0.64), stage.progress(0.6)), radius)]


def _poke(stage: Stage, touch: bool) -> list[Body]:
    """A long thing comes into view, shoves an object (or almost touches it) and goes back."""
    draws, u, s = stage.draws, stage.draws.direction(), stage.ramp(0.75, 0.95)
    radius, distance = draws.uniform(0.14, 0.18), draws.uniform(0.34, 0.42)
    reach = np.clip(s / 0.4, 0, 1) - np.clip((s - 0.6) / 0.4, 0, 1)  # there, a short stay, and back
    shove = np.clip((s - 0.4) / 0.2, 0, 1)
    push, gap = (draws.uniform(0.1, 0.14), 0.0) if touch else (0.0, draws.uniform(0.1, 0.14))
    target = stage.spot() - (0.15 + push * shove)[:, None] * u
    tip = target + (0.9 * radius + gap + distance * (1 - reach))[:, None] * u
    half_length, half_width = 0.36, 0.055
    finger = stage.body(
        tip + np.float32(half_length) * u,
        math.sqrt(half_length * half_width),
        ("squircle",),
        axis=u,
        aspect=half_length / half_width,
    )
    return [stage.body(target, radius, _SOLID), finger]


class Event(NamedTuple):
    """A class of clips.

    Attributes:
        scene: Lays out the objects, back to front.
        reverse: Whether the clip is played backwards.
    """

    scene: Callable[[Stage], list[Body]]
    reverse: bool = False


#: Scenes, and their classes when played forwards and backwards.
_BOTH_WAYS = [
    (partial(_shift, start=(0.5, 0.8), end=(0.5, 0.2)),
     "Moving something up", "Moving something down"),
    (partial(_shift, start=(0.2, 0.5), end=(0.8, 0.5)),
     "Pushing something from left to right", "Pushing something from right to left"),
    (_grow, "Moving something toward the camera", "Moving something away from the camera"),
    (_join_one, "Moving something closer to something", "Moving something away from something"),
    (_join_both, "Moving something and something closer to each other",
     "Moving something and something away from each other"),
    (_enter, "Putting something on a surface", "Taking something from somewhere"),
    (partial(_cover, in_front=False),
     "Putting something behind something", "Pulling something from behind of something"),
    (partial(_cover, in_front=True),
     "Putting something in front of something", "Removing something, revealing something behind"),
]  # fmt: skip

#: The classes, by their names in Something-Something; two by two they are pairs.
EVENTS = {
    name: Event(scene, reverse)
    for scene, *names in _BOTH_WAYS
    for name, reverse in zip(names, (False, True))
} | {
    # What two objects do to each other, told apart by more than the order of frames:
    "Moving something and something so they collide with each other": Event(
        partial(_meet, collide=True)
    ),
    "Moving something and something so they pass each other": Event(partial(_meet, collide=False)),
    "Poking something so it slightly moves": Event(partial(_poke, touch=True)),
    "Pretending to poke something": Event(partial(_poke, touch=False)),
}
