"""Loggers beside ``metrics.csv``: TensorBoard, or any of Lightning's, as the config names them."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger

from rstg_pyg.train.config import Config
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import cannot_be_written


def make_loggers(config: Config, folder: Path, step: int = 0) -> list[Logger]:
    """The loggers of ``trainer.logger``.

    Each entry is ``tensorboard`` or ``{class_path: module.Class, init_args: {...}}``.

    Args:
        config: The experiment.
        folder: The run folder.
        step: The step that the run goes on from.

    Raises:
        UserError: If an entry names no logger, or it cannot be made.
    """
    return [
        Events(folder, step) if entry == "tensorboard" else _make(entry)
        for entry in config.trainer.logger
    ]


def _make(entry: Any) -> Logger:
    if not isinstance(entry, dict) or not {"class_path"} <= entry.keys() <= {"class_path", "init_args"}:
        raise UserError(
            f"trainer.logger: expected tensorboard, or class_path and init_args (got {entry!r})"
        )
    module, _, name = str(entry["class_path"]).rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
        logger = kind(**entry.get("init_args", {}))
    except Exception as e:  # loggers raise many kinds: not installed, no key, wrong arguments
        reason = " ".join(f"{type(e).__name__}: {e}".split())[:300]
        raise UserError(f"trainer.logger: {entry['class_path']}: cannot be made ({reason})") from e
    if not isinstance(logger, Logger):
        raise UserError(f"trainer.logger: {entry['class_path']}: expected a logger of Lightning's")
    return logger


@contextlib.contextmanager
def quiet_writer() -> Iterator[None]:
    """Inside, TensorBoard's thread prints no traceback; its error is raised at the next call."""
    before = threading.excepthook

    def hook(arguments: Any) -> None:
        if type(arguments.thread).__name__ != "_AsyncWriterThread":
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


class Events(TensorBoardLogger):
    """TensorBoard's event files. What was logged after the step that a run goes on from is hidden
    there: it will be logged again.

    TensorBoard writes in a thread, and raises what went wrong there at the next call, as one of its own
    errors or TensorFlow's; here all of them are the user's. Use it inside :func:`quiet_writer`.

    Args:
        folder: The run folder.
        step: The step that the run goes on from.
    """

    def __init__(self, folder: Path, step: int):
        super().__init__(folder, name="", version="tensorboard", purge_step=step + 1)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Logs numbers."""
        self._write(lambda: super(Events, self).log_metrics(metrics, step))

    def save(self) -> None:
        """Flushes the file."""
        self._write(super().save)

    def finalize(self, status: str) -> None:
        """Closes the file."""
        self._write(lambda: super(Events, self).finalize(status))

    @property
    def experiment(self) -> Any:
        """TensorBoard's writer, which makes its folder and file."""
        return self._write(lambda: super(Events, self).experiment)

    def _write(self, write: Callable[[], Any]) -> Any:
        try:
            return write()
        except UserError:
            raise
        except Exception as e:
            cause = e.__cause__ or e  # Lightning's error says nothing
            number = getattr(cause, "errno", None)
            reason = os.strerror(number) if number else str(cause).splitlines()[0]
            raise cannot_be_written(Path(self.log_dir), OSError(number, reason)) from e
