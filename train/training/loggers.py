"""Loggers besides ``metrics.csv``: TensorBoard, or any Lightning logger named in the config."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterator
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
        step: The step from which the run is resumed.

    Raises:
        UserError: If an entry does not name a logger, or the logger cannot be created.
    """
    return [
        # Events after this step are hidden in TensorBoard, because they will be logged again.
        TensorBoardLogger(folder, name="", version="tensorboard", purge_step=step + 1)
        if entry == "tensorboard"
        else _make(entry)
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
        raise UserError(f"trainer.logger: {entry['class_path']}: cannot be created ({reason})") from e
    if not isinstance(logger, Logger):
        raise UserError(f"trainer.logger: {entry['class_path']}: expected a Lightning logger")
    return logger


@contextlib.contextmanager
def writing_events(folder: Path) -> Iterator[None]:
    """A context for ``trainer.fit``. TensorBoard writes in a thread and raises the thread's error at
    the next call. The thread prints no traceback, and the error becomes a user error.

    Raises:
        UserError: If TensorBoard cannot write.
    """
    before = threading.excepthook

    def hook(arguments: Any) -> None:
        if type(arguments.thread).__name__ != "_AsyncWriterThread":
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    except (OSError, ValueError) as e:
        cause = e.__cause__ or e  # Lightning's ValueError does not say what failed
        if not isinstance(cause, OSError):
            raise
        raise cannot_be_written(folder / "tensorboard", cause) from e
    finally:
        threading.excepthook = before
