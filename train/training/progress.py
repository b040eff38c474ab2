"""What a run shows while it works: a bar on a terminal, elsewhere a line after ten seconds and then one
a minute.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from rich import get_console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

_FIRST = 10  # seconds until the first line of a task
_SECONDS = 60  # between two lines


def on_terminal() -> bool:
    """Whether the output is a terminal or a notebook, where a line can be drawn again."""
    console = get_console()
    return console.is_jupyter or (console.is_interactive and console.file.isatty())


def show(text: str) -> None:
    """Prints a line above the bar, its markup (``[bold]``) in color only on a terminal."""
    get_console().print(text, highlight=False, soft_wrap=True)


def metrics_text(metrics: Mapping[str, float]) -> str:
    """The mean loss, the accuracy and the speed of the last steps; what is not known is left out."""
    forms = {"loss": "loss {:.3f}", "acc": "top-1 {:5.1%}", "videos/s": "{:,.0f} videos/s"}
    return "  ".join(form.format(float(metrics[k])) for k, form in forms.items() if k in metrics)


def validation_line(
    step: int, steps: int, values: Mapping[str, float], recent: Mapping[str, float]
) -> str:
    """The results of a validation as a line, aligned with those before and after it.

    Args:
        step: The optimizer step.
        steps: Optimizer steps of the whole training.
        values: The metrics of the validation.
        recent: Those of the last steps; empty if none were logged.
    """
    name = "mAP" if "mAP" in values else "top1"
    score = f"{name.replace('top', 'top-')} {values[name]:7.2%}"
    count = f"{step:{len(f'{steps:,}')},}/{steps:,}"
    trained = f"train loss {recent['loss']:.4f}  " if recent else ""
    return f"step {count}  {trained}val loss {values['loss']:.4f}  [bold]{score}[/bold]"


class ProgressBar(pl.Callback):
    """Steps, loss, accuracy, videos per second and the time left, of the first process."""

    def __init__(self):
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(None),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TextColumn("{task.fields[metrics]}"),
            TextColumn("{task.fields[left]}", style="cyan"),
            expand=True,
            transient=True,
            refresh_per_second=4,
            speed_estimate_period=600,
        )
        self.train = TaskID(0)
        self.next_line = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Starts the bar."""
        self.bar.disable = not (on_terminal() and trainer.is_global_zero)
        self.bar.start()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Removes the bar."""
        self.bar.stop()
        for task in self.bar.task_ids:
            self.bar.remove_task(task)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception) -> None:
        """Removes the bar."""
        self.teardown(trainer, pl_module, "")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Counts steps."""
        self.train = self._count("train", pl_module.total_steps, trainer.global_step)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Counts the batches of a validation, in a line of its own."""
        self._count("validate", sum(trainer.num_val_batches))

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Counts the batches of the test."""
        self._count("test", sum(trainer.num_test_batches))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Shows the step, and the metrics when they are logged."""
        if trainer.global_step % trainer.log_every_n_steps == 0:
            self.bar.update(self.train, metrics=metrics_text(trainer.progress_bar_metrics))
        self._update(trainer, trainer.global_step)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, *_: Any) -> None:
        """Shows the batch."""
        self._update(trainer, batch_idx + 1)

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, *_: Any) -> None:
        """Shows the batch."""
        self._update(trainer, batch_idx + 1)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Removes its line."""
        self.bar.remove_task(self.bar.task_ids[-1])

    def _count(self, what: str, total: float, done: int = 0) -> TaskID:
        self.next_line = time.monotonic() + _FIRST
        return self.bar.add_task(f"{what:8}", total=total, completed=done, metrics="", left="")

    def _update(self, trainer: pl.Trainer, done: int) -> None:
        """Shows how much of the last task is done."""
        task = self.bar.tasks[-1]
        seconds = task.time_remaining
        left = "" if seconds is None else f"{timedelta(seconds=int(seconds))} left"
        self.bar.update(task.id, completed=done, left=left)
        if self.bar.disable and trainer.is_global_zero and time.monotonic() >= self.next_line:
            self.next_line = time.monotonic() + _SECONDS
            count = f"{task.completed:{len(f'{task.total:,.0f}')},.0f}/{task.total:,.0f}"
            show("  ".join(filter(None, (task.description, count, task.fields["metrics"], left))))
