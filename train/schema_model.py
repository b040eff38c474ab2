"""The schema of a config's section ``model``, and the base class and types of all sections.

A key that is an argument of a layer has the layer's default (:func:`default`); the layer checks whether
values fit each other. To add a backbone, add a section here, make it a member of :data:`Backbone`, and
add a function to ``build_parts.py``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Strict, Tag, model_validator
from pydantic_core import PydanticCustomError

from rstg_pyg import (
    RSTG,
    LSTMHead,
    RegionHead,
    RelationHead,
    RSTGBlock,
    RSTGConv,
    VideoClassifier,
    WindowMean,
)
from rstg_pyg.backbones import BNInception, SimpleConv, VideoResNet
from rstg_pyg.train.errors import nearest

_MOST = 2**31 - 1  # limit of a count; tensor sizes are products of several
PositiveInt = Annotated[int, Field(gt=0, le=_MOST)]
NonNegativeInt = Annotated[int, Field(ge=0, le=_MOST)]
#: Range that all random generators accept.
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Fraction = Annotated[float, Field(ge=0, le=1)]
#: Decay rates of moving averages, below 1.
Decay = Annotated[float, Field(ge=0, lt=1)]
_MOST_FLOAT = 1e30  # everything is computed in float32, whose largest number is 3.4e38
Number = Annotated[float, Field(ge=-_MOST_FLOAT, le=_MOST_FLOAT)]
#: A name of a file or folder: empty, it would mean the working folder.
Place = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0, le=_MOST_FLOAT)]
NonNegative = Annotated[float, Field(ge=0, le=_MOST_FLOAT)]
#: What there is one module, one pass or one process of for each; a side of a grid has its square.
Few = Annotated[int, Field(gt=0, le=1_000)]
FewOrNone = Annotated[int, Field(ge=0, le=1_000)]
#: What is made one after the other, or held at once.
Frames = Annotated[int, Field(gt=0, le=10_000)]
Pixels = Annotated[int, Field(gt=0, le=65_536)]
Batch = Annotated[int, Field(gt=0, le=1_000_000)]
Many = Annotated[int, Field(gt=0, le=100_000_000)]
#: YAML has no tuples, so a pair is written as a list of two.
Scale = Few | Annotated[tuple[Few, Few], Strict(False)]


class Section(BaseModel):
    """Base class of sections: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        known = cls.model_fields
        for key in values if isinstance(values, Mapping) else ():
            if key not in known:
                hint = nearest(str(key), known) or f"; known keys are {', '.join(known)}"
                raise PydanticCustomError("unknown_key", "{key}", {"key": str(key), "hint": hint})
        return values


def default(layer: Callable[..., Any], argument: str) -> Any:
    """The default value of an argument of a layer or function."""
    value = inspect.signature(layer).parameters[argument].default
    return list(value) if isinstance(value, tuple) else value


def chosen(key: str, usual: str, kinds: Mapping[str, str]) -> Discriminator:
    """Selects the member of a union of sections by the value of ``key``."""

    def choose(value: Any) -> str | None:
        found = value.get(key, usual) if isinstance(value, Mapping) else getattr(value, key, None)
        return kinds.get(found) if isinstance(found, str) else None

    return Discriminator(
        choose,
        custom_error_type="unknown_kind",
        custom_error_message=f"expected '{key}' to be one of {', '.join(kinds)}",
    )


class SimpleConvConfig(Section):
    """The per-frame convolutional network, :class:`rstg_pyg.backbones.SimpleConv`."""

    kind: Literal["simple_conv"] = "simple_conv"
    filters: Annotated[list[PositiveInt], Field(min_length=1)] = default(SimpleConv, "filters")
    padding: FewOrNone = default(SimpleConv, "padding")
    pool: bool | list[bool] = default(SimpleConv, "pool")
    difference: bool = default(SimpleConv, "difference")
    out_channels: PositiveInt | None = default(SimpleConv, "out_channels")


