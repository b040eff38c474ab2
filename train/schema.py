"""The schema of a config: every key, its type and its default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveInt,
    Tag,
    model_validator,
)

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Scale = PositiveInt | tuple[PositiveInt, PositiveInt]


class Section(BaseModel):
    """A part of a config: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class SyncMNISTConfig(Section):
    """Generated videos of digits; see :class:`rstg_pyg.train.data.syncmnist.SyncMNIST`."""

    dataset: Literal["syncmnist"] = "syncmnist"
    root: str | None = None
    digits: Literal["auto", "mnist", "builtin"] = "auto"
    seed: NonNegativeInt = 0
    num_digits: int = 5
    num_classes: int = 10
    num_frames: PositiveInt = 10
    frame_size: PositiveInt = 64
    canvas_size: PositiveInt = 100
    digit_size: PositiveInt = 28
    max_step: PositiveInt = 10
    none_probability: Fraction | None = None
    train_videos: PositiveInt = 600_000
    val_videos: PositiveInt = 2_000
    test_videos: PositiveInt = 10_000
    #: Mean and standard deviation of the pixels, 0..255: clips become (x - mean) / std.
    mean: float = 0.0
    std: Positive = 1.0
    #: 0: whole batches on the model's device; otherwise DataLoader workers, video by video.
    num_workers: NonNegativeInt = 0

    @property
    def channels(self) -> int:
        """Channels of a clip: grey."""
        return 1

    @property
    def size(self) -> int:
        """Side of a clip, in pixels."""
        return self.frame_size


class MiniSomethingConfig(Section):
    """The built-in data; see :func:`rstg_pyg.train.data.mini_something.write_mini_something`."""

    train: PositiveInt = 4_000
    validation: PositiveInt = 1_000
    size: PositiveInt = 64
    num_frames: PositiveInt = 12
    seed: NonNegativeInt = 0
    shake: NonNegative = 0.03
    noise: NonNegative = 12.0
    distractors: NonNegativeInt = 1


class SomethingConfig(Section):
    """Videos of Something-Something; see :class:`rstg_pyg.train.data.something.SomethingSomething`."""

    dataset: Literal["something"]
    #: The folder with the label files and the videos' folder; none: the built-in mini-something.
    root: str | None = None
    #: What the built-in data are like.
    builtin: MiniSomethingConfig = MiniSomethingConfig()
    annotations: Literal["auto", "v1", "v2", "tsm", "mmaction"] = "auto"
    source: Literal["auto", "frames", "video", "packed"] = "auto"
    seed: NonNegativeInt = 0
    num_frames: PositiveInt = 32
    short_side: PositiveInt = 256
    crop_size: PositiveInt = 224
    #: Frames of a training clip: evenly spaced (published), or one of each segment at random (TSN).
    sampling: Literal["uniform", "segments"] = "uniform"
    crop: Literal["random", "multiscale"] = "random"
    #: Largest shift of the brightness of a training clip, as a share of the whole range.
    brightness: Fraction = 0.1
    #: Mirrors half of the training clips, with the classes of directions exchanged.
    flip: bool = False
    #: Gives the frames of every clip in random order: what is the order of time worth?
    shuffle_time: bool = False
    #: Clips of a video in evaluation.
    protocol: Literal["center1", "dense11x2", "full3x2"] = "center1"
    mean: float = 114.75
    std: Positive = 57.375
    #: Processes that read videos.
    num_workers: NonNegativeInt = 4

    @property
    def channels(self) -> int:
        """Channels of a clip: red, green, blue."""
        return 3

    @property
    def size(self) -> int:
        """Side of a clip, in pixels."""
        return self.crop_size


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


def _chosen(key: str, default: str, kinds: Mapping[str, str]):
    """Which member of a union a section means, by one of its values."""

    def choose(value: Any) -> str | None:
        found = value.get(key, default) if isinstance(value, Mapping) else getattr(value, key, None)
        return kinds.get(found) if isinstance(found, str) else None

    kinds_text = ", ".join(kinds)
    return Discriminator(
        choose,
        custom_error_type="unknown_kind",
        custom_error_message=f"expected '{key}' to be one of {kinds_text}",
    )


