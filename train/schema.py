"""The schema of a config: every key, its type and its default.

To add a data set, add a section here, add it to :data:`Data`, and add a function to ``build.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, Tag, model_validator

from rstg_pyg.backbones import available_networks, preprocessing
from rstg_pyg.train.schema_model import (
    INPUTS,
    Batch,
    Decay,
    Few,
    FewOrNone,
    Fraction,
    Frames,
    Many,
    ModelConfig,
    NonNegative,
    NonNegativeInt,
    Number,
    Pixels,
    Place,
    Positive,
    PositiveInt,
    RegionHeadConfig,
    Section,
    Seed,
    SimpleConvConfig,
    chosen,
)
from rstg_pyg.train.schema_skeletons import SkeletonConfig
from rstg_pyg.train.schema_syncmnist import SyncMNISTConfig


class MiniSomethingConfig(Section):
    """The built-in data; see :func:`rstg_pyg.train.data.mini.write_mini_something`."""

    train: Many = 4_000
    validation: Many = 1_000
    #: Side of the frames, in pixels.
    size: PositiveInt = 64
    num_frames: Frames = 12
    seed: Seed = 0
    #: Largest displacement of the camera, as a fraction of the frame's side (up to 0.2).
    shake: NonNegative = 0.03
    #: Largest noise of a pixel, in gray levels.
    noise: NonNegative = 12.0
    #: Largest number of small distractor objects.
    distractors: NonNegativeInt = 1


class ClipsConfig(Section):
    """Clips of videos; see :class:`rstg_pyg.train.data.clips.VideoClips`."""

    #: Where frames come from: folders of images, video files, or a packed store; auto detects it.
    source: Literal["auto", "frames", "video", "packed"] = "auto"
    seed: Seed = 0
    num_frames: Frames = 32
    #: Frames are resized to this short side, in pixels.
    short_side: Pixels = 256
    #: Side of a clip, in pixels, cropped from the resized frames.
    crop_size: Pixels = 224
    #: Frames of a training clip: evenly spaced over the video (published), one random frame of each
    #: segment (TSN), or frames ``frame_stride`` apart from a random one on (dense).
    sampling: Literal["uniform", "segments", "dense"] = "uniform"
    #: Of ``dense``: from one frame of a clip to the next. A video that is too short for it is sampled
    #: evenly.
    frame_stride: PositiveInt = 1
    #: Crops of training clips: random position, or also random size (TSM).
    crop: Literal["random", "multiscale"] = "random"
    #: Largest shift of the brightness of a training clip, as a fraction of the full range.
    brightness: Fraction = 0.1
    #: Color jitter: largest relative change of a training clip's brightness, contrast and saturation.
    color_jitter: Fraction = 0.0
    #: RandAugment: two random changes of a training clip, of this magnitude (9 is usual); 0: none.
    rand_augment: Annotated[int, Field(ge=0, le=30)] = 0
    #: Flips half of the training clips horizontally and swaps the labels of left/right classes.
    flip: bool = False
    #: Shuffles the frames of every clip, to measure how much their order matters.
    shuffle_time: bool = False
    #: Clips of a video in evaluation.
    protocol: Literal["center1", "dense11x2", "full3x2"] = "center1"
    #: Mean and standard deviation of the pixels, 0..255: clips become (x - mean) / std. One number, or
    #: one for each of red, green and blue.
    mean: Number | Annotated[list[Number], Field(min_length=3, max_length=3)] = 114.75
    std: Positive | Annotated[list[Positive], Field(min_length=3, max_length=3)] = 57.375
    #: Number of DataLoader workers.
    num_workers: FewOrNone = 4
    #: A folder with boxes of a detector for ``model.head.kind: regions``, a file for every video, see
    #: :class:`rstg_pyg.train.data.boxes.Boxes`; ``builtin``: those of the built-in data.
    boxes: Place | None = None
    #: Boxes per frame; the first ones are taken.
    num_boxes: Few = 10
    #: A video that cannot be read ends the run, or is skipped, counted and listed (skipped.csv).
    on_error: Literal["raise", "skip"] = "raise"
    #: Goes on without the videos of the lists that are not there.
    partial: bool = False

    @property
    def channels(self) -> int:
        """Channels of a clip: red, green, blue."""
        return 3

    @property
    def size(self) -> int:
        """Side of a clip, in pixels."""
        return self.crop_size

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """Channels, frames, rows and columns of a clip."""
        return self.channels, self.num_frames, self.size, self.size


class SomethingConfig(ClipsConfig):
    """Videos of Something-Something; see :class:`rstg_pyg.train.data.something.SomethingSomething`."""

    dataset: Literal["something"]
    #: The folder with the label files and the videos' folder; none: the built-in mini-something.
    root: Place | None = None
    #: Settings of the built-in data.
    builtin: MiniSomethingConfig = MiniSomethingConfig()
    #: Format of the label files: v1, v2, TSM or mmaction; auto detects it.
    annotations: Literal["auto", "v1", "v2", "tsm", "mmaction"] = "auto"
    #: The share of the training list that is kept for validation, chosen by a hash of the ids. With 0,
    #: validation videos are those of their own list.
    val_fraction: Fraction = 0.0


class FolderConfig(ClipsConfig):
    """One's own videos; see :class:`rstg_pyg.train.data.folder.VideoFolder`."""

    dataset: Literal["folder"]
    #: The folder with ``train/CLASS/clip.mp4``, or one of the other layouts.
    root: Place | None = None
    #: Where there is no validation split: the share of each class's training videos that is kept for
    #: it, chosen by a hash of their names.
    val_fraction: Fraction = 0.2
    #: Which of these shares, from 0: with 0.2, folds 0 to 4 are those of five-fold cross-validation.
    val_fold: NonNegativeInt = 0
    #: The split that results are of; by default ``"test"``, or ``"val"`` where there is none.
    test_split: Literal["train", "val", "test"] | None = None


