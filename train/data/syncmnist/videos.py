"""SyncMNIST: videos of moving digits, two of which move alike, generated on the fly.

The recipe is that of the published generator (paper, section 4.1), down to which random moves are
allowed. All random numbers of a video come from a counter-based generator keyed by (seed, split,
item), so item ``i`` is the same video on every device, alone or in a batch, in any worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rstg_pyg.train.data.syncmnist.digits import Digits
from rstg_pyg.train.data.syncmnist.painting import paint, resize, stretch
from rstg_pyg.train.data.syncmnist.path_file import Paths, check_paths
from rstg_pyg.train.errors import UserError

SPLITS = ("train", "val", "test")

#: Visible digits in the videos of a curriculum.
FIRST_DIGITS = 3

#: Videos that a CPU generates at once: their frames should stay in the cache.
CHUNK = 16

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))


class Videos(NamedTuple):
    """A batch of videos and how they came about.

    Attributes:
        clips: Gray frames 0..255, ``[B, 1, T, H, W]`` uint8.
        labels: Classes, ``[B]``.
        classes: The digits' classes; the first two are the pair, ``[B, D]``.
        corners: Row and column of the digits' top-left pixels on the canvas, ``[B, T, D, 2]``.
        synchronous: Whether the pair moves alike, ``[B]``.
    """

    clips: Tensor
    labels: Tensor
    classes: Tensor
    corners: Tensor
    synchronous: Tensor


class SyncMNIST(Dataset):
    r"""Videos of ``num_digits`` digits of different classes; the task is to find the pair that moves
    alike.

    Digit 0 of item :math:`i` is image :math:`i \bmod n` of the digits; the others are random
    images of other, random classes. Every frame, digits 0 and 1 make the same random step and the
    others one of their own. The label is the unordered pair of classes :math:`a > b`, as
    :math:`a (a - 1) / 2 + b`; in a few videos nobody is synchronous and the label is the last class.

    Args:
        digits: The images of digits.
        split: ``"train"``, ``"val"`` or ``"test"``: part of the random key.
        num_videos: Number of videos.
        seed: Random seed.
        num_digits: Digits in a video, 2 to 10. (default: 5)
        num_classes: Use the digits ``0 .. num_classes - 1``. (default: 10)
        num_frames: Frames :math:`T`. (default: 10)
        frame_size: Side of the frames, in pixels. (default: 64)
        canvas_size: Side of the canvas on which digits move before it is resized to
            ``frame_size``, in pixels. (default: 100)
        digit_size: Side of the digits on the canvas, in pixels. (default: 28)
        max_step: Longest step per frame and axis, in canvas pixels. (default: 10)
        none_probability: Share of videos without a synchronous pair. By default
            :math:`1 / (2 P + 2)` with :math:`P` pairs of classes, as published: 1/92 for ten.
        paths: Takes digits and their paths from a file instead, see
            :func:`~rstg_pyg.train.data.syncmnist.path_file.as_paths`; then there are at most as many
            videos as in it. (default: ``None``)
        curriculum: Fraction of the videos, the first ones, in which only :data:`FIRST_DIGITS` digits
            are visible, digits 0 and 1 among them. A loader that mixes videos begins with them.
            (default: 0)

    Raises:
        UserError: If a number is out of range.
    """

    def __init__(
        self,
        digits: Digits,
        split: str,
        num_videos: int,
        seed: int = 0,
        num_digits: int = 5,
        num_classes: int = 10,
        num_frames: int = 10,
        frame_size: int = 64,
        canvas_size: int = 100,
        digit_size: int = 28,
        max_step: int = 10,
        none_probability: float | None = None,
        paths: Paths | None = None,
        curriculum: float = 0.0,
    ):
        if not 2 <= num_digits <= 10:
            raise UserError(f"data.num_digits: expected 2 to 10 digits in a video (got {num_digits})")
        if not num_digits <= num_classes <= 10:
            raise UserError(
                f"data.num_classes: expected {num_digits} to 10, since the digits of a video have "
                f"different classes (got {num_classes})"
            )
        if digit_size >= canvas_size:
            raise UserError(
                f"data.digit_size: expected less than data.canvas_size={canvas_size} (got {digit_size})"
            )
        self.digits = digits
        self.split = split
        self.num_videos = num_videos
        self.seed = seed
        self.num_digits = num_digits
        #: How many videos come before the others.
        self.num_first = int(curriculum * num_videos) if num_digits > FIRST_DIGITS else 0
        self.num_classes = num_classes
        self.num_frames = num_frames
        self.frame_size = frame_size
        self.canvas_size = canvas_size
        self.digit_size = digit_size
        self.max_step = max_step
        self.last_corner = canvas_size - digit_size - 1  # published: 71 of 100 - 28, not 72
        pairs = num_classes * (num_classes - 1) // 2
        self.num_labels = pairs + 1
        self.none_probability = 1 / (2 * pairs + 2) if none_probability is None else none_probability

        keep = digits.labels < num_classes
        self.images = resize(digits.images[keep], digit_size)
        self.image_classes = digits.labels[keep]
        self.by_class = self.image_classes.argsort(stable=True)
        self.class_counts = self.image_classes.bincount(minlength=num_classes)
        if int(self.class_counts.min()) == 0:
            missing = int(self.class_counts.argmin())
            raise UserError(f"data.num_classes: the digits have no image of class {missing}")
        self.class_starts = self.class_counts.cumsum(0) - self.class_counts
        key = torch.tensor([seed])
        for word in (SPLITS.index(split), 0x53796E63):  # "Sync"
            key = _mix(_mix(key) + word)
        self.key = key
        self.paths = paths
        if paths is not None:
            check_paths(paths, self)
            self.num_videos = min(num_videos, len(paths.images))

    @property
    def origin(self) -> str:
        """Which digits these are: results of other ones cannot be compared."""
        return f"{self.digits.source} digits"

    @property
    def protocol_text(self) -> str:
        """How videos are evaluated."""
        if self.paths is not None:
            return f"single clip, {len(self)} test videos with digits and paths from data.paths"
        seen = "of digits that training never saw" if self.split == "test" else "of training digits"
        return f"single clip, {len(self)} generated videos (data seed {self.seed}) {seen}"

    def describe(self) -> str:
        """One line about the videos of this split."""
        what = f"generated {self.split} videos (data seed {self.seed})"
        if self.paths is not None:
            what = "test videos of data.paths"
        digits = f"{self.num_digits} digits each"
        if self.num_first > 0:
            digits += f", in the first {self.num_first:,} of them {FIRST_DIGITS} visible"
        return f"{len(self):,} {what} of {digits}; {self.digits.detail}"

    def to(self, device: torch.device | str) -> SyncMNIST:
        """Moves the digits, so that videos are generated on ``device``; returns the data set."""
        for name in ("images", "image_classes", "by_class", "class_counts", "class_starts", "key"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    @property
    def label_names(self) -> list[str]:
        """A name for every class: ``"1+0"``, ``"2+0"``, ..., ``"none"``."""
        names = [f"{a}+{b}" for a in range(self.num_classes) for b in range(a)]
        return [*names, "none"]

    def __len__(self) -> int:
        return self.num_videos

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        """All videos once, in order."""
        return (self[item] for item in range(len(self)))

    def blank(self) -> Tensor:
        """A black clip, of the shape of all others."""
        return torch.zeros(1, self.num_frames, self.frame_size, self.frame_size, dtype=torch.uint8)

    def __getitem__(self, visit: int) -> tuple[Tensor, int]:
        """One video ``[1, T, H, W]`` and its label; later epochs' visits give the same videos."""
        if visit < 0:
            raise IndexError(f"Expected a visit from 0 (got {visit})")
        videos = self.videos([visit])
        return videos.clips[0], int(videos.labels[0])

    def __getitems__(self, visits: list[int]) -> list[tuple[Tensor, int]]:
        """Many videos at once (what a ``DataLoader`` calls if it is there)."""
        videos = self.videos(visits)
        return list(zip(videos.clips.unbind(0), videos.labels.tolist()))

    @torch.no_grad()
    def videos(self, visits: Tensor | list[int]) -> Videos:
        """Generates the given videos, on the device of the digits."""
        items = torch.as_tensor(visits, device=self.key.device) % self.num_videos
        if items.device.type == "cpu" and len(items) > CHUNK:
            parts = [self.videos(part) for part in items.split(CHUNK)]
            return Videos(*(torch.cat(field) for field in zip(*parts)))
        if self.paths is not None:
            corners, index, _, synchronous = (field.to(items.device)[items] for field in self.paths)
            return self._painted(index, corners, synchronous)
        draws = _Draws(_mix(self.key + items), self._draws_per_video())
        count, digits = items.numel(), self.num_digits

        corner = (draws.take(digits * 2) * (self.last_corner + 1)).long().view(count, digits, 2)
        first = items % self.images.size(0)
        classes = self._choose_classes(self.image_classes[first], draws)
        index = (draws.take(digits - 1) * self.class_counts[classes[:, 1:]]).long()
        others = self.by_class[self.class_starts[classes[:, 1:]] + index]
        synchronous = draws.take(1)[:, 0] >= self.none_probability
        corners = self._walk(corner, synchronous, draws)
        index = torch.cat([first[:, None], others], dim=1)
        easy = items < self.num_first if self.num_first > 0 else None
        return self._painted(index, corners, synchronous, easy)

    def _painted(
        self, index: Tensor, corners: Tensor, synchronous: Tensor, easy: Tensor | None = None
    ) -> Videos:
        """The videos with these images ``[B, D]`` of digits at these places ``[B, T, D, 2]``, of which
        ``easy`` ones show :data:`FIRST_DIGITS`.
        """
        images, classes = self.images[index], self.image_classes[index]
        if easy is not None:
            images[easy, FIRST_DIGITS:] = 0
        frames = resize(stretch(paint(images, corners, self.canvas_size)), self.frame_size)
        high, low = classes[:, :2].amax(1), classes[:, :2].amin(1)
        pair = torch.div(high * (high - 1), 2, rounding_mode="floor") + low
        labels = torch.where(synchronous, pair, self.num_labels - 1)
        return Videos(frames.unsqueeze(1), labels, classes, corners, synchronous)

    def _draws_per_video(self) -> int:
        digits = self.num_digits
        return 2 * digits + self.num_classes + digits - 1 + 1 + 2 * self.num_frames * (digits + 1)

    def _choose_classes(self, first: Tensor, draws: _Draws) -> Tensor:
        """The class of digit 0 and then a random order of others, ``[B, D]``."""
        order = draws.take(self.num_classes)
        order = order.scatter(1, first[:, None], -1.0).argsort(dim=1)  # digit 0 to the front
        return order[:, : self.num_digits]

    def _walk(self, corner: Tensor, synchronous: Tensor, draws: _Draws) -> Tensor:
        """Positions in all frames ``[B, T, D, 2]`` from those before the first one.

        Every step is uniform in ``[low, high)``, as far as the digit can go; a synchronous pair makes
        one step together, as far as both can go. (Digits move before the first frame, too.)
        """
        count, digits, _ = corner.shape
        draw = draws.take(self.num_frames * digits * 2).view(count, self.num_frames, digits, 2)
        common = draws.take(self.num_frames * 2).view(count, self.num_frames, 1, 2)
        together = synchronous[:, None, None]
        draw[:, :, :2] = torch.where(together.unsqueeze(1), common, draw[:, :, :2])
        corners = []
        for t in range(self.num_frames):
            low = (-corner).clamp(min=-self.max_step)
            high = (self.last_corner - corner).clamp(max=self.max_step)
            low[:, :2] = torch.where(together, low[:, :2].amax(1, keepdim=True), low[:, :2])
            high[:, :2] = torch.where(together, high[:, :2].amin(1, keepdim=True), high[:, :2])
            step = low + (draw[:, t] * (high - low)).long()
            corner = corner + torch.where(low < high, step, 0)
            corners.append(corner)
        return torch.stack(corners, dim=1)


class _Draws:
    """Hands out the uniform numbers of a batch of videos, one column after the other."""

    def __init__(self, keys: Tensor, count: int):
        counter = torch.arange(1, count + 1, device=keys.device) * _GOLDEN
        bits = _shift(_mix(keys[:, None] + counter), 11)  # 53 bits, as a double holds
        self.uniform = bits.double() * 2.0**-53  # [B, count], in [0, 1)
        self.used = 0

    def take(self, count: int) -> Tensor:
        """The next ``count`` numbers of every video, ``[B, count]``."""
        self.used += count
        return self.uniform[:, self.used - count : self.used]


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shifts 64-bit words right, filling with zeros."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014): scrambles 64-bit words."""
    z = (z ^ _shift(z, 30)) * _MIX[0]
    z = (z ^ _shift(z, 27)) * _MIX[1]
    return z ^ _shift(z, 31)
