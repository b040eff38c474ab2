"""Lightning's trainer, the loaders, and torch's settings, from a config."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger
from torch import Tensor

from rstg_pyg.backbones.conv import Conv3d
from rstg_pyg.train.config import Config
from rstg_pyg.train.data.loaders import VideoLoader
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.training.checkpoints import AtomicCheckpointIO
from rstg_pyg.train.training.progress import ProgressBar

#: From which gain on ``trainer.precision``: ``auto`` takes bfloat16 on a processor.
LEAST_GAIN = 1.25


def on_cpu(config: Config) -> bool:
    """Whether the network runs on the CPU."""
    return config.trainer.accelerator == "cpu" or not torch.cuda.is_available()


def choose_precision(config: Config, trained: torch.nn.Module | None = None) -> Config:
    """The config with ``trainer.precision``: ``auto`` replaced by what is faster here.

    Args:
        config: The experiment.
        trained: The network, if it is to be trained.

    Raises:
        UserError: If there is no such precision here, or the network cannot be trained in it.
    """
    cpu = on_cpu(config)
    wrong = cpu and trained is not None and any(map(_wrong_in_bfloat16, trained.modules()))
    if cpu and config.trainer.precision == "16-mixed":
        raise UserError("trainer.precision: 16-mixed needs a GPU; use bf16-mixed, 32-true or auto")
    if wrong and config.trainer.precision == "bf16-mixed":
        raise UserError(
            "trainer.precision: on a CPU, torch computes wrong gradients for this backbone's 3-D "
            "convolutions in bfloat16; use 32-true or auto"
        )
    if config.trainer.precision != "auto":
        return config
    if cpu:
        faster = not wrong and _gain_of_bfloat16() > LEAST_GAIN
    else:
        faster = torch.cuda.is_bf16_supported(including_emulation=False)
    return with_precision(config, "bf16-mixed" if faster else "32-true")


def _wrong_in_bfloat16(module: torch.nn.Module) -> bool:
    """Whether it is a convolution that pads frames without :class:`rstg_pyg.backbones.conv.Conv3d`."""
    foreign = isinstance(module, torch.nn.Conv3d) and not isinstance(module, Conv3d)
    return foreign and module._reversed_padding_repeated_twice[-1] > 0


def with_precision(config: Config, precision: str) -> Config:
    """The config with another ``trainer.precision``."""
    trainer = config.trainer.model_copy(update={"precision": precision})
    return config.model_copy(update={"trainer": trainer})


def _gain_of_bfloat16() -> float:
    """How much faster a convolution is in bfloat16 than in float32 on this processor. What it can do is
    no answer: AVX512-BF16 doubles the rate of AMD's processors and halves that of Intel's without AMX.
    """
    seconds: dict[torch.dtype, float] = {}
    x, weight = torch.ones(4, 64, 28, 28), torch.ones(64, 64, 3, 3)
    for _ in range(6):  # in turns, the first is a warm-up; the best counts
        for kind in (torch.float32, torch.bfloat16):
            inputs = (x.to(kind, memory_format=torch.channels_last), weight.to(kind))
            begin = time.perf_counter()
            torch.nn.functional.conv2d(*inputs)
            took = time.perf_counter() - begin
            seconds[kind] = min(seconds.get(kind, took), took)
    return seconds[torch.float32] / seconds[torch.bfloat16]


def _moving_average(decay: float) -> Callable[[list[Tensor], list[Tensor], Any], None]:
    """An exponential moving average. torch's also averages integers, among them a graph's edges, and
    rounds them down.
    """

    @torch.no_grad()
    def average(averaged: list[Tensor], now: list[Tensor], _: Any) -> None:
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, now, 1 - decay)
        else:
            torch._foreach_copy_(averaged, now)

    return average


def prepare_torch(config: Config) -> None:
    """Sets seeds and threads, and reduces the libraries' log output."""
    if config.trainer.accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("trainer.accelerator: there is no GPU here; use auto or cpu")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    pl.seed_everything(config.seed, workers=True, verbose=False)


def prepare_model(model: torch.nn.Module, config: Config) -> None:
    """Applies the memory format and compilation of the config."""
    if config.trainer.channels_last:
        for weight in model.parameters():
            if weight.dim() == 5:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)
    if config.trainer.compile:
        model.compile()