Data = Annotated[
    Annotated[SyncMNISTConfig, Tag("syncmnist")]
    | Annotated[SomethingConfig, Tag("something")]
    | Annotated[FolderConfig, Tag("folder")]
    | Annotated[SkeletonConfig, Tag("skeleton")],
    chosen(
        "dataset",
        "syncmnist",
        {name: name for name in ("syncmnist", "something", "folder", "skeleton")},
    ),
]


class PretrainConfig(Section):
    """Pre-training of the backbone on single frames, before the main training.

    See :mod:`rstg_pyg.train.training.pretrain`.
    """

    steps: NonNegativeInt = 0
    batch_size: Batch = 128
    lr: Positive = 4e-3
    #: Digits in the videos; null: ``data.num_digits``.
    num_digits: PositiveInt | None = None
    #: A ``.safetensors`` file of the backbone, for several runs: read if it exists, otherwise written.
    file: Place | None = None


class TrainConfig(Section):
    """Optimization."""

    #: Weights to start from: a run folder, a checkpoint or a safetensors file of this project, or the
    #: name of a model that comes along. Tensors that fit by name and shape are taken, and no
    #: ``model.backbone.weights``.
    init: Place | None = None
    #: Stages of the backbone that are not trained (``backbone``: all of them).
    freeze: list[str] = []
    epochs: Batch = 1
    #: Ends the training after this many steps, or after ``epochs``, whichever comes first.
    max_steps: PositiveInt | None = None
    #: Videos per optimizer step, over all processes and accumulated micro-batches.
    batch_size: Batch = 64
    #: The batch size that ``lr`` is meant for: another one scales the rate in proportion.
    base_batch: PositiveInt | None = None
    #: Gradient accumulation: micro-batches per batch.
    accumulate: PositiveInt = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    #: The highest learning rate.
    lr: Positive = 1e-3
    #: That of the backbone; null: ``lr``.
    backbone_lr: Positive | None = None
    weight_decay: NonNegative = 0.01
    #: Of ``sgd``; of ``adamw`` it is beta1.
    momentum: Decay = 0.9
    #: Of ``adamw``.
    beta2: Decay = 0.999
    #: ``multistep``: a tenth of the rate from each of the ``milestones`` on.
    schedule: Literal["cosine", "constant", "multistep"] = "cosine"
    #: Of ``multistep``: fractions of all steps.
    milestones: list[Fraction] = []
    #: Fraction of all steps in which the learning rate rises from zero (warm-up).
    warmup: Fraction = 0.05
    #: Gradient clipping: largest norm of the gradients; null: no clipping.
    clip: Positive | None = 1.0
    label_smoothing: Fraction = 0.0
    #: ``balanced``: the loss weighs every class by the inverse of its number of training videos.
    class_weights: Literal["balanced"] | None = None
    #: Mixup and CutMix of training clips: alpha of their Beta distribution; 0: none. With both, every
    #: batch has one of them.
    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0
    #: Decay of the exponential moving average of the weights, which is then validated, tested and
    #: kept (0.99 for some hundred steps, 0.999 for some thousand); null: none.
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    #: Steps between validations (the last step has one as well); each writes checkpoints. With 0 there
    #: are none, and a checkpoint is written every 1,000 steps.
    validate_every: NonNegativeInt = 1_000
    #: Early stopping after this many validations without a better top-1; null: never.
    early_stopping: PositiveInt | None = None
    log_every: PositiveInt = 20