class ResNetConfig(Section):
    """ResNet-50 for video, or a smaller one, :class:`rstg_pyg.backbones.VideoResNet`."""

    kind: Literal["c2d", "i3d"]
    nonlocal_stages: list[Literal["res2", "res3", "res4", "res5"]] = default(
        VideoResNet, "nonlocal_stages"
    )
    #: Stages with a block of MFNet at their end, and how many times fewer channels it sees.
    motion_stages: list[Literal["res2", "res3", "res4", "res5"]] = default(VideoResNet, "motion_stages")
    motion_reduction: Few = default(VideoResNet, "motion_reduction")
    #: Bottlenecks of each stage, and channels of the first one's convolutions.
    depths: Annotated[list[Few], Field(min_length=1, max_length=4)] = default(VideoResNet, "depths")
    width: PositiveInt = default(VideoResNet, "width")
    #: For small frames: a 3 x 3 convolution without pooling before ``res2``.
    small_stem: bool = default(VideoResNet, "small_stem")
    #: ``frozen``: fixed statistics, from the loaded weights; ``batch``: batch statistics.
    norm: Literal["frozen", "batch"] = "frozen"
    pool_padding: Literal[0, 1] = default(VideoResNet, "pool_padding")
    last_stride: Literal[1, 2] = default(VideoResNet, "last_stride")
    #: Whether the frames are halved after ``res2``.
    pool_frames: bool = default(VideoResNet, "pool_frames")
    #: A file to start from, see :func:`rstg_pyg.backbones.load_backbone_weights`.
    weights: Place | None = None


class TorchvisionConfig(Section):
    """A video network of torchvision, :class:`rstg_pyg.backbones.TorchvisionVideo`."""

    kind: Literal["torchvision"]
    #: Its name, for example ``r2plus1d_18``, ``s3d``, ``mvit_v2_s`` or ``swin3d_t``.
    network: str
    #: What to start from: the name of torchvision's weights, such as ``KINETICS400_V1``, or a file of
    #: them. Keys of ``data`` that are not given are then those with which the weights were trained,
    #: see :func:`rstg_pyg.backbones.preprocessing`.
    weights: Place | None = None


class InceptionConfig(Section):
    """BN-Inception, ECO-Lite, I3D of 3-D Inception, or S3D-G: see :mod:`rstg_pyg.backbones`.

    ``data.mean`` and ``data.std`` that are not given are those of :data:`INPUTS`.
    """

    kind: Literal["bn_inception", "eco_lite", "inception_i3d", "s3dg"]
    #: Channels of the first stage; the others are in proportion.
    width: PositiveInt = default(BNInception, "width")
    #: ``frozen``: fixed statistics; ``batch``: batch statistics.
    norm: Literal["frozen", "batch"] = "batch"
    #: A file to start from, see :func:`rstg_pyg.backbones.load_backbone_weights`.
    weights: Place | None = None


_CAFFE_INPUT = {"mean": [128.0, 117.0, 104.0], "std": 1.0}  # of RGB; the networks turn it to BGR
_SLIM_INPUT = {"mean": 127.5, "std": 127.5}  # -1..1
#: Mean and standard deviation of the pixels for which backbones were made, by their kind.
INPUTS: dict[str, dict[str, Any]] = {
    "bn_inception": _CAFFE_INPUT,
    "eco_lite": _CAFFE_INPUT,
    "inception_i3d": _SLIM_INPUT,
    "s3dg": _SLIM_INPUT,
}


class JointsConfig(Section):
    """The encoder of skeletons' joints, :class:`rstg_pyg.train.skeletons.parts.JointEncoder`. The graph
    at ``head`` is then that of the joints (``scales`` and ``topology`` have no meaning).
    """

    kind: Literal["joints"]
    channels: PositiveInt = 32
    dropout: Fraction = 0.0


Backbone = Annotated[
    Annotated[SimpleConvConfig, Tag("simple_conv")]
    | Annotated[ResNetConfig, Tag("resnet")]
    | Annotated[InceptionConfig, Tag("inception")]
    | Annotated[TorchvisionConfig, Tag("torchvision")]
    | Annotated[JointsConfig, Tag("joints")],
    chosen(
        "kind",
        "simple_conv",
        {
            **{"simple_conv": "simple_conv", "c2d": "resnet", "i3d": "resnet"},
            **dict.fromkeys(INPUTS, "inception"),
            "torchvision": "torchvision",
            "joints": "joints",
        },
    ),
]


