"""The schema of a config's section ``model``: backbone, graph, classifier."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag, model_validator

from rstg_pyg.train.schema.sections import (
    Few,
    FewOrNone,
    Fraction,
    NonNegativeInt,
    Positive,
    PositiveInt,
    Scale,
    Section,
    chosen,
)


class SimpleConvConfig(Section):
    """The per-frame convolutional network, :class:`rstg_pyg.backbones.SimpleConv`."""

    kind: Literal["simple_conv"] = "simple_conv"
    filters: Annotated[list[PositiveInt], Field(min_length=1)] = [512, 512, 512]
    padding: FewOrNone = 0
    pool: bool | list[bool] = True

    def places(self) -> list[str]:
        """The stages after which a block can go."""
        return [f"conv{i}" for i in range(len(self.filters))]

    def map_sides(self, size: int) -> dict[str, int]:
        """Cells along a side of each stage's map, for frames of ``size`` pixels."""
        sides = [side for side, _, _ in self.maps(size)]
        return dict(zip(self.places(), sides))

    def maps(self, size: int) -> list[tuple[int, float, float]]:
        """Each stage's map: cells along a side, the center of the first cell, and the distance from
        one to the next, both in pixels (pixel ``i`` spans ``i .. i + 1``).

        Raises:
            ValueError: If ``pool`` has not one value per stage.
        """
        pools = self.pool
        pools = [pools] * len(self.filters) if isinstance(pools, bool) else pools
        if len(pools) != len(self.filters):
            raise ValueError(
                f"model.backbone.pool: expected one value for each of {len(self.filters)} "
                f"stages (got {len(pools)})"
            )
        out = []
        side, first, stride = size, 0.5, 1.0
        for pool in pools:
            side = side - 2 + 2 * self.padding
            first += (1 - self.padding) * stride
            if pool:
                side, first, stride = side // 2, first + stride / 2, stride * 2
            out.append((side, first, stride))
        return out