class TrainerConfig(Section):
    """Hardware and runtime settings, passed to Lightning's ``Trainer``."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: Few | Literal["auto"] = 1
    num_nodes: PositiveInt = 1
    strategy: str = "auto"
    #: ``auto``: bf16-mixed where it is faster (a GPU with bfloat16, or measured in the first
    #: milliseconds of a run: a processor with AMX, or of AMD with AVX512-BF16), else 32-true. A run
    #: records what was chosen, and goes on with it.
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    #: Deterministic operations where torch has them; otherwise it warns (a few, on a GPU).
    deterministic: bool = True
    #: Channels-last memory format (faster for 3-D convolutions on a GPU with mixed precision).
    channels_last: bool = False
    #: Compiles the network with ``torch.compile``.
    compile: bool = False
    #: On a GPU: records forward and backward pass as a CUDA graph and replays it. Faster for
    #: networks of many small kernels. For one process, without ``train.accumulate`` and ``compile``.
    cuda_graph: bool = False
    #: CPU threads; null: torch's default.
    threads: Annotated[PositiveInt, Field(le=4096)] | None = None
    #: Shows a bar on a terminal, and a line now and then where the output goes to a file.
    progress_bar: bool = True
    #: Loggers: csv (metrics.csv, which every run has), tensorboard, wandb, mlflow, or any logger of
    #: Lightning as {class_path: ..., init_args: {...}}.
    logger: list[Literal["csv", "tensorboard", "wandb", "mlflow"] | dict[str, Any]] = ["tensorboard"]


def _given(values: Any, key: str) -> dict[str, Any]:
    """The values that a section was given, whether it is a mapping or a section already."""
    section = values.get(key) if isinstance(values, Mapping) else None
    if isinstance(section, Section):
        return section.model_dump(exclude_unset=True)
    return dict(section) if isinstance(section, Mapping) else {}


class Config(Section):
    """A complete experiment."""

    #: Also the name of the run folder.
    name: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_+-][A-Za-z0-9_.+-]*$")
    seed: Seed = 0
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

    @model_validator(mode="before")
    @classmethod
    def _as_pretrained(cls, values: Any) -> Any:
        """Data that are not given are as in the training of torchvision's weights, and pixels as the
        kind of backbone has them.
        """
        given = {key: _given(values, key) for key in ("data", "model")}
        backbone = _given(given["model"], "backbone")
        kind, network, weights = (backbone.get(key) for key in ("kind", "network", "weights"))
        if given["data"].get("dataset") not in ("something", "folder"):
            return values
        usual = INPUTS.get(kind, {}) if isinstance(kind, str) else {}
        if network in available_networks() and isinstance(weights, str):
            usual = {"sampling": "dense", **preprocessing(network, weights)}
        return {**values, "data": {**usual, **given["data"]}} if usual else values

    @model_validator(mode="after")
    def _fits(self) -> Config:
        train, rstg = self.train, self.model.rstg
        if train.class_weights is not None and self.data.dataset == "syncmnist":
            raise ValueError("train.class_weights: SyncMNIST's classes are drawn; leave it out")
        self._check_boxes()
        if train.schedule == "multistep" and not train.milestones:
            raise ValueError(
                "train.milestones: expected some with train.schedule=multistep, fractions of all steps "
                "such as [0.5, 0.75] (got none, so the rate would never fall)"
            )
        if train.batch_size % train.accumulate:
            raise ValueError(
                f"train.accumulate: expected a divisor of train.batch_size={train.batch_size} "
                f"(got {train.accumulate})"
            )
        if self.pretrain.steps:
            self._check_pretraining()
        one = train.batch_size == train.accumulate
        if (train.mixup or train.cutmix) and one:
            raise ValueError(
                f"train.{'mixup' if train.mixup else 'cutmix'}: mixing needs more than one video at a "
                f"time; use a larger train.batch_size or a smaller train.accumulate"
            )
        if train.cutmix and isinstance(self.data, SkeletonConfig):
            raise ValueError("train.cutmix: skeletons have no pixels to cut out; use train.mixup")
        if rstg is not None and rstg.out_norm == "batch" and "head" in rstg.places and one:
            raise ValueError(
                "model.rstg.out_norm: batch norm of the head's vector needs more than one video at a "
                "time; use a larger train.batch_size, a smaller train.accumulate, or out_norm=layer"
            )
        return self

    def _check_pretraining(self) -> None:
        data, backbone = self.data, self.model.backbone
        if not isinstance(data, SyncMNISTConfig):
            raise ValueError("pretrain.steps: pre-training works on SyncMNIST only")
        if not isinstance(backbone, SimpleConvConfig):
            raise ValueError("pretrain.steps: pre-training works for a simple_conv only")
        out, wanted = backbone.out_channels, 3 * data.num_classes
        if out is not None and not (out == wanted and backbone.difference):
            raise ValueError(
                f"model.backbone.out_channels: pre-training expects {wanted}, the presence and step of "
                f"{data.num_classes} classes of digits, and difference: true (got {out})"
            )

    def _check_boxes(self) -> None:
        """Boxes and a head that takes them go together, and nothing moves pixels without them."""
        head, boxes = self.model.head, getattr(self.data, "boxes", None)
        needed = isinstance(head, RegionHeadConfig) and head.grid is None
        if needed and boxes is None:
            raise ValueError(
                "model.head: regions are those of data.boxes, a folder with the boxes of a detector; "
                "give it, or use the regions of a grid, model.head.grid=[3,2,1]"
            )
        if boxes is None:
            return
        assert isinstance(self.data, ClipsConfig)  # the others have none
        if not needed:
            raise ValueError("data.boxes: the network takes none; use model.head.kind=regions")
        if boxes == "builtin" and self.data.root is not None:
            raise ValueError("data.boxes: builtin is for the built-in data; give a folder of boxes")
        moving = {"data.rand_augment": self.data.rand_augment, "train.mixup": self.train.mixup}
        moving["train.cutmix"] = self.train.cutmix
        for key, value in moving.items():
            if value:
                raise ValueError(f"{key}: data.boxes do not follow it; use one or the other")