class RSTGConfig(Section):
    """The graph, :class:`rstg_pyg.RSTGBlock` and :class:`rstg_pyg.RSTG`."""

    #: Where graphs go: names of stages (RSTG-to-map), and ``head`` (RSTG-to-vec, on the last map).
    places: Annotated[list[str], Field(min_length=1)] = ["head"]
    #: Channels of the graph; null: those of the map.
    hidden_channels: PositiveInt | None = default(RSTGBlock, "hidden_channels")
    scales: Annotated[list[Scale], Field(min_length=1)] = default(RSTGBlock, "scales")
    form: Literal["skip", "paper"] = default(RSTG, "form")
    num_rounds: Few | None = default(RSTG, "num_rounds")
    #: Time treated like space, :class:`rstg_pyg.HomogeneousRSTG`; requires ``time_stages: none``.
    homogeneous: bool = False
    time_stages: Literal["all", "last", "none"] | list[NonNegativeInt] = default(RSTG, "time_stages")
    space_stages: bool = default(RSTG, "space_stages")
    cell: Literal["lstm", "gru"] = default(RSTG, "cell")
    #: ``time``: only the time stages of the rounds; ``all_time``: the last one, too. Homogeneous
    #: graphs, which have none, ignore both.
    residual: Literal[False, True, "time", "all_time"] | None = default(RSTG, "residual")
    shared_rounds: bool = default(RSTG, "shared_rounds")
    #: The form of the published code, :func:`rstg_pyg.published_arguments`.
    published: bool = False
    in_norm: Literal["batch"] | None = default(RSTG, "in_norm")
    norm: Literal["layer", "batch"] | None = default(RSTGConv, "norm")
    #: Norm of the block's output; ``default``: the block's own default, ``layer`` for RSTG-to-map and
    #: none for RSTG-to-vec.
    out_norm: Literal["default", "layer", "batch"] | None = "default"
    positions: bool = default(RSTGBlock, "positions")
    map_size: PositiveInt | None = default(RSTGBlock, "map_size")
    typed_update: bool = default(RSTGBlock, "typed_update")
    #: ``complete``: every pair of nodes exchanges messages, see :func:`rstg_pyg.graphs.complete_graph`.
    topology: Literal["grid", "complete"] = default(RSTGBlock, "topology")
    num_update_layers: Few = default(RSTGConv, "num_update_layers")
    attention: Literal["dot", "additive"] | None = default(RSTGConv, "attention")
    heads: PositiveInt = default(RSTGConv, "heads")
    attention_scale: Positive | None = default(RSTGConv, "attention_scale")
    dropout: Fraction = default(RSTGConv, "dropout")

    @model_validator(mode="before")
    @classmethod
    def _without_auto(cls, values: Any) -> Any:
        """Older configs and checkpoints say ``out_norm: auto``, which meant this."""
        if isinstance(values, dict) and values.get("out_norm") == "auto":
            places = values.get("places", ["head"])
            vector = None if places == ["head"] else "default"
            layer = values.get("residual") is True or "head" not in places
            return {**values, "out_norm": "layer" if layer else vector}
        return values

    @model_validator(mode="before")
    @classmethod
    def _with_form(cls, values: Any) -> Any:
        """Runs keep all keys of their configs. Those before there was a ``form`` had the paper's."""
        if isinstance(values, dict) and set(cls.model_fields) - set(values) == {"form"}:
            return {**values, "form": "paper"}
        return values

    @model_validator(mode="after")
    def _fits(self) -> RSTGConfig:
        recurrent = self.time_stages != "none" or self.published or not self.space_stages
        if self.homogeneous and recurrent:
            raise ValueError(
                "model.rstg.homogeneous: time is part of the graph; use time_stages=none, "
                "space_stages=true and published=false"
            )
        other: dict[str, Any] = {"residual": self.residual or True, "shared_rounds": False}
        other |= {"cell": "gru", "attention": None}
        other |= {"space_stages": False, "time_stages": "none"}
        found = [f"{key}={value}" for key, value in other.items() if getattr(self, key) == value]
        if self.published and found:
            raise ValueError(f"model.rstg.published: the published code has no {', '.join(found)}")
        return self


