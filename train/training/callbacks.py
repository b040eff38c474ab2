"""Callbacks: metrics, stopping on signals, early stopping, and non-finite values."""

from __future__ import annotations

import signal
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from torch import Tensor

from rstg_pyg.train.data.loaders import VideoLoader
from rstg_pyg.train.errors import Interrupted, NonFiniteError
from rstg_pyg.train.run_folder.metrics import MetricsFile
from rstg_pyg.train.training.checkpoints import Checkpoints
from rstg_pyg.train.training.progress import show, validation_line
from rstg_pyg.train.training.task import batch_names

_GO_ON = "a checkpoint is saved; run the same command with --resume to continue"


class Meter(pl.Callback):
    """Measures, shows and records loss, accuracy, speed and the share of time spent waiting for data.

    Writes one row of ``metrics.csv`` every ``log_every`` steps (means since the previous row) and one
    per validation. When a run is resumed, rows of steps that will be repeated are removed.

    Args:
        path: The CSV file.
        log_every: Steps between rows.
        batch_size: Videos per step, all processes together.
        loader: The loader, which measures the waiting time of each batch.
    """

    def __init__(self, path: Path, log_every: int, batch_size: int, loader: VideoLoader):
        self.file = MetricsFile(path)
        self.log_every = log_every
        self.batch_size = batch_size
        self.loader = loader
        self.steps: list[tuple[float, float]] = []  # (seconds waiting, seconds in all) of each step
        self.seconds = 0.0  # time before the run was resumed, and of pre-training
        self.clock = 0.0
        self.pretraining: dict[str, float] | None = None  # its results
        self.recent: dict[str, float] = {}  # the last row of training
        self.lr = 0.0  # of the last step

    def state_dict(self) -> dict[str, Any]:
        """The training time so far, and the results of pre-training."""
        seconds = self.seconds + sum(total for _, total in self.steps)
        return {"seconds": seconds, "pretraining": self.pretraining}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self.seconds = state_dict["seconds"]
        self.pretraining = state_dict.get("pretraining")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Creates ``metrics.csv``, or truncates it to the step from which the run is resumed."""
        if trainer.is_global_zero:
            self.file.begin(trainer.global_step)
        self.clock = time.perf_counter()

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        """Keeps the learning rate: after the step, the schedule has set the next one's."""
        self.lr = optimizer.param_groups[0]["lr"]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Measures a step; every ``log_every`` steps, shows and writes metrics."""
        parts = trainer.accumulate_grad_batches
        if (batch_idx + 1) % parts != 0:
            return
        now = time.perf_counter()
        self.steps.append((sum(self.loader.waits[-parts:]), now - self.clock))
        self.clock = now
        step = trainer.global_step
        if step % self.log_every == 0:
            values = {k: float(v) for k, v in pl_module.train_metrics.compute().items()}
            pl_module.train_metrics.reset()
            recent = self.steps[-self.log_every :]
            waited, total = (sum(column) for column in zip(*recent))
            values["videos_per_second"] = self.batch_size * len(recent) / total
            values["data_share"] = waited / total
            values["lr"] = self.lr
            self.recent = values
            shown = {"loss": "loss", "acc": "top1", "videos/s": "videos_per_second"}
            pl_module.log_dict(
                {name: values[key] for name, key in shown.items() if key in values},
                prog_bar=True,
                logger=False,
            )
            self._log(trainer, "train", values)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the validation's row; its time does not count as training."""
        found = trainer.callback_metrics
        values = {k[4:]: float(v) for k, v in found.items() if k.startswith("val/")}
        self._log(trainer, "val", values)
        if trainer.is_global_zero:
            show(validation_line(trainer.global_step, pl_module.total_steps, values, self.recent))
        self.clock = time.perf_counter()

    def _log(self, trainer: pl.Trainer, split: str, values: dict[str, float]) -> None:
        if trainer.is_global_zero:
            self.file.add(trainer.global_step, split, values)
            for logger in trainer.loggers:
                logger.log_metrics({f"{split}/{k}": v for k, v in values.items()}, trainer.global_step)

    def summary(self) -> dict[str, float]:
        """Speed and waiting time of the complete training.

        ``data_share`` is the waiting time divided by the total time, ``worst_data_share`` that of the
        worst step, and ``slow_data_steps`` the share of steps that waited for more than a tenth of
        their time.
        """
        if not self.steps:
            return {"train_seconds": self.seconds}
        waited, total = (sum(column) for column in zip(*self.steps))
        return {
            "train_seconds": self.seconds + total,
            "videos_per_second": self.batch_size * len(self.steps) / total,
            "step_ms": 1e3 * statistics.median(t for _, t in self.steps),
            "data_ms": 1e3 * statistics.median(w for w, _ in self.steps),
            "data_share": waited / total,
            "worst_data_share": max(w / t for w, t in self.steps),
            "slow_data_steps": sum(w > 0.1 * t for w, t in self.steps) / len(self.steps),
        }


