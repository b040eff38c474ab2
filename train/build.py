"""Data sets and models from a config.

To add a data set, add a function to ``_DATASETS``; backbones and heads are in ``build_parts.py``.
Their config keys are in ``schema.py`` and ``schema_model.py``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rstg_pyg import RelationHead, VideoClassifier
from rstg_pyg.backbones import WeightsError, read_tensors
from rstg_pyg.train.build_parts import build_backbone, build_block, build_head, named
from rstg_pyg.train.config import Config
from rstg_pyg.train.data.clips import VideoClips
from rstg_pyg.train.data.folder import VideoFolder, read_folder
from rstg_pyg.train.data.label_files import find_label_files
from rstg_pyg.train.data.mini import VERSION, write_mini_boxes, write_mini_something
from rstg_pyg.train.data.paths import cache_folder, home
from rstg_pyg.train.data.something import SomethingSomething
from rstg_pyg.train.data.syncmnist import SyncMNIST, as_paths, load_digits
from rstg_pyg.train.errors import UserError, counted
from rstg_pyg.train.schema import (
    ClipsConfig,
    FolderConfig,
    SkeletonConfig,
    SomethingConfig,
    SyncMNISTConfig,
)
from rstg_pyg.train.schema_model import STGCNConfig
from rstg_pyg.train.skeletons.build import build_joint_head, build_skeletons

__all__ = [
    "build_backbone",
    "build_dataset",
    "build_model",
    "builtin_folder",
    "check_model",
    "example_boxes",
    "freeze",
    "has_split",
    "normalize",
    "stage_maps",
]

_LENGTHS = {"train": "train_videos", "val": "val_videos", "test": "test_videos"}


def build_dataset(config: Config, split: str, **changes) -> SyncMNIST | VideoClips:
    """The data set of a split (``train``, ``val``, ``test``).

    Args:
        config: The experiment.
        split: The split.
        **changes: Arguments of the data set to override.

    Raises:
        UserError: If the data are missing or damaged, or a number is out of range.
    """
    return _DATASETS[config.data.dataset](config.data, split, changes)


def has_split(config: Config, split: str) -> bool:
    """Whether there is a split: data of one's own may have no list of validation videos, and
    ``train.validate_every=0`` asks for no validation.
    """
    data = config.data
    if isinstance(data, SkeletonConfig):
        return split != "val" or (bool(data.val_subjects) and config.train.validate_every > 0)
    if split == "train" or data.dataset == "syncmnist" or data.root is None or data.val_fraction:
        return split != "val" or config.train.validate_every > 0
    if data.dataset == "folder":
        if split == "test" and data.test_split is not None:
            return True
        splits = read_folder(data.root).splits
        there = "val" in splits or (split == "test" and "test" in splits)
    else:
        there = "val" in find_label_files(data.root, data.annotations).splits
    return there and (split == "test" or config.train.validate_every > 0)


def _something(data: SomethingConfig, split: str, changes: dict) -> SomethingSomething:
    """Something-Something. Training clips are random. The labels of the test split are not public, so
    both evaluations use the validation split: one center clip per video during training, the config's
    protocol at the end.
    """
    arguments = _clips(data, split) | dict(
        annotations=data.annotations,
        val_fraction=data.val_fraction,
        name="mini-something" if data.root is None else None,
    )
    root = builtin_folder(data) if data.root is None else data.root
    if data.boxes == "builtin":
        arguments["boxes"] = write_mini_boxes(f"{root}-boxes", **data.builtin.model_dump())
    if split == "test" and "val" in find_label_files(root, data.annotations).splits:
        arguments["val_fraction"] = 0.0  # the videos of the list, which training never sees
    return SomethingSomething(root, "train" if split == "train" else "val", **{**arguments, **changes})


def _folder(data: FolderConfig, split: str, changes: dict) -> VideoFolder:
    """Results are those of ``data.test_split``: by default of the test split where there is one, else
    of the validation split.
    """
    if data.root is None:
        raise UserError("data.root: expected the folder with your videos, for example data.root=clips")
    part = split
    if split == "test":
        part = data.test_split or ("test" if "test" in read_folder(data.root).splits else "val")
    arguments = _clips(data, split) | dict(val_fraction=data.val_fraction, val_fold=data.val_fold)
    return VideoFolder(data.root, part, **{**arguments, **changes})


def _clips(data: ClipsConfig, split: str) -> dict:
    """The arguments that all data sets of videos share."""
    names = ["num_frames", "short_side", "crop_size", "sampling", "frame_stride", "crop", "flip"]
    names += ["brightness", "color_jitter", "rand_augment"]
    names += ["source", "seed", "shuffle_time", "on_error", "partial", "boxes", "num_boxes"]
    protocol = {"train": None, "val": "center1", "test": data.protocol}[split]
    return {name: getattr(data, name) for name in names} | {"protocol": protocol}


def builtin_folder(data: SomethingConfig) -> Path:
    """The folder of mini-something, which is rendered if it does not exist yet."""
    settings = data.builtin.model_dump()
    key = hashlib.sha256(repr((VERSION, sorted(settings.items()))).encode()).hexdigest()[:8]
    folder = cache_folder() / f"mini-something-{key}"
    if not folder.exists():
        clips = settings["train"] + settings["validation"]
        print(f"rendering {clips:,} clips of mini-something to {folder}", flush=True)
    return write_mini_something(folder, **settings)


def _syncmnist(data: SyncMNISTConfig, split: str, changes: dict) -> SyncMNIST:
    """SyncMNIST. Validation uses training digits in other videos, testing uses other digits, in
    generated videos or in those of a file (``data.paths``).
    """
    digits = load_digits("test" if split == "test" else "train", data.digits, data.root)
    names = ["seed", "num_digits", "num_classes", "num_frames", "frame_size", "canvas_size"]
    names += ["digit_size", "max_step", "none_probability"]
    arguments = {name: getattr(data, name) for name in names} | dict(
        num_videos=getattr(data, _LENGTHS[split]),
        curriculum=data.curriculum if split == "train" else 0.0,
    )
    if split == "test" and data.paths is not None:
        file = str(home(data.paths))
        try:
            arguments["paths"] = as_paths(read_tensors(file), file)
        except WeightsError as e:
            raise UserError(f"data.paths: {e}") from e
    return SyncMNIST(digits, split, **{**arguments, **changes})


#: Functions that build a data set, by ``data.dataset``.
_DATASETS = {
    "syncmnist": _syncmnist,
    "something": _something,
    "folder": _folder,
    "skeleton": build_skeletons,
}


def check_model(config: Config) -> None:
    """Builds the network on the ``meta`` device (shapes without data) and runs its graphs on one
    frame, so that layers report arguments that do not fit before any data are read.

    Raises:
        UserError: As :func:`build_model`.
    """
    maps = stage_maps(config)
    with torch.device("meta"), torch.no_grad(), named("model"):
        model = _assemble(config, 2, maps).eval()
        freeze(model, config.train.freeze)
        for stage, block in model.block_after.items():
            model.blocks[block](maps[stage][:, :, :1])
        if model.head is not None:
            last = maps[list(model.backbone.channels)[-1]]
            last = last if isinstance(model.head, RelationHead) else last[:, :, :1]
            model.head(last, **example_boxes(config))


def build_model(config: Config, num_classes: int) -> VideoClassifier:
    """The network of a config.

    Raises:
        UserError: If arguments do not fit each other or the clips; the message names the section.
    """
    return _assemble(config, num_classes, stage_maps(config))


def _assemble(config: Config, num_classes: int, maps: dict[str, Tensor]) -> VideoClassifier:
    """The network of a config, whose backbone gives these maps."""
    model = config.model
    with named("model.backbone"):
        backbone = build_backbone(config)
    stages = {name: name for name in maps} | getattr(backbone, "places", {})
    last = maps[list(backbone.channels)[-1]]
    blocks, head = {}, None
    for place in [] if model.rstg is None else model.rstg.places:
        if isinstance(config.data, SkeletonConfig) and place == "head":
            with named("model.rstg"):
                head = build_joint_head(model.rstg, last, config.data)
        elif place == "head":
            head = build_block(model.rstg, last, "vec")
        elif place in stages:
            blocks[place] = build_block(model.rstg, maps[stages[place]], "map")
        else:
            known = ", ".join([*getattr(backbone, "places", stages), "head"])
            raise UserError(f"model.rstg.places: expected some of {known} (got {place!r})")
    if isinstance(model.head, STGCNConfig):
        head = build_joint_head(model.head, last, config.data)
    elif model.head is not None:
        head = build_head(model.head, last)
    values = model.model_dump(exclude={"backbone", "rstg", "head"})
    with named("model"):
        return VideoClassifier(backbone, num_classes, blocks=blocks, head=head, **values)


def stage_maps(config: Config) -> dict[str, Tensor]:
    """The feature map ``[1, C, T, H, W]`` after every stage of the backbone for a clip of the config,
    on the ``meta`` device (shapes without data).

    Raises:
        UserError: If clips of this size do not fit the backbone.
    """
    data, maps = config.data, {}

    def note(name: str, x: Tensor) -> Tensor:
        maps[name] = x
        return x

    with torch.device("meta"), torch.no_grad(), named("model.backbone"):
        backbone = build_backbone(config).eval()
        x = torch.empty(1, *data.clip_shape)
        try:
            if hasattr(backbone, "stages"):
                for name, stage in backbone.stages.items():
                    x = note(name, stage(x))
            else:
                backbone(x, after=note)
        except RuntimeError as e:
            raise ValueError(
                f"it cannot take clips of {counted(data.num_frames, 'frame')} of {x.size(3)} x "
                f"{x.size(4)} pixels ({str(e).splitlines()[0][:150]}); use larger clips or fewer stages"
            ) from e
    return maps


def example_boxes(config: Config) -> dict[str, Tensor]:
    """Boxes of one clip as a keyword argument of the network, if it takes any: each the whole frame."""
    data: Any = config.data
    if getattr(data, "boxes", None) is None:
        return {}
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0])
    return {"boxes": whole.expand(1, data.num_frames, data.num_boxes, 4)}


def freeze(model: VideoClassifier, stages: list[str]) -> None:
    """Takes stages of the backbone out of training: their weights, and the statistics of their norms.

    Args:
        model: The network.
        stages: Names of stages or parts of the backbone; ``backbone`` is all of it.

    Raises:
        UserError: If the backbone has no such stage.
    """
    backbone = model.backbone
    root = getattr(backbone, "stages", None) or backbone.network
    for stage in stages:
        parts = [backbone] if stage == "backbone" else []
        parts += [m for name, m in root.named_modules() if name == stage]
        parts += [m for name, m in root.named_children() if name.startswith(f"{stage}_")]  # bottlenecks
        if not parts or not stage:
            known = ", ".join(["backbone", *getattr(backbone, "places", ()), *backbone.channels])
            raise UserError(f"train.freeze: expected some of {known} (got {stage!r})")
        for part in parts:
            part.eval().requires_grad_(False)


def normalize(clips: Tensor, config: Config) -> Tensor:
    """Normalizes ``uint8`` clips ``[..., C, T, H, W]`` for the network: ``(clip - mean) / std``."""
    mean, std = (
        torch.tensor(value, device=clips.device).view(-1, 1, 1, 1) if isinstance(value, list) else value
        for value in (config.data.mean, config.data.std)
    )
    return (clips.float() - mean) / std
