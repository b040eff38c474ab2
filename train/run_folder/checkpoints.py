"""Checkpoints that are whole or not there, and that say which config they belong to."""

from __future__ import annotations

import errno
import os
import re
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import CheckpointIO

from rstg_pyg.train.config import Config, differences, parse_config, to_dict
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import (
    cannot_be_written,
    flush_folder,
    remove_leftovers,
    write_atomically,
)

#: Settings that may change between a run and its continuation.
_FREE = (
    *("name", "data.root", "data.num_workers", "data.on_error", "data.test_videos"),
    *("trainer.", "train.log_every"),
)

_KEYS = {"config": [dict], "origin": [str], "global_step": [int], "state_dict": [dict, OrderedDict]}

_KEPT = 3  # checkpoints of a run, beside the best


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's checkpoints, written atomically and read without running code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None):
        """Writes a checkpoint."""
        write_atomically(Path(path), lambda p: _save(checkpoint, p))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None):
        """Reads a checkpoint."""
        return read_checkpoint(Path(path), map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        """Removes a checkpoint."""
        Path(path).unlink(missing_ok=True)


def _save(checkpoint: dict[str, Any], path: Path) -> None:
    try:
        torch.save(checkpoint, path)
    except RuntimeError as e:  # torch's zip writer on a full disk
        raise OSError(None, str(e).splitlines()[0]) from e


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints of a run that it can go on with, those of the most steps first."""
    found = [*sorted(_numbered(folder), key=_step, reverse=True), folder / "last.ckpt"]
    return [path for path in found if path.is_file()]


def _numbered(folder: Path) -> list[Path]:
    return [path for path in folder.glob("step-*.ckpt") if re.fullmatch(r"step-\d+", path.stem)]


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint of a run that is whole, or None if none was written yet. Says so if newer
    ones are damaged.

    Args:
        folder: The run's folder of checkpoints.

    Raises:
        UserError: If there are some, but none is whole.
    """
    problems = []
    for path in newest_first(folder):
        try:
            read_checkpoint(path)
        except UserError as e:
            problems.append(str(e))
            continue
        for problem in problems:
            print(f"{problem}; {path.name} before it is used", flush=True)
        return path
    if problems:
        raise UserError(
            f"{problems[0]}, and no other in {folder} is; begin again without --resume in another "
            f"folder"
        )
    return None


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Reads a checkpoint of this project.

    Raises:
        UserError: If the file is missing, damaged, holds anything but plain values and tensors, or
            was written by another program.
    """
    if not path.is_file():
        near = sorted(str(p) for p in path.parent.glob("*.ckpt"))[:3]
        hint = f"; there is {', '.join(near)}" if near else ""
        raise UserError(f"{path}: there is no such checkpoint{hint}")
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not compare the checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"wrong checksum of {damaged}")
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as e:  # torch raises many kinds for damaged and foreign files
        reason = str(e).splitlines()[0][:120] if str(e) else type(e).__name__
        raise UserError(f"{path}: not a whole checkpoint of rstg_pyg ({reason})") from e
    if not isinstance(checkpoint, dict) or not all(
        type(checkpoint.get(key)) in kinds for key, kinds in _KEYS.items()
    ):
        raise UserError(f"{path}: not a checkpoint of rstg_pyg (it has no config); it cannot be used")
    return checkpoint


def check_resumable(path: Path, config: Config) -> tuple[str, int]:
    """Reads a checkpoint and makes sure that it continues this very run.

    Returns:
        The kind of data that the run began with, and the checkpoint's step.

    Raises:
        UserError: If it cannot be read or belongs to another config; the message names the keys.
    """
    checkpoint = read_checkpoint(path)
    changed = [
        line
        for line in differences(saved_config(checkpoint["config"], path), to_dict(config))
        if not line.startswith(_FREE)
    ]
    if changed:
        raise UserError(other_config(path, changed))
    return checkpoint["origin"], checkpoint["global_step"]


def saved_config(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The config in a checkpoint, with the defaults of keys that came after it.

    Raises:
        UserError: If it says something that the schema does not know any more.
    """
    return to_dict(parse_config({"name": "weights", **values}, str(path)))


def other_config(path: Path, changed: list[str]) -> str:
    """The message for a checkpoint whose config differs."""
    more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
    return (
        f"{path}: the checkpoint was made with another config; checkpoint against now: "
        f"{', '.join(changed[:5])}{more}"
    )


class Checkpoints(pl.Callback):
    """Writes ``step-N.ckpt`` after every validation and keeps the last three and the best one.

    ``last.ckpt`` and ``best.ckpt`` are further names of such files (hard links; copies where the file
    system has none), so they need no space of their own. A run that goes on removes checkpoints of
    steps that it will do again, as it does with rows of ``metrics.csv``.

    Args:
        folder: Where to write.
        resumed: The checkpoint that the run goes on from.
        step: Its step; later that of the newest checkpoint.
    """

    def __init__(self, folder: Path, resumed: Path | None = None, step: int = 0):
        self.folder = folder
        self.resumed = resumed
        self.step = step
        self.best, self.best_step = -1.0, -1
        self._loaded: dict[str, Any] | None = None

    @property
    def last_path(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "last.ckpt"

    @property
    def best_path(self) -> Path:
        """The checkpoint with the highest validation accuracy."""
        return self.folder / "best.ckpt"

    def state_dict(self) -> dict[str, Any]:
        """The best accuracy so far and its step, and the random generators (for dropout)."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        best = {"best": self.best, "best_step": self.best_step}
        return {**best, "rng": torch.get_rng_state(), "cuda_rng": cuda}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best accuracy; the generators follow when training starts."""
        self.best = state_dict["best"]
        self.best_step = state_dict.get("best_step", -1)
        self._loaded = state_dict

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Tidies the folder, before rows of ``metrics.csv`` are removed: what says how far the run has
        come must not be there without them.
        """
        if stage == "fit" and trainer.is_global_zero:
            try:
                self._tidy()
            except OSError as e:
                raise cannot_be_written(self.folder, e) from e

    def _tidy(self) -> None:
        """Leaves the checkpoint that the run goes on from as the newest one; removes what a killed
        process left.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.folder, self.folder.parent):
            remove_leftovers(folder)
        path = self._path(self.step)
        if self.resumed is not None and not (path.is_file() and path.samefile(self.resumed)):
            write_atomically(path, lambda temporary: _link(self.resumed, temporary))
        for later in _numbered(self.folder):
            if _step(later) > self.step:
                later.unlink()
        flush_folder(self.folder)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Names the checkpoint, which a killed process may not have come to."""
        if trainer.is_global_zero:
            self._name(self.step)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restores the random generators of a resumed run."""
        if self._loaded is not None:
            torch.set_rng_state(self._loaded["rng"].cpu())
            if len(self._loaded["cuda_rng"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all([state.cpu() for state in self._loaded["cuda_rng"]])
            self._loaded = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes whether it is the best, and saves."""
        if trainer.sanity_checking:
            return
        top1 = float(trainer.callback_metrics["val/top1"])
        if top1 > self.best:
            self.best, self.best_step = top1, trainer.global_step
        self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Writes ``step-N.ckpt``, gives it its further names, and removes what is too old.

        Raises:
            UserError: If it cannot be written, or the folder is gone.
        """
        path = self._path(trainer.global_step)
        if trainer.is_global_zero:
            if not self.folder.is_dir():
                raise cannot_be_written(path, FileNotFoundError(errno.ENOENT, ""))
            for logger in trainer.loggers:
                logger.save()  # else what it holds back is lost with the process, and not done again
        trainer.save_checkpoint(path)
        self.step = trainer.global_step
        if trainer.is_global_zero:
            self._name(self.step)
            for old in sorted(_numbered(self.folder), key=_step)[:-_KEPT]:
                old.unlink(missing_ok=True)

    def save_end(self, trainer: pl.Trainer) -> None:
        """Saves at the end of the training, if that was not a validation or done before."""
        if trainer.global_step != self.step:
            self.save(trainer)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step}.ckpt"

    def _name(self, step: int) -> None:
        """Calls the checkpoint of a step ``last`` and, if it is, ``best``."""
        path = self._path(step)
        names = [self.last_path, self.best_path] if step == self.best_step else [self.last_path]
        for name in names if path.is_file() else ():
            write_atomically(name, lambda temporary: _link(path, temporary))


def _link(path: Path, name: Path) -> None:
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, name)