def train_loader(config: Config, dataset) -> VideoLoader:
    """Batches (micro-batches if gradients are accumulated) for the complete training."""
    settings = config.train
    loader = VideoLoader(
        dataset,
        settings.batch_size // settings.accumulate,
        shuffle=True,
        seed=config.seed,
        num_workers=config.data.num_workers,
    )
    whole = len(dataset) // settings.batch_size * settings.accumulate
    loader.steps_per_epoch = whole or loader.steps_per_epoch
    steps = loader.steps_per_epoch * settings.epochs // settings.accumulate
    if settings.max_steps is not None:
        steps = min(steps, settings.max_steps)
    loader.steps = max(steps, 1) * settings.accumulate
    return loader


def share_batches(loader: VideoLoader, trainer: pl.Trainer) -> None:
    """Gives every process its share of each training batch.

    Raises:
        UserError: If the shares differ in size: then the gradient is not the mean over the batch.
    """
    ranks, count = trainer.world_size, len(loader.dataset)
    if loader.batch_size % ranks:
        raise UserError(
            f"train.batch_size: expected a batch divisible by {ranks} processes (got "
            f"{loader.batch_size} videos); otherwise the gradient is not the mean over the batch"
        )
    if count < loader.batch_size and count % ranks:
        fitting = count // ranks * ranks * trainer.accumulate_grad_batches
        raise UserError(
            f"train.batch_size: expected batches that {ranks} processes share equally, otherwise the "
            f"gradient is not the mean over the batch (got all {count} training videos in each); use "
            + (f"train.batch_size={fitting}" if fitting else "fewer processes")
        )
    loader.rank, loader.num_ranks = trainer.global_rank, trainer.world_size


def eval_loader(config: Config, dataset, trainer: pl.Trainer) -> VideoLoader:
    """Batches for one pass over a data set, with twice as many clips as a training batch."""
    clips = 2 * config.train.batch_size // config.train.accumulate
    return VideoLoader(
        dataset,
        max(clips // getattr(dataset, "num_clips", 1), trainer.world_size),
        num_workers=config.data.num_workers,
        rank=trainer.global_rank,
        num_ranks=trainer.world_size,
    )


def make_trainer(
    config: Config,
    folder: Path,
    callbacks: list[pl.Callback],
    loggers: Sequence[Logger] = (),
    validate_every: int | None = None,
) -> pl.Trainer:
    """Builds Lightning's trainer.

    Args:
        config: The experiment.
        folder: The run folder.
        callbacks: The callbacks. The progress bar is added if the config enables it.
        loggers: Loggers besides ``metrics.csv``.
        validate_every: Batches between validations.

    Raises:
        UserError: If Lightning does not accept a value.
    """
    settings = config.trainer
    if settings.progress_bar:
        callbacks = [*callbacks, ProgressBar()]
    if "notebook" in settings.strategy:
        raise UserError(f"trainer.strategy: {settings.strategy} is for notebooks; use auto or ddp")
    try:
        trainer = pl.Trainer(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            strategy=settings.strategy,
            precision=choose_precision(config).trainer.precision,
            # Some of torch's operations have no such form on a GPU: the gradient of average pooling.
            deterministic="warn" if settings.deterministic else None,
            max_epochs=1,  # the loader covers all epochs
            val_check_interval=validate_every,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            gradient_clip_val=config.train.clip,
            accumulate_grad_batches=config.train.accumulate,
            log_every_n_steps=config.train.log_every,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()],
            logger=list(loggers),
            default_root_dir=folder,
            enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
            enable_progress_bar=False,  # Lightning's own
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except (ValueError, pl.utilities.exceptions.MisconfigurationException) as e:
        raise UserError(f"trainer: {e}") from e
    if config.train.ema is not None:
        try:
            from pytorch_lightning.callbacks import WeightAveraging
        except ImportError as e:
            raise UserError(f"train.ema: needs pytorch-lightning 2.6 (got {pl.__version__})") from e
        # By default it would stay on the CPU, where the network still is when Lightning makes it.
        average = WeightAveraging(
            trainer.strategy.root_device, multi_avg_fn=_moving_average(config.train.ema)
        )
        trainer.callbacks.insert(0, average)  # before any that saves
    return trainer