class ResNetConfig(Section):
    """ResNet-50 for video, or a smaller one, :class:`rstg_pyg.backbones.VideoResNet`."""

    kind: Literal["c2d", "i3d"]
    nonlocal_stages: list[Literal["res2", "res3", "res4", "res5"]] = []
    #: Bottlenecks of each stage, and channels of the first one's convolutions.
    depths: Annotated[list[Few], Field(min_length=1, max_length=4)] = [3, 4, 6, 3]
    width: PositiveInt = 64
    #: For small frames: a 3 x 3 convolution without pooling before ``res2``.
    small_stem: bool = False
    #: ``frozen``: the statistics of the weights it starts from; ``batch``: those of the batch.
    norm: Literal["frozen", "batch"] = "frozen"
    pool_padding: Literal[0, 1] = 0
    last_stride: Literal[1, 2] = 1
    #: A file to start from, see :func:`rstg_pyg.backbones.load_backbone_weights`.
    weights: str | None = None

    def places(self) -> list[str]:
        """The stages in which a block can be."""
        return ["res2", "res3", "res4", "res5"][: len(self.depths)]

    def map_sides(self, size: int) -> dict[str, int]:
        """Cells along a side of each stage's map, for frames of ``size`` pixels."""
        side = (size - 1) // 2 + 1
        sides = [side if self.small_stem else (side - 3 + 2 * self.pool_padding) // 2 + 1]
        for i in range(1, len(self.depths)):
            stride = self.last_stride if i == len(self.depths) - 1 else 2
            sides.append((sides[-1] - 1) // stride + 1)
        return dict(zip(self.places(), sides))

    @model_validator(mode="after")
    def _fits(self) -> ResNetConfig:
        unknown = sorted(set(self.nonlocal_stages) - set(self.places()))
        if unknown:
            raise ValueError(
                f"model.backbone.nonlocal_stages: with {len(self.depths)} stages "
                f"(model.backbone.depths) there is no {unknown[0]}"
            )
        return self


class TorchvisionConfig(Section):
    """A video network of torchvision, :class:`rstg_pyg.backbones.TorchvisionVideo`."""

    kind: Literal["torchvision"]
    #: Its name, for example ``r2plus1d_18``, ``s3d``, ``mvit_v2_s`` or ``swin3d_t``.
    network: str

    def map_sides(self, size: int) -> None:
        """Known only when the network is built."""
        return None


Backbone = Annotated[
    Annotated[SimpleConvConfig, Tag("simple_conv")]
    | Annotated[ResNetConfig, Tag("resnet")]
    | Annotated[TorchvisionConfig, Tag("torchvision")],
    chosen(
        "kind",
        "simple_conv",
        {"simple_conv": "simple_conv", "c2d": "resnet", "i3d": "resnet", "torchvision": "torchvision"},
    ),
]


class RSTGConfig(Section):
    """The graph, :class:`rstg_pyg.RSTGBlock` and :class:`rstg_pyg.RSTG`."""

    #: Where graphs go: names of stages (RSTG-to-map), and ``head`` (RSTG-to-vec, on the last map).
    places: Annotated[list[str], Field(min_length=1)] = ["head"]
    hidden_channels: PositiveInt = 512
    scales: Annotated[list[Scale], Field(min_length=1)] = [3, 2, 1]
    num_rounds: Few = 3
    #: Time treated like space, :class:`rstg_pyg.HomogeneousRSTG`; goes with ``time_stages: none``.
    homogeneous: bool = False
    time_stages: Literal["all", "last", "none"] | list[NonNegativeInt] = "all"
    space_stages: bool = True
    cell: Literal["lstm", "gru"] = "lstm"
    residual: bool = False
    shared_rounds: bool = True
    #: The form of the published code, :func:`rstg_pyg.published_arguments`.
    published: bool = False
    in_norm: Literal["batch"] | None = None
    norm: Literal["layer", "batch"] | None = None
    #: Norm of what is added to the map or classified; ``auto``: ``layer`` for RSTG-to-map and for
    #: the residual form, otherwise none.
    out_norm: Literal["auto", "layer", "batch"] | None = "auto"
    positions: bool = True
    map_size: PositiveInt | None = None
    typed_update: bool = False
    #: ``complete``: every pair of nodes exchanges messages, see :func:`rstg_pyg.graphs.complete_graph`.
    topology: Literal["grid", "complete"] = "grid"
    num_update_layers: Few = 2
    attention: Literal["dot", "additive"] | None = "additive"
    heads: PositiveInt = 1
    attention_scale: Positive = 1.0
    dropout: Fraction = 0.0

    @model_validator(mode="after")
    def _fits(self) -> RSTGConfig:
        if self.hidden_channels % self.heads:
            raise ValueError(
                f"model.rstg.hidden_channels (got {self.hidden_channels}) must be divisible by "
                f"model.rstg.heads (got {self.heads})"
            )
        if self.time_stages in ("none", []) and not self.space_stages:
            raise ValueError(
                "model.rstg: time_stages=none and space_stages=false leave nothing; use one of them"
            )
        if self.homogeneous and (self.time_stages != "none" or self.published):
            raise ValueError(
                "model.rstg.homogeneous: time is part of the graph; use time_stages=none and "
                "published=false"
            )
        if self.topology == "complete" and (self.attention is None or not self.space_stages):
            raise ValueError("model.rstg.topology: complete needs attention and space stages")
        if isinstance(self.time_stages, list) and max(self.time_stages, default=0) >= self.num_rounds:
            raise ValueError(
                f"model.rstg.time_stages: rounds go from 0 to {self.num_rounds - 1} "
                f"(got {self.time_stages})"
            )
        other = {"residual": True, "shared_rounds": False, "cell": "gru", "attention": None}
        other |= {"space_stages": False, "time_stages": "none"}
        found = [f"{key}={value}" for key, value in other.items() if getattr(self, key) == value]
        if self.published and found:
            raise ValueError(f"model.rstg.published: the published code has no {', '.join(found)}")
        return self


class LSTMHeadConfig(Section):
    """A head without a graph, :class:`rstg_pyg.LSTMHead`."""

    kind: Literal["lstm"] = "lstm"
    #: Channels of the LSTM; none: those of the map.
    hidden_channels: PositiveInt | None = None
    #: Whether the map is kept spatial (flattened) or averaged.
    spatial: bool = False
    in_norm: Literal["batch"] | None = None


class ModelConfig(Section):
    """Backbone, graph and classifier."""

    backbone: Backbone = SimpleConvConfig()
    rstg: RSTGConfig | None = RSTGConfig()
    #: What makes the vector instead of a graph at ``head``.
    head: LSTMHeadConfig | None = None
    #: Whether the head's vector replaces the pooled map (``serial``) or is added to it (``plus``).
    combine: Literal["serial", "plus"] = "serial"
    dropout: Fraction = 0.0
    #: Cells of the windows over which the last map is averaged (14 as published; none: the whole).
    pool_window: PositiveInt | None = None
    #: Less memory for about a third more time, see :class:`rstg_pyg.VideoClassifier`.
    grad_checkpointing: bool = False

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        if self.head is not None and self.rstg is not None and "head" in self.rstg.places:
            raise ValueError(
                "model.head: there is a graph at the head already; use model.rstg=null, or other "
                "model.rstg.places"
            )
        return self
