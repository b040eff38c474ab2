"""The schema of a config's section ``model``: backbone, graph, classifier."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, Tag, model_validator

from rstg_pyg.train.sections import Fraction, Positive, Scale, Section, chosen


class SimpleConvConfig(Section):
    """The per-frame convolutional network, :class:`rstg_pyg.backbones.SimpleConv`."""

    kind: Literal["simple_conv"] = "simple_conv"
    filters: Annotated[list[PositiveInt], Field(min_length=1)] = [512, 512, 512]
    padding: NonNegativeInt = 0
    pool: bool | list[bool] = True

    def places(self) -> list[str]:
        """The stages after which a block can go."""
        return [f"conv{i}" for i in range(len(self.filters))]

    def map_sides(self, size: int) -> dict[str, int]:
        """Cells along a side of each stage's map, for frames of ``size`` pixels."""
        sides = [side for side, _, _ in self.maps(size)]
        return dict(zip(self.places(), sides))

    def maps(self, size: int) -> list[tuple[int, float, float]]:
        """Each stage's map: cells along a side, the centre of the first cell, and the distance from
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
    """ResNet-50 for video, :class:`rstg_pyg.backbones.VideoResNet`."""

    kind: Literal["c2d", "i3d"]
    nonlocal_stages: list[Literal["res2", "res3", "res4", "res5"]] = []
    pool_padding: Literal[0, 1] = 0
    last_stride: Literal[1, 2] = 1
    #: A file to start from, see :func:`rstg_pyg.backbones.load_backbone_weights`.
    weights: str | None = None

    def places(self) -> list[str]:
        """The stages in which a block can be."""
        return ["res2", "res3", "res4", "res5"]

    def map_sides(self, size: int) -> dict[str, int]:
        """Cells along a side of each stage's map, for frames of ``size`` pixels."""
        sides = [((size - 1) // 2 + 2 * self.pool_padding - 2) // 2 + 1]
        for stride in (2, 2, self.last_stride):
            sides.append((sides[-1] - 1) // stride + 1)
        return dict(zip(self.places(), sides))


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
    num_rounds: PositiveInt = 3
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
    num_update_layers: PositiveInt = 2
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
        if self.time_stages == "none" and not self.space_stages:
            raise ValueError(
                "model.rstg: time_stages=none and space_stages=false leave nothing; use one of them"
            )
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


class ModelConfig(Section):
    """Backbone, graph and classifier."""

    backbone: Backbone = SimpleConvConfig()
    rstg: RSTGConfig | None = RSTGConfig()
    #: Whether the head's vector replaces the pooled map (``serial``) or is added to it (``plus``).
    combine: Literal["serial", "plus"] = "serial"
    dropout: Fraction = 0.0
    #: Cells of the windows over which the last map is averaged (14 as published; none: the whole).
    pool_window: PositiveInt | None = None
    #: Less memory for about a third more time, see :class:`rstg_pyg.VideoClassifier`.
    grad_checkpointing: bool = False
