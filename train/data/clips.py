"""Clips of labeled videos, for training and by protocol: what all data sets of videos share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rstg_pyg.train.data import boxes as box
from rstg_pyg.train.data import transforms
from rstg_pyg.train.data.protocols import PROTOCOLS, read_clips
from rstg_pyg.train.data.sampling import SAMPLINGS, train_indices
from rstg_pyg.train.data.skipped import Part
from rstg_pyg.train.data.sources import FrameSource
from rstg_pyg.train.data.video_lists import Video, class_order
from rstg_pyg.train.errors import UserError, counted, some

CROPS = ("random", "multiscale")
ON_ERROR = ("raise", "skip")
UNLABELLED = -1


class VideoClips(Dataset):
    """Clips of the videos of one split.

    A clip is asked for by its *visit*, ``epoch * len(dataset) + item``: what is random in it depends
    on the seed, the epoch and the item, and on nothing else. So crops change from epoch to epoch, and
    a run that was interrupted or has other workers sees the same clips.

    Args:
        videos: The videos with their classes.
        classes: The names of the classes.
        source: Where frames come from.
        split: ``"train"``, ``"val"`` or ``"test"``.
        kind: What results call the data.
        protocol: A name of :data:`PROTOCOLS`; ``None`` for training clips, which are random.
        num_frames: Frames :math:`T` of a clip; a shorter video repeats some. (default: 32)
        short_side: Short side that frames are resized to. (default: 256)
        crop_size: Side of the training crop and of ``center1``. (default: 224)
        sampling: ``"uniform"`` (published), ``"segments"`` (TSN) or ``"dense"``. (default:
            ``"uniform"``)
        frame_stride: Of ``"dense"``, see :func:`~rstg_pyg.train.data.sampling.dense`. (default: 1)
        crop: ``"random"`` (published) or ``"multiscale"`` (TSM). (default: ``"random"``)
        brightness: Largest random shift of a training clip's brightness, relative to white.
            (default: 0.1)
        color_jitter: Largest relative change of a training clip's brightness, contrast and saturation,
            by ``torchvision.transforms.v2.ColorJitter``. (default: 0)
        rand_augment: Magnitude of ``torchvision.transforms.v2.RandAugment`` (two operations) for
            training clips; with 0 there is none. (default: 0)
        flip: Whether half the training clips are mirrored. Their class is then that of the mirrored
            action; where there is no such class they are left alone. (default: ``False``)
        partial: Whether to go on without the videos of the list that are not there. (default:
            ``False``)
        seed: Random seed.
        shuffle_time: Whether the frames of a clip come in random order, to see what order is worth.
            (default: ``False``)
        on_error: What a loader does with a video that cannot be read: ``"raise"`` the error, or
            ``"skip"`` it, with a note in :attr:`skipped`; and those that are not there, as with
            ``partial``. (default: ``"raise"``)
        boxes: A folder with boxes of a detector, see :class:`~rstg_pyg.train.data.boxes.Boxes`: clips
            are then :class:`~rstg_pyg.train.data.boxes.BoxedClip`. (default: ``None``)
        num_boxes: Boxes per frame. (default: 10)

    Attributes:
        classes (list of str): The names of the classes.
        ids (list of str): The videos.
        labels (Tensor): Their classes, -1 where unknown, ``[n]``; where videos have several, zeros and
            ones ``[n, num_classes]``.
        multi_label (bool): Whether videos have several labels.
        protocol (Protocol): The protocol; ``None`` for training clips.
        source (FrameSource): Where frames come from.
        skipped (Part): Where videos that were skipped are noted; with ``"skip"`` the run sets it.

    Raises:
        UserError: If an argument is wrong, or videos are missing.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        classes: list[str],
        source: FrameSource,
        split: str,
        kind: str,
        protocol: str | None = None,
        num_frames: int = 32,
        short_side: int = 256,
        crop_size: int = 224,
        sampling: str = "uniform",
        crop: str = "random",
        brightness: float = 0.1,
        flip: bool = False,
        seed: int = 0,
        shuffle_time: bool = False,
        on_error: str = "raise",
        partial: bool = False,
        frame_stride: int = 1,
        color_jitter: float = 0.0,
        rand_augment: int = 0,
        boxes: str | None = None,
        num_boxes: int = 10,
    ):
        if protocol is not None:
            _check_name("data.protocol", protocol, tuple(PROTOCOLS))
        _check_name("data.sampling", sampling, SAMPLINGS)
        _check_name("data.crop", crop, CROPS)
        _check_name("data.on_error", on_error, ON_ERROR)
        if num_frames < 1:
            raise UserError(f"data.num_frames: expected at least 1 (got {num_frames})")
        if not 1 <= crop_size <= short_side:
            raise UserError(
                f"data.crop_size: expected 1 to data.short_side={short_side} (got {crop_size})"
            )
        if not 0 <= brightness <= 1:
            raise UserError(f"data.brightness: expected 0 to 1 (got {brightness})")
        if seed < 0:
            raise UserError(f"seed: expected at least 0 (got {seed})")
        self.split = split
        self.protocol = None if protocol is None else PROTOCOLS[protocol]
        self.num_frames = num_frames
        self.short_side = short_side
        self.crop_size = crop_size
        self.sampling = sampling
        self.frame_stride = frame_stride
        self.crop = crop
        self.brightness = brightness
        self.augment = transforms.Augment(color_jitter, rand_augment)
        self.seed = seed
        self.shuffle_time = shuffle_time
        self.on_error = on_error
        self.skipped: Part | None = None
        self.kind = kind
        self.classes = classes
        self.num_listed = len(videos)
        self.source = source
        missing = set(self.source.missing([video.id for video in videos]))
        if missing and not partial and on_error != "skip":
            places = [str(self.source.location(v.id)) for v in videos if v.id in missing]
            raise UserError(
                f"data.root: {len(videos) - len(missing):,} of the {len(videos):,} videos of {split} "
                f"are there (missing are {some(places)}); data.partial=true goes on with "
                f"those"
            )
        videos = [video for video in videos if video.id not in missing]
        self.ids = [video.id for video in videos]
        self.boxes = None if boxes is None else box.Boxes(boxes, num_boxes, self.ids)
        self.multi_label = any(isinstance(video.label, tuple) for video in videos)
        if self.multi_label:
            self.labels = torch.zeros(len(videos), len(classes))
            for row, video in zip(self.labels, videos):
                row[list(video.labels)] = 1.0
        else:
            self.labels = torch.tensor([(*video.labels, UNLABELLED)[0] for video in videos])
        self.mirrored = transforms.mirrored_classes(self.classes) if flip else None

    @property
    def origin(self) -> str:
        """Which data these are: a run of other ones cannot be continued with them."""
        several = ", several per video" if self.multi_label else ""
        return f"{self.kind} {len(self.classes)} classes{several}"

    @property
    def protocol_text(self) -> str:
        """How videos are evaluated."""
        return self.describe()

    @property
    def label_names(self) -> list[str]:
        """The names of the classes."""
        return self.classes

    @property
    def num_clips(self) -> int:
        """Clips per video."""
        return self.protocol.num_clips if self.protocol else 1

    @property
    def clip_size(self) -> int:
        """Height and width of a clip."""
        return self.short_side if self.protocol and self.protocol.whole else self.crop_size

    def blank(self) -> Any:
        """A black clip, of the shape of all others."""
        clips = (self.num_clips,) if self.num_clips > 1 else ()
        size = self.clip_size
        clip = torch.zeros(*clips, 3, self.num_frames, size, size, dtype=torch.uint8)
        if self.boxes is None:
            return clip
        return box.BoxedClip(clip, torch.zeros(*clips, self.num_frames, self.boxes.count, 4))

    def describe(self) -> str:
        """One line with every number of the data and the protocol."""
        part = f" of {self.num_listed:,}" if len(self) < self.num_listed else ""
        rest = " (the others are not there)" if part else ""
        several = "(several per video) " if self.multi_label else ""
        videos = "video" if self.num_listed == 1 else "videos"
        classes = counted(len(self.classes), "class", "classes")
        data = (
            f"{self.kind} {self.split}: {len(self):,}{part} {videos}{rest}, {classes} "
            f"{several}in {class_order(self.classes)} order, {self.source.kind}"
        )
        by = "" if self.source.kind == "frames" else ", by time where the frame rate varies"
        stride = f" with stride {self.frame_stride}" if self.sampling == "dense" else ""
        clips = (
            f"of {counted(self.num_frames, 'frame')} ({self.sampling}{stride}{by}) at "
            f"{self.clip_size} x {self.clip_size}"
        )
        if self.protocol is None:
            how = f"training clips {clips}, {self.crop} crop"
            shift = (
                f"brightness within {self.brightness:g}" if self.brightness else "no brightness shift"
            )
            how += f", {shift}{self.augment}, {'flips' if self.mirrored else 'no flips'}"
        else:
            how = f"{self.protocol.describe()} {clips}"
            how += ", logits averaged" if self.num_clips > 1 else ""
        shuffled = ", frames in random order" if self.shuffle_time else ""
        return f"{data}; {how}, from short side {self.short_side}{shuffled}"

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """The first epoch, in order."""
        return (self[item] for item in range(len(self)))

    def __getitem__(self, visit: int) -> tuple[Any, Any]:
        """The clip of a visit and its label, -1 if unknown; with several per video, zeros and ones
        ``[num_classes]``.

        Returns:
            ``[3, T, H, W]`` uint8; for a protocol of several clips ``[L, 3, T, H, W]``, all crops of
            the first sampling in time before those of the second. With boxes, a
            :class:`~rstg_pyg.train.data.boxes.BoxedClip` of it and ``[T, N, 4]`` or ``[L, T, N, 4]``.
        """
        if visit < 0:
            raise IndexError(f"Expected a visit from 0 (got {visit})")
        epoch, item = divmod(visit, len(self))
        label = self.labels[item] if self.multi_label else int(self.labels[item])
        generator = np.random.default_rng((self.seed, epoch, item))
        if self.protocol is not None:
            clips = read_clips(
                self.source, self.ids[item], self.protocol, self.num_frames, self.short_side,
                self.clip_size, self.sampling, self.frame_stride, self.boxes,
            )  # fmt: skip
            clip, boxes = (clips, None) if self.boxes is None else clips
            if self.num_clips == 1:
                clip, boxes = clip[0], None if boxes is None else boxes[0]
        else:
            clip, boxes, label = self._train_clip(item, label, generator)
            clip = clip.permute(3, 0, 1, 2)
        if self.shuffle_time:
            order = torch.from_numpy(generator.permutation(clip.size(-3)))
            clip = clip[..., order, :, :]
            boxes = None if boxes is None else boxes[..., order, :, :]
        clip = clip.contiguous()
        return (clip if boxes is None else box.BoxedClip(clip, boxes)), label

    def _train_clip(
        self, item: int, label: Any, generator: np.random.Generator
    ) -> tuple[Tensor, Tensor | None, Any]:
        """A random clip ``[T, H, W, 3]``, its boxes ``[T, N, 4]`` if there are any, and its label."""
        video = self.ids[item]
        length = self.source.num_frames(video)
        times = self.source.varying_times(video)
        indices = train_indices(
            length, self.num_frames, self.sampling, generator, times, self.frame_stride
        )
        frames = self.source.read(video, indices, self.short_side)
        choose = (
            transforms.random_window if self.crop == "random" else transforms.multi_scale_window
        )
        height, width = frames.shape[1:3]
        window = choose(height, width, self.crop_size, generator)
        clip = transforms.resize(transforms.crop(frames, *window), self.crop_size, self.crop_size)
        boxes = None
        if self.boxes is not None:
            found = self.boxes.read(video, indices, length)
            boxes = box.in_window(found, window, (height, width))
        if self.mirrored is not None and generator.random() < 0.5:
            if (mirrored := self._mirror(label, self.mirrored)) is not None:
                clip, label = transforms.flip(clip), mirrored
                boxes = None if boxes is None else box.flip(boxes)
        if self.brightness:
            clip = transforms.shift_brightness(clip, self.brightness, generator)
        return self.augment(clip, generator), boxes, label

    def _mirror(self, label: Any, mirrored: list[int | None]) -> Any:
        """The label of the mirrored clip; ``None`` if there is no such class."""
        if not self.multi_label:
            return None if label == UNLABELLED else mirrored[label]
        numbers = [mirrored[i] for i in label.nonzero().flatten().tolist()]
        if None in numbers:
            return None
        out = torch.zeros_like(label)
        out[numbers] = 1.0
        return out


def _check_name(key: str, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise UserError(f"{key}: expected one of {', '.join(names)} (got {name!r})")
