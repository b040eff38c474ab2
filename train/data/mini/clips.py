"""*mini-something*: a small stand-in for Something-Something, rendered when the data is not there.

Textured objects move, meet, hide and appear in front of a textured background, seen by a shaking, noisy
camera; what happens is in :data:`~rstg_pyg.train.data.mini.scenes.EVENTS`. The clips are written in the
layout of Something-Something v1, so they are read by the reader of the real data.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rstg_pyg.train.data.mini.scenes import (
    EVENTS,
    Array,
    Body,
    Draws,
    Event,
    Stage,
    smooth_noise,
)
from rstg_pyg.train.data.parallel import in_processes
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import write_atomically

SPLITS = ("train", "validation", "test")

#: Changes whenever the same parameters give other clips.
VERSION = 1

_VIDEOS = "20bn-something-something-v1"
_LIST = "something-something-v1-{}.csv"
_RECORD = "mini-something.json"
_FEW = 500  # clips that one process has rendered before others have begun


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
        knots = draws.array(-0.7, 0.7, 4, 2)
        x = np.arange(self.num_frames, dtype=np.float32) * np.float32(2.99 / (self.num_frames - 1))
        left = x.astype(np.intp)
        s = (x - left)[:, None]
        s = s * s * (3 - 2 * s)
        sway = knots[left] * (1 - s) + knots[left + 1] * s
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


def write_mini_something(
    folder: str | Path,
    train: int = 4000,
    validation: int = 1000,
    test: int = 0,
    num_workers: int = 2,
    **options,
) -> Path:
    """Renders *mini-something* into a folder, in the layout of Something-Something v1.

    The folder appears when it is complete. One that is there already is used if it holds the same
    clips, and is never written into.

    Args:
        folder: The root of the data set.
        train: Number of clips of the training split. Classes take turns in every split.
        validation: The same of the validation split.
        test: The same of the test split, whose list has no labels, as in the real data.
        num_workers: Processes that render, where there are many clips.
        **options: Arguments of :class:`MiniSomething`.

    Returns:
        The folder.

    Raises:
        UserError: If the folder holds anything else or cannot be written, or a number is out of range.
    """
    folder = Path(folder)
    clips = MiniSomething(**options)
    if min(train, validation, test) < 0:
        raise UserError(
            f"mini-something: expected no negative counts (got {train}, {validation}, {test})"
        )
    counts = dict(zip(SPLITS, (train, validation, test)))
    record = {"version": VERSION, **asdict(clips), **counts}
    if _is_written(folder, record):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{folder.name}.rendering-"
        with TemporaryDirectory(prefix=prefix, dir=folder.parent) as temporary:
            whole = Path(temporary) / folder.name
            _write(whole, clips, counts, num_workers)
            write_atomically(
                whole / _RECORD, lambda p: p.write_text(json.dumps(record, indent=1) + "\n")
            )
            try:
                whole.rename(folder)
            except OSError:
                if not _is_written(folder, record):  # else somebody was faster
                    raise
    except OSError as e:
        raise UserError(f"{folder}: cannot be written ({e.strerror or e}); choose another place") from e
    return folder


def write_mini_boxes(
    folder: str | Path, train: int, validation: int, test: int = 0, **options
) -> Path:
    """Writes the boxes of the objects of :func:`write_mini_something`'s clips, as a detector that finds
    all of them would: ``1.npz`` and so on, see :class:`~rstg_pyg.train.data.boxes.Boxes`.

    The folder appears when it is complete; one that is there already is used.

    Raises:
        UserError: If the folder cannot be written.
    """
    folder, clips = Path(folder), MiniSomething(**options)
    if folder.is_dir():
        return folder
    items = [(s, i) for s, n in zip(SPLITS, (train, validation, test)) for i in range(n)]
    try:
        with TemporaryDirectory(prefix=f".{folder.name}.writing-", dir=folder.parent) as temporary:
            whole = Path(temporary) / folder.name
            whole.mkdir()
            for number, item in enumerate(items, start=1):
                np.savez(whole / f"{number}.npz", boxes=clips.boxes(*item))
            try:
                whole.rename(folder)
            except OSError:
                if not folder.is_dir():  # else somebody was faster
                    raise
    except OSError as e:
        raise UserError(f"{folder}: cannot be written ({e.strerror or e}); choose another place") from e
    return folder


def _write(folder: Path, clips: MiniSomething, counts: dict[str, int], num_workers: int) -> None:
    """Writes the lists and the clips, whose ids count from 1 through the splits."""
    (folder / _VIDEOS).mkdir(parents=True)
    lists: dict[str, list[str]] = {"labels": sorted(EVENTS)}
    jobs = []
    for split in SPLITS:
        for item in range(counts[split]):
            jobs.append((folder / _VIDEOS / str(len(jobs) + 1), clips, split, item))
            line = str(len(jobs)) if split == "test" else f"{len(jobs)};{clips.label(item)}"
            lists.setdefault(split, []).append(line)
    for name, lines in lists.items():
        (folder / _LIST.format(name)).write_text("\n".join(lines) + "\n", encoding="utf-8")
    for error in in_processes(_write_clip, jobs, num_workers if len(jobs) > _FEW else 1):
        if error is not None:
            raise error


def _write_clip(job: tuple[Path, MiniSomething, str, int]) -> OSError | None:
    """Writes the frames of one clip; returns the error if it cannot."""
    folder, clips, split, item = job
    try:
        folder.mkdir()
        for i, frame in enumerate(clips.render(split, item), start=1):
            Image.fromarray(frame).save(folder / f"{i:05d}.jpg", quality=90)
    except OSError as e:
        return e
    return None


def _is_written(folder: Path, record: dict) -> bool:
    """Whether the folder holds just these clips; false if there is nothing.

    Raises:
        UserError: If it holds anything else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        changed = [f"{k}={found.get(k)} instead of {v}" for k, v in record.items() if found.get(k) != v]
    except (OSError, ValueError, AttributeError):
        changed = [f"there is no readable {_RECORD} in it"]
    if changed:
        raise UserError(
            f"{folder}: expected this mini-something or nothing ({', '.join(changed)}); choose another "
            f"folder, or delete this one"
        )
    return True
