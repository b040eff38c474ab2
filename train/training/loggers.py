"""Loggers besides ``metrics.csv``: TensorBoard, W&B, MLflow, or any Lightning logger of the config."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from rstg_pyg.train.config import Config, to_dict
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import cannot_be_written, write_json

_PROJECT = "rstg_pyg"  # in W&B and MLflow, unless the environment names another
_IDS = "loggers.json"  # under which W&B and MLflow know the run
_PICTURES = {"test/confusion": "confusion.png", "test/predictions": "predictions.png"}


def make_loggers(config: Config, folder: Path, step: int = 0) -> list[Logger]:
    """The loggers of ``trainer.logger``.

    Each entry is ``csv`` (``metrics.csv``, which every run has), ``tensorboard``, ``wandb``, ``mlflow``
    or ``{class_path: module.Class, init_args: {...}}``.

    Args:
        config: The experiment.
        folder: The run folder.
        step: The step from which the run is resumed.

    Raises:
        UserError: If an entry does not name a logger, or the logger cannot be created.
    """
    return [_make(entry, config, folder, step) for entry in config.trainer.logger if entry != "csv"]


def _make(entry: Any, config: Config, folder: Path, step: int) -> Logger:
    if entry == "tensorboard":
        # Events after this step are hidden in TensorBoard, because they will be logged again.
        return TensorBoardLogger(
            folder, name="", version="tensorboard", purge_step=step + 1, default_hp_metric=False
        )
    if isinstance(entry, str):
        if importlib.util.find_spec(entry) is None:
            raise UserError(
                f'trainer.logger: {entry} is not installed; pip install "rstg_pyg[{entry}]"'
            )
        known = _known(folder).get(entry)
        if entry == "wandb":
            project = os.environ.get("WANDB_PROJECT", _PROJECT)
            return WandbLogger(name=config.name, project=project, save_dir=folder, version=known)
        from mlflow import get_tracking_uri

        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        return MLFlowLogger(project, config.name, tracking_uri=get_tracking_uri(), run_id=known)
    if not isinstance(entry, dict) or not {"class_path"} <= entry.keys() <= {"class_path", "init_args"}:
        raise UserError(
            f"trainer.logger: expected csv, tensorboard, wandb, mlflow, or class_path and init_args "
            f"(got {entry!r})"
        )
    module, _, name = str(entry["class_path"]).rpartition(".")
    with _user_errors(entry["class_path"]):
        logger = getattr(importlib.import_module(module), name)(**entry.get("init_args", {}))
    if not isinstance(logger, Logger):
        raise UserError(f"trainer.logger: {entry['class_path']}: expected a Lightning logger")
    return logger


def _known(folder: Path) -> dict[str, str]:
    """Under which ids a run that is resumed was logged."""
    file = folder / _IDS
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


@contextlib.contextmanager
def _user_errors(name: str) -> Iterator[None]:
    """Loggers raise errors of many kinds: not installed, no key, no network, wrong arguments."""
    try:
        yield
    except Exception as e:
        reason = " ".join(f"{type(e).__name__}: {e}".split())[:300]
        raise UserError(f"trainer.logger: {name}: cannot be created ({reason})") from e


def log_setting(loggers: Sequence[Logger], config: Config, folder: Path) -> None:
    """Logs the hyperparameters of a run that begins, and writes down its ids, for ``--resume``.

    Raises:
        UserError: If a logger cannot log.
    """
    known, ids = _known(folder), {}
    for logger in loggers:
        kinds = {"wandb": WandbLogger, "mlflow": MLFlowLogger}
        name = next((name for name, kind in kinds.items() if isinstance(logger, kind)), "")
        with _user_errors(name or type(logger).__name__):
            if name not in known:
                logger.log_hyperparams(to_dict(config))
            if name:
                ids[name] = logger.version
    if ids:
        write_json(folder / _IDS, ids)


def log_results(loggers: Sequence[Logger], results: dict[str, Any], folder: Path) -> None:
    """Logs the test: its metrics, the confusion matrix, and clips with their predictions."""
    step = results["steps"]
    metrics = {f"test/{key}": results.get(key) for key in ("loss", "top1", "top5", "mAP")}
    metrics = {key: value for key, value in metrics.items() if value is not None}
    pictures = {name: folder / file for name, file in _PICTURES.items() if (folder / file).is_file()}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(results["config"], metrics, step)  # and the metrics
            for name, file in pictures.items():
                pixels = np.asarray(Image.open(file).convert("RGB"))
                logger.experiment.add_image(name, pixels, step, dataformats="HWC")
        else:
            logger.log_metrics(metrics, step)
        if isinstance(logger, WandbLogger):
            for name, file in pictures.items():
                logger.log_image(name, [str(file)], step)
        if isinstance(logger, MLFlowLogger):
            for file in pictures.values():
                logger.experiment.log_artifact(logger.run_id, str(file))
        logger.finalize("success")
    _finish(loggers)


def _finish(loggers: Sequence[Logger], code: int = 0) -> None:
    """Ends the run of W&B, with which the next run of this process would be logged."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=code)


@contextlib.contextmanager
def logging_to(loggers: Sequence[Logger], folder: Path) -> Iterator[None]:
    """A context in which loggers log. TensorBoard writes in a thread and raises the thread's error at
    the next call. The thread prints no traceback, and the error becomes a user error.

    Raises:
        UserError: If TensorBoard cannot write.
    """
    before = threading.excepthook

    def hook(arguments: Any) -> None:
        if type(arguments.thread).__name__ != "_AsyncWriterThread":
            before(arguments)

    threading.excepthook = hook
    failed = True
    try:
        yield
        failed = False
    except (OSError, ValueError) as e:
        cause = e.__cause__ or e  # Lightning's ValueError does not say what failed
        if not isinstance(cause, OSError):
            raise
        raise cannot_be_written(folder / "tensorboard", cause) from e
    finally:
        threading.excepthook = before
        if failed:
            _finish(loggers, code=1)
