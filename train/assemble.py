"""Data sets and models from a config."""

from __future__ import annotations

import torch

from rstg_pyg import ChannelBatchNorm, RSTGBlock, VideoClassifier, ZeroInitNorm
from rstg_pyg.backbones import SimpleConv
from rstg_pyg.train.data.digits import load_digits
from rstg_pyg.train.data.syncmnist import SyncMNIST
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.settings import Config, ModelConfig

_LENGTHS = {"train": "train_videos", "val": "val_videos", "test": "test_videos"}


def build_dataset(config: Config, split: str, **changes) -> SyncMNIST:
    """The data set of a split (``train``, ``val``, ``test``).

    Validation uses training digits in other videos; testing uses digits that training never sees.

    Args:
        config: The experiment.
        split: The split.
        **changes: Arguments of :class:`SyncMNIST` to replace.

    Raises:
        UserError: If the digits are missing or damaged, or a number is out of range.
    """
    data = config.data
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


def build_model(config: ModelConfig, num_classes: int, in_channels: int = 1) -> VideoClassifier:
    """The network of a config.

    Raises:
        UserError: If the parts do not fit each other.
    """
    backbone = SimpleConv(
        in_channels, config.backbone.filters, config.backbone.padding, config.backbone.pool
    )
    graph = config.rstg
    space = {}
    if graph.space_stages:
        space = dict(
            attention=graph.attention,
            heads=graph.heads,
            attention_scale=graph.attention_scale,
            dropout=graph.dropout,
        )
    try:
        head = RSTGBlock(
            config.backbone.filters[-1],
            graph.hidden_channels,
            graph.scales,
            to="vec",
            positions=graph.positions and graph.space_stages,
            map_size=graph.map_size,
            typed_update=graph.typed_update and graph.space_stages,
            out_norm=ZeroInitNorm if graph.residual else None,
            num_rounds=graph.num_rounds,
            time_stages=graph.time_stages,
            space_stages=graph.space_stages,
            cell=graph.cell,
            residual=graph.residual,
            shared_rounds=graph.shared_rounds,
            in_norm=ChannelBatchNorm if graph.in_norm == "batch" else None,
            **space,
        )
        return VideoClassifier(backbone, num_classes, head=head, dropout=config.dropout)
    except ValueError as e:
        raise UserError(f"model: {e}") from e


def normalise(clips: torch.Tensor, config: Config) -> torch.Tensor:
    """Bytes to the numbers that the network sees: ``(clip - mean) / std``."""
    return (clips.float() - config.data.mean) / config.data.std