class LSTMHeadConfig(Section):
    """A head without a graph, :class:`rstg_pyg.LSTMHead`."""

    kind: Literal["lstm"] = "lstm"
    #: Channels of the LSTM; null: those of the map.
    hidden_channels: PositiveInt | None = default(LSTMHead, "hidden_channels")
    #: Whether the map is kept spatial (flattened) or averaged.
    spatial: bool = False
    in_norm: Literal["batch"] | None = None


class RelationHeadConfig(Section):
    """Relations of frames (TRN), :class:`rstg_pyg.RelationHead`, for ``data.num_frames`` frames."""

    kind: Literal["relations"]
    hidden_channels: PositiveInt = default(RelationHead, "hidden_channels")
    multi_scale: bool = default(RelationHead, "multi_scale")
    #: Sets of frames of every scale.
    num_relations: Few = default(RelationHead, "num_relations")
    dropout: Fraction = default(RelationHead, "dropout")


class RegionHeadConfig(Section):
    """A graph of regions (Joint GCN), :class:`rstg_pyg.RegionHead`: of ``data.boxes``, or of a grid."""

    kind: Literal["regions"]
    hidden_channels: PositiveInt = default(RegionHead, "hidden_channels")
    #: Layers of each of its branches.
    num_layers: Few = default(RegionHead, "num_layers")
    norm: Literal["layer"] | None = default(RegionHead, "norm")
    #: The regions of a grid of these scales, instead of boxes.
    grid: Annotated[list[Scale], Field(min_length=1)] | None = default(RegionHead, "grid")
    #: Cells along each side of a region, and what is taken of them.
    roi_size: Few = default(RegionHead, "roi_size")
    roi_pool: Literal["max", "mean"] = default(RegionHead, "roi_pool")


class WindowMeanConfig(Section):
    """The head of I3D and S3D-G, :class:`rstg_pyg.WindowMean`."""

    kind: Literal["windows"]
    #: Of the means over windows, as published; ``model.dropout`` drops a channel in all windows.
    dropout: Fraction = default(WindowMean, "dropout")


class STGCNConfig(Section):
    """A network of skeletons to compare with, :class:`rstg_pyg.train.skeletons.parts.STGCN`."""

    kind: Literal["st_gcn"]
    num_blocks: Few = 2
    #: Frames of a convolution over time, an odd number.
    kernel_size: Few = 9
    dropout: Fraction = 0.0

    @model_validator(mode="after")
    def _odd(self) -> STGCNConfig:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"model.head.kernel_size: expected an odd number (got {self.kernel_size})")
        return self


Head = Annotated[
    Annotated[LSTMHeadConfig, Tag("lstm")]
    | Annotated[RelationHeadConfig, Tag("relations")]
    | Annotated[RegionHeadConfig, Tag("regions")]
    | Annotated[WindowMeanConfig, Tag("windows")]
    | Annotated[STGCNConfig, Tag("st_gcn")],
    chosen(
        "kind",
        "lstm",
        {kind: kind for kind in ("lstm", "relations", "regions", "windows", "st_gcn")},
    ),
]


class ModelConfig(Section):
    """Backbone, graph and classifier."""

    backbone: Backbone = SimpleConvConfig()
    rstg: RSTGConfig | None = RSTGConfig()
    #: Computes the vector to classify, instead of a graph at ``head``.
    head: Head | None = None
    #: Whether the head's vector replaces the pooled map (``serial``) or is added to it (``plus``).
    combine: Literal["serial", "plus"] = default(VideoClassifier, "combine")
    dropout: Fraction = default(VideoClassifier, "dropout")
    #: Window size of the average pooling of the last map (14 as published; null: the complete map).
    pool_window: PositiveInt | None = default(VideoClassifier, "pool_window")
    #: Gradient checkpointing (less memory, more time), see :class:`rstg_pyg.VideoClassifier`.
    grad_checkpointing: bool = default(VideoClassifier, "grad_checkpointing")

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        if self.head is not None and self.rstg is not None and "head" in self.rstg.places:
            raise ValueError(
                "model.head: there is a graph at the head already; use model.rstg=null, or other "
                "model.rstg.places"
            )
        return self