Data = Annotated[
    Annotated[SyncMNISTConfig, Tag("syncmnist")] | Annotated[SomethingConfig, Tag("something")],
    _chosen("dataset", "syncmnist", {"syncmnist": "syncmnist", "something": "something"}),
]
Backbone = Annotated[
    Annotated[SimpleConvConfig, Tag("simple_conv")]
    | Annotated[ResNetConfig, Tag("resnet")]
    | Annotated[TorchvisionConfig, Tag("torchvision")],
    _chosen(
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


class PretrainConfig(Section):
    """Training of the filters alone before the main training, see :mod:`rstg_pyg.train.pretrain`."""

    steps: NonNegativeInt = 0
    batch_size: PositiveInt = 128
    lr: Positive = 4e-3


class TrainConfig(Section):
    """Optimisation."""

    epochs: PositiveInt = 1
    max_steps: PositiveInt | None = None
    #: Videos of a step, all processes and accumulated parts together.
    batch_size: PositiveInt = 64
    #: The batch size that ``lr`` is meant for: another one scales the rate in proportion.
    base_batch: PositiveInt | None = None
    #: Parts of a batch that go through the network one after the other.
    accumulate: PositiveInt = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.01
    momentum: Fraction = 0.9
    beta2: Fraction = 0.999
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: Fraction = 0.05
    clip: Positive | None = 1.0
    label_smoothing: Fraction = 0.0
    #: Steps between validations; each writes checkpoints.
    validate_every: PositiveInt = 1_000
    log_every: PositiveInt = 20


class TrainerConfig(Section):
    """Where and how the training runs; goes to Lightning's ``Trainer``."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: PositiveInt | Literal["auto"] = 1
    num_nodes: PositiveInt = 1
    strategy: str = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    deterministic: bool = True
    #: Keeps feature maps channels last (faster for 3-D convolutions on a GPU with mixed precision).
    channels_last: bool = False
    #: Compiles the network with ``torch.compile``.
    compile: bool = False
    #: CPU threads; torch's own choice if not given.
    threads: PositiveInt | None = None
    progress_bar: bool = True


class Config(Section):
    """A whole experiment."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_.+-]+$")
    seed: NonNegativeInt = 0
    data: Data = SyncMNISTConfig()
    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig = PretrainConfig()
    train: TrainConfig = TrainConfig()
    trainer: TrainerConfig = TrainerConfig()

    @property
    def lr(self) -> float:
        """The learning rate for the batch size of this config."""
        train = self.train
        return train.lr * (train.batch_size / (train.base_batch or train.batch_size))

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.train.batch_size % self.train.accumulate:
            raise ValueError(
                f"train.accumulate: expected a divisor of train.batch_size={self.train.batch_size} "
                f"(got {self.train.accumulate})"
            )
        backbone, rstg = self.model.backbone, self.model.rstg
        size = self.data.size
        sides = backbone.map_sides(size)
        if self.pretrain.steps and self.data.dataset != "syncmnist":
            raise ValueError("pretrain.steps: the filters can be trained alone on SyncMNIST only")
        if rstg is None or sides is None:
            return self
        sides["head"] = list(sides.values())[-1]
        finest = max(max(s) if isinstance(s, tuple) else s for s in rstg.scales)
        for place in rstg.places:
            if place not in sides:
                raise ValueError(
                    f"model.rstg.places: expected some of {', '.join(sides)} (got {place!r})"
                )
            if sides[place] < finest:
                raise ValueError(
                    f"model.rstg.scales: a scale of {finest} does not fit the feature map of "
                    f"{sides[place]} x {sides[place]} cells that frames of {size} pixels give; use "
                    f"coarser scales, fewer poolings or larger frames"
                )
        return self


def section_of(annotation: Any, value: Any) -> type[Section] | None:
    """The schema of a section: the annotation itself, or the member of a union that ``value`` means."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for member in getattr(annotation, "__args__", ()):
        inner = getattr(member, "__origin__", member)
        if not (isinstance(inner, type) and issubclass(inner, Section)):
            continue
        for key in ("dataset", "kind"):
            field = inner.model_fields.get(key)
            found = value.get(key, field.default) if field is not None and value is not None else None
            if field is not None and found in getattr(field.annotation, "__args__", ()):
                return inner
        if not {"dataset", "kind"} & set(inner.model_fields):
            return inner
    return None
