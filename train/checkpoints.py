"""Checkpoints that are whole or not there, and that say which config they belong to."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import CheckpointIO

from rstg_pyg.train.errors import UserError
from rstg_pyg.train.schema import Config
from rstg_pyg.train.settings import differences, parse_config, to_dict

#: Settings that may change between a run and its continuation.
_FREE = (
    *("name", "data.root", "data.num_workers", "data.on_error", "data.test_videos"),
    *("trainer.", "train.log_every"),
)

_KEYS = {"config": dict, "origin": str, "global_step": int, "state_dict": dict}


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls ``write`` with a temporary name beside ``path``, flushes the file, then renames it.

    Raises:
        UserError: If the folder cannot be written or the disk is full; ``path`` is as before then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as e:
        raise UserError(f"{path}: cannot be written ({e.strerror or e}); choose another place") from e
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


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
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as e:  # torch raises many kinds for damaged and foreign files
        reason = str(e).splitlines()[0][:120] if str(e) else type(e).__name__
        raise UserError(f"{path}: not a whole checkpoint of rstg_pyg ({reason})") from e
    if not isinstance(checkpoint, dict) or not all(
        isinstance(checkpoint.get(key), kind) for key, kind in _KEYS.items()
    ):
        raise UserError(f"{path}: not a checkpoint of rstg_pyg (it has no config); it cannot be used")
    return checkpoint


def check_resumable(path: Path, config: Config) -> dict[str, Any]:
    """Reads a checkpoint and makes sure that it continues this very run.

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
    return checkpoint


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
    """Writes ``last.ckpt`` after every validation and keeps the best one as ``best.ckpt``.

    Args:
        folder: Where to write.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.best = -1.0
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
        """The best accuracy so far, and the random generators (for dropout)."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"best": self.best, "rng": torch.get_rng_state(), "cuda_rng": cuda}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best accuracy; the generators follow when training starts."""
        self.best = state_dict["best"]
        self._loaded = state_dict

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restores the random generators of a resumed run."""
        if self._loaded is not None:
            torch.set_rng_state(self._loaded["rng"].cpu())
            if len(self._loaded["cuda_rng"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all([state.cpu() for state in self._loaded["cuda_rng"]])
            self._loaded = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves, and copies if it is the best."""
        if trainer.sanity_checking:
            return
        top1 = float(trainer.callback_metrics["val/top1"])
        better = top1 > self.best
        self.best = max(self.best, top1)
        self.save(trainer)
        if better and trainer.is_global_zero:
            write_atomically(self.best_path, lambda p: shutil.copyfile(self.last_path, p))

    def save(self, trainer: pl.Trainer) -> None:
        """Writes ``last.ckpt``."""
        trainer.save_checkpoint(self.last_path)
