"""Data sets and models from a config."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from rstg_pyg import (
    RSTG,
    ChannelBatchNorm,
    HomogeneousRSTG,
    JointLayerNorm,
    LSTMHead,
    RSTGBlock,
    VideoClassifier,
    ZeroInitNorm,
    published_arguments,
)
from rstg_pyg.backbones import (
    C2D_KERNELS,
    I3D_KERNELS,
    FrozenBatchNorm,
    SimpleConv,
    TorchvisionVideo,
    VideoResNet,
)
from rstg_pyg.train.config import Config
from rstg_pyg.train.data.mini import VERSION, write_mini_something
from rstg_pyg.train.data.something import SomethingSomething
from rstg_pyg.train.data.syncmnist import SyncMNIST, cache_folder, load_digits
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.schema.config import SomethingConfig, SyncMNISTConfig
from rstg_pyg.train.schema.model import RSTGConfig

_LENGTHS = {"train": "train_videos", "val": "val_videos", "test": "test_videos"}
_KERNELS = {"c2d": C2D_KERNELS, "i3d": I3D_KERNELS}


def build_dataset(config: Config, split: str, **changes) -> SyncMNIST | SomethingSomething:
    """The data set of a split (``train``, ``val``, ``test``).

    Args:
        config: The experiment.
        split: The split.
        **changes: Arguments of the data set to replace.

    Raises:
        UserError: If the data are missing or damaged, or a number is out of range.
    """
    build = _syncmnist if config.data.dataset == "syncmnist" else _something
    return build(config.data, split, changes)


def _something(data: SomethingConfig, split: str, changes: dict) -> SomethingSomething:
    """Training clips are random. The labels of the test split are not public, so results are those of
    the validation split: one center clip while training, the config's protocol at the end.
    """
    arguments = dict(
        protocol={"train": None, "val": "center1", "test": data.protocol}[split],
        num_frames=data.num_frames,
        short_side=data.short_side,
        crop_size=data.crop_size,
        sampling=data.sampling,
        crop=data.crop,
        brightness=data.brightness,
        flip=data.flip,
        source=data.source,
        annotations=data.annotations,
        seed=data.seed,
        shuffle_time=data.shuffle_time,
        on_error=data.on_error,
        name="mini-something" if data.root is None else None,
    )
    root = builtin_folder(data) if data.root is None else data.root
    return SomethingSomething(root, "train" if split == "train" else "val", **{**arguments, **changes})


def builtin_folder(data: SomethingConfig) -> Path:
    """Where mini-something is, rendered if it is not there yet."""
    settings = data.builtin.model_dump()
    key = hashlib.sha256(repr((VERSION, sorted(settings.items()))).encode()).hexdigest()[:8]
    folder = cache_folder() / f"mini-something-{key}"
    if not folder.exists():
        clips = settings["train"] + settings["validation"]
        print(f"rendering {clips:,} clips of mini-something to {folder}", flush=True)
    return write_mini_something(folder, **settings)


def _syncmnist(data: SyncMNISTConfig, split: str, changes: dict) -> SyncMNIST:
    """Validation uses training digits in other videos; testing uses digits that training never sees."""
    digits = load_digits("test" if split == "test" else "train", data.digits, data.root)
    arguments = dict(
        num_videos=getattr(data, _LENGTHS[split]),
        seed=data.seed,
        num_digits=data.num_digits,
        num_classes=data.num_classes,
        num_frames=data.num_frames,
        frame_size=data.frame_size,
        canvas_size=data.canvas_size,
        digit_size=data.digit_size,
        max_step=data.max_step,
        none_probability=data.none_probability,
    )
    return SyncMNIST(digits, split, **{**arguments, **changes})


def build_model(config: Config, num_classes: int) -> VideoClassifier:
    """The network of a config.

    Raises:
        UserError: If the parts do not fit each other, or the clips.
    """
    model = config.model
    try:
        backbone = build_backbone(config)
        stages = {name: name for name in backbone.channels} | getattr(backbone, "places", {})
        places = [] if model.rstg is None else model.rstg.places
        for place in places:
            if place != "head" and place not in stages:
                raise ValueError(f"rstg.places: expected some of {[*stages, 'head']} (got {place!r})")
        blocks = {
            place: build_block(model.rstg, backbone.channels[stages[place]], "map")
            for place in places
            if place != "head"
        }
        head = None
        if "head" in places:
            head = build_block(model.rstg, list(backbone.channels.values())[-1], "vec")
        elif model.head is not None:
            head = build_head(config, list(backbone.channels.values())[-1])
        return VideoClassifier(
            backbone,
            num_classes,
            blocks=blocks,
            head=head,
            combine=model.combine,
            dropout=model.dropout,
            pool_window=model.pool_window,
            grad_checkpointing=model.grad_checkpointing,
        )
    except ValueError as e:
        raise UserError(f"model: {e}") from e


def build_backbone(config: Config) -> torch.nn.Module:
    """The backbone of a config."""
    backbone, data = config.model.backbone, config.data
    if backbone.kind == "simple_conv":
        return SimpleConv(data.channels, backbone.filters, backbone.padding, backbone.pool)
    if backbone.kind == "torchvision":
        return TorchvisionVideo(backbone.network, (data.num_frames, data.size, data.size))
    return VideoResNet(
        _KERNELS[backbone.kind],
        backbone.nonlocal_stages,
        in_channels=data.channels,
        depths=backbone.depths,
        width=backbone.width,
        pool_padding=backbone.pool_padding,
        last_stride=backbone.last_stride,
        small_stem=backbone.small_stem,
        norm={"frozen": FrozenBatchNorm, "batch": torch.nn.BatchNorm3d}[backbone.norm],
    )


def build_head(config: Config, channels: int) -> LSTMHead:
    """The head without a graph of a config, for a last map of ``channels`` channels."""
    head, side = config.model.head, None
    if head.spatial:
        sides = config.model.backbone.map_sides(config.data.size)
        if sides is None:
            raise ValueError("head.spatial: the size of this backbone's map is not known beforehand")
        side = list(sides.values())[-1]
    return LSTMHead(channels, head.hidden_channels, side, in_norm=head.in_norm == "batch")


def build_block(config: RSTGConfig, channels: int, to: str) -> RSTGBlock:
    """A graph of a config, for a map of ``channels`` channels."""
    out_norm = config.out_norm
    if out_norm == "auto":
        out_norm = "layer" if to == "map" or config.residual else None
    arguments = dict(
        num_rounds=config.num_rounds,
        residual=config.residual,
        shared_rounds=config.shared_rounds,
    )
    if not config.homogeneous:
        arguments |= dict(
            time_stages=config.time_stages, space_stages=config.space_stages, cell=config.cell
        )
    if config.space_stages:
        arguments |= dict(
            heads=config.heads,
            attention_scale=config.attention_scale,
            dropout=config.dropout,
            num_update_layers=config.num_update_layers,
        )
    if config.published:
        first = config.in_norm == "batch"
        arguments |= published_arguments(
            config.attention, config.norm, first_batch_norm=first, out_norm=out_norm
        )
    else:
        arguments |= dict(
            in_norm=ChannelBatchNorm if config.in_norm == "batch" else None,
            out_norm={"layer": ZeroInitNorm, "batch": _out_batch_norm, None: None}[out_norm],
        )
        if config.space_stages:
            norm = {"layer": JointLayerNorm, "batch": ChannelBatchNorm, None: None}[config.norm]
            arguments |= dict(attention=config.attention, norm=norm)
        arguments |= dict(topology=config.topology)
    return RSTGBlock(
        channels,
        config.hidden_channels,
        config.scales,
        to=to,
        positions=config.positions and config.space_stages,
        map_size=config.map_size,
        typed_update=config.typed_update and config.space_stages,
        graph=HomogeneousRSTG if config.homogeneous else RSTG,
        **arguments,
    )


def _out_batch_norm(channels: int) -> ChannelBatchNorm:
    return ChannelBatchNorm(channels, channel_dim=1, zero_init=True)


def normalize(clips: torch.Tensor, config: Config) -> torch.Tensor:
    """Bytes to the numbers that the network sees: ``(clip - mean) / std``."""
    return (clips.float() - config.data.mean) / config.data.std
