"""Backbones, heads and graphs from the sections of a config.

To add a backbone, add a function to ``_BACKBONES``; to add a head, one to ``_HEADS``. Their config keys
are in ``schema_model.py``.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from rstg_pyg import (
    RSTG,
    ChannelBatchNorm,
    HomogeneousRSTG,
    JointLayerNorm,
    LSTMHead,
    RegionHead,
    RelationHead,
    RSTGBlock,
    WindowMean,
    ZeroInitNorm,
    published_arguments,
)
from rstg_pyg.backbones import (
    C2D_KERNELS,
    I3D_KERNELS,
    BNInception,
    ECOLite,
    FrozenBatchNorm,
    OffsetBatchNorm,
    SimpleConv,
    TorchvisionVideo,
    VideoResNet,
    inception_i3d,
    s3dg,
)
from rstg_pyg.graphs import AreaPool
from rstg_pyg.train.config import Config
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.schema import Data
from rstg_pyg.train.schema_model import (
    Head,
    InceptionConfig,
    LSTMHeadConfig,
    RegionHeadConfig,
    RelationHeadConfig,
    ResNetConfig,
    RSTGConfig,
    SimpleConvConfig,
    TorchvisionConfig,
    WindowMeanConfig,
)
from rstg_pyg.train.skeletons.build import build_joints


@contextlib.contextmanager
def named(key: str) -> Iterator[None]:
    """A context that turns a layer's error into a :class:`UserError` that names the config's key."""
    try:
        yield
    except ValueError as e:
        raise UserError(f"{key}: {e}") from e


def build_backbone(config: Config) -> torch.nn.Module:
    """The backbone of a config."""
    return _BACKBONES[config.model.backbone.kind](config.model.backbone, config.data)


def _simple_conv(backbone: SimpleConvConfig, data: Data) -> SimpleConv:
    values = backbone.model_dump(exclude={"kind"})
    return SimpleConv(data.channels, **values)


def _resnet(backbone: ResNetConfig, data: Data) -> VideoResNet:
    kernels = {"c2d": C2D_KERNELS, "i3d": I3D_KERNELS}[backbone.kind]
    norm = {"frozen": FrozenBatchNorm, "batch": torch.nn.BatchNorm3d}[backbone.norm]
    values = backbone.model_dump(exclude={"kind", "norm", "weights"})
    return VideoResNet(kernels, in_channels=data.channels, norm=norm, **values)


#: Networks, the epsilon of their norms, and what makes a norm with batch statistics. (Published I3D and
#: S3D-G keep 0.999 of their statistics, which takes thousands of steps.)
_INCEPTIONS: dict[str, tuple[Callable[..., torch.nn.Module], float, Callable[..., torch.nn.Module]]] = {
    "bn_inception": (BNInception, 1e-5, torch.nn.BatchNorm3d),
    "eco_lite": (ECOLite, 1e-5, torch.nn.BatchNorm3d),
    "inception_i3d": (inception_i3d, 1e-3, torch.nn.BatchNorm3d),
    "s3dg": (s3dg, 1e-3, OffsetBatchNorm),
}


def _inception(backbone: InceptionConfig, data: Data) -> torch.nn.Module:
    make, eps, batch = _INCEPTIONS[backbone.kind]
    if data.channels != 3:
        raise ValueError(f"Expected clips of red, green, blue for '{backbone.kind}' (got gray ones)")
    frozen = functools.partial(FrozenBatchNorm, eps=eps)
    moving = functools.partial(batch, eps=eps, momentum=0.1)
    return make(width=backbone.width, norm=frozen if backbone.norm == "frozen" else moving)


def _torchvision(backbone: TorchvisionConfig, data: Data) -> TorchvisionVideo:
    return TorchvisionVideo(backbone.network, data.clip_shape[1:])


#: Functions that build a backbone, by ``model.backbone.kind``.
_BACKBONES: dict[str, Callable[[Any, Data], torch.nn.Module]] = {
    "simple_conv": _simple_conv,
    "c2d": _resnet,
    "i3d": _resnet,
    **dict.fromkeys(_INCEPTIONS, _inception),
    "torchvision": _torchvision,
    "joints": build_joints,
}


def build_head(head: Head, feature_map: Tensor) -> torch.nn.Module:
    """The head of a config if it has no graph, for the last map ``[B, C, T, H, W]``."""
    with named("model.head"):
        return _HEADS[head.kind](head, feature_map)


def _lstm(head: LSTMHeadConfig, feature_map: Tensor) -> LSTMHead:
    size = (feature_map.size(-2), feature_map.size(-1)) if head.spatial else None
    norm = head.in_norm == "batch"
    return LSTMHead(feature_map.size(1), head.hidden_channels, size, in_norm=norm)


def _relations(head: RelationHeadConfig, feature_map: Tensor) -> RelationHead:
    channels, frames = feature_map.shape[1:3]
    return RelationHead(channels, frames, **head.model_dump(exclude={"kind"}))


def _windows(head: WindowMeanConfig, feature_map: Tensor) -> WindowMean:
    return WindowMean(feature_map.size(1), dropout=head.dropout)


def _regions(head: RegionHeadConfig, feature_map: Tensor) -> RegionHead:
    return RegionHead(feature_map.size(1), **head.model_dump(exclude={"kind"}))


#: Functions that build a head, by ``model.head.kind``.
_HEADS: dict[str, Callable[[Any, Tensor], torch.nn.Module]] = {
    "lstm": _lstm,
    "relations": _relations,
    "regions": _regions,
    "windows": _windows,
}


def build_block(config: RSTGConfig, feature_map: Tensor, to: str) -> RSTGBlock:
    """A graph of a config, for a map ``[B, C, T, H, W]``.

    Raises:
        UserError: If a scale is finer than the map, or arguments do not fit each other.
    """
    with named("model.rstg.scales"):  # first: the graph's size grows with the scales' fourth power
        AreaPool(config.scales)(feature_map.to("meta"))
    names = ["num_rounds", "residual", "shared_rounds", "heads", "attention_scale", "dropout"]
    names += ["num_update_layers", "form"]
    if not config.homogeneous:
        names += ["time_stages", "space_stages", "cell"]
    arguments = {name: getattr(config, name) for name in names}
    if config.homogeneous:
        arguments["residual"] = config.residual is True
    norms = {"layer": JointLayerNorm, "batch": ChannelBatchNorm, None: None}
    batch_norm = functools.partial(ChannelBatchNorm, channel_dim=1, zero_init=True)
    out_norms = {"layer": ZeroInitNorm, "batch": batch_norm, None: None}
    out_norm = None if config.out_norm == "default" else config.out_norm
    if config.published:
        first = config.in_norm == "batch"
        assert config.attention is not None  # the schema has seen to it
        arguments |= published_arguments(
            config.attention, config.norm, first_batch_norm=first, out_norm=out_norm
        )
    else:
        arguments |= dict(attention=config.attention, topology=config.topology)
        arguments |= dict(in_norm=norms[config.in_norm], norm=norms[config.norm])
        arguments |= dict(out_norm=out_norms[out_norm])
    if config.out_norm == "default":
        del arguments["out_norm"]
    with named("model.rstg"):
        return RSTGBlock(
            feature_map.size(1),
            config.hidden_channels,
            config.scales,
            to=to,
            positions=config.positions and config.space_stages,
            map_size=config.map_size,
            typed_update=config.typed_update and config.space_stages,
            graph=HomogeneousRSTG if config.homogeneous else RSTG,
            **arguments,
        )