class StopOnSignal(pl.Callback):
    """On Ctrl-C or SIGTERM, finishes the step, saves, and stops with :class:`Interrupted`. Several
    processes stop together, after a step that is logged.

    A second signal stops at once.

    Args:
        checkpoints: Saves the run.
    """

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints
        self.asked = False
        self.before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Installs the signal handlers."""
        if threading.current_thread() is threading.main_thread():  # Python has none in others
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True
        self._restore()
        print("\nstopping after this step; press Ctrl-C again to stop at once", flush=True)

    def _restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Saves and stops if requested; if a validation is next, stops after it."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches != 0:
            return
        if trainer.world_size > 1 and trainer.global_step % trainer.log_every_n_steps != 0:
            return  # communication between processes takes time
        if (batch_idx + 1) % trainer.val_check_batch != 0 and self._is_asked(trainer):
            self.checkpoints.save(trainer, pl_module)
            raise Interrupted(_GO_ON)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves and stops if requested (Lightning calls checkpoint callbacks after all others)."""
        if self._is_asked(trainer):
            self.checkpoints.on_validation_end(trainer, pl_module)
            raise Interrupted(_GO_ON)

    def _is_asked(self, trainer: pl.Trainer) -> bool:
        """Whether any process got a signal: all must stop after the same step."""
        if trainer.world_size == 1:
            return self.asked
        return trainer.strategy.reduce_boolean_decision(self.asked, all=False)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restores the previous signal handlers."""
        self._restore()


class StopEarly(EarlyStopping):
    """Lightning's early stopping on validation top-1 (mAP with several labels per video).

    Args:
        patience: Stops after this many consecutive validations without a better score.
        score: The metric.
    """

    def __init__(self, patience: int, score: str = "top1"):
        super().__init__(f"val/{score}", mode="max", patience=patience)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stays stopped if a stopped run is resumed."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class StopOnNonFinite(pl.Callback):
    """Stops before a NaN or infinite loss or gradient changes the weights; the last checkpoint stays
    unchanged. The message names the step, its videos and the first module with a non-finite output when
    the same batch is sent through the network once more.

    One number is read back from the device per step. Steps that the gradient scaler of float16 skips
    are not an error unless its scale has fallen below 1e-4 (fairseq's limit).
    """

    def __init__(self):
        self.batches: list[Any] = []  # of this step, several if gradients are accumulated
        self.losses: list[Tensor] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """Keeps the batch until its optimizer step is done."""
        self.batches.append(batch)

    def on_before_backward(self, trainer, pl_module, loss) -> None:
        """Keeps the loss."""
        self.losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        """Checks losses and gradients (unscaled, before clipping).

        Raises:
            NonFiniteError: If one is not finite.
        """
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        finite = torch.stack([norm, *self.losses]).isfinite().all()
        if not bool(finite):
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            if scaler is None or scaler.get_scale() < 1e-4 or bool(norm.isfinite()):
                raise NonFiniteError(self._message(trainer, pl_module, norm))
        self.batches, self.losses = [], []

    def _message(self, trainer: pl.Trainer, pl_module: pl.LightningModule, norm: Tensor) -> str:
        bad = [float(x) for x in self.losses if not x.isfinite()]
        what = f"the loss is {bad[0]}" if bad else f"the gradient norm is {float(norm)}"
        with trainer.precision_plugin.forward_context():
            module = first_nonfinite(pl_module, [clips for clips, *_ in self.batches])
        where = f"the output of module '{module}' is the first that is not finite"
        if module is None:
            named = reversed([*pl_module.named_parameters()])
            bad = [n for n, p in named if p.grad is not None and not p.grad.isfinite().all()]
            where = "all outputs are finite" + (f", the gradient of '{bad[0]}' is not" if bad else "")
        train, names = pl_module.config.train, batch_names(trainer.train_dataloader, len(self.batches))
        return (
            f"step {trainer.global_step + 1}: {what}; {where}\nits videos: {names}\nthe step was not "
            f"applied; --resume continues from the last checkpoint; often a lower train.lr (now "
            f"{train.lr:g}) or a longer train.warmup (now {train.warmup:g}) helps"
        )


def first_nonfinite(network: torch.nn.Module, inputs: list[Tensor]) -> str | None:
    """The name of the first module (the innermost one) with a non-finite output in a forward pass.

    Args:
        network: The network, in its current mode.
        inputs: The inputs, one forward pass for each.
    """
    found: list[str] = []

    def look(name: str, output: Any) -> None:
        if not found and not _is_finite(output):
            found.append(name)

    handles = [
        module.register_forward_hook(lambda _, inputs, output, name=name: look(name, output))
        for name, module in network.named_modules()
    ]
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # no hooks in compiled code
            for x in inputs:
                network(x)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _is_finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return bool(value.isfinite().all())
    return all(map(_is_finite, value)) if isinstance(value, list | tuple) else True
