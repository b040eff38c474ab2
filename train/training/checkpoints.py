"""Lightning's checkpoints, written atomically under the names of a run folder."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import (
    cannot_be_written,
    flush_folder,
    remove_leftovers,
    write_atomically,
)
from rstg_pyg.train.run_folder.folder import step_checkpoints
from rstg_pyg.train.run_folder.weights import read_checkpoint

_KEPT = 3  # checkpoints of a run, besides the best


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, written atomically and read without running code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None):
        """Writes a checkpoint."""
        write_atomically(Path(path), lambda p: _save(checkpoint, p))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None):
        """Reads a checkpoint."""
        return read_checkpoint(Path(path), map_location or "cpu")


def _save(checkpoint: dict[str, Any], path: Path) -> None:
    try:
        torch.save(checkpoint, path)
    except RuntimeError as e:  # torch's zip writer on a full disk
        raise OSError(None, str(e).splitlines()[0]) from e


class Checkpoints(ModelCheckpoint):
    """Writes ``step-N.ckpt`` after every validation and at the end; keeps the last three and the best.

    ``last.ckpt`` and ``best.ckpt`` (highest validation top-1 or mAP) are hard links to such files, or
    copies if the file system has no links. Random states are saved and restored, for dropout. A resumed
    run removes checkpoints of steps that it will repeat, as well as their rows of ``metrics.csv``.

    Args:
        folder: Where to write.
        resumed: The checkpoint that the run is resumed from.
        step: Its step.
        save_every: Steps between checkpoints where there is no validation; with 0 there is one.
    """

    def __init__(self, folder: Path, resumed: Path | None = None, step: int = 0, save_every: int = 0):
        super().__init__(
            folder,
            filename="step-{step}",
            auto_insert_metric_name=False,
            save_top_k=-1,  # _name keeps the last three, including the one resumed from
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
        self.folder = folder
        self.resumed = resumed
        self.step = step
        self.save_every = save_every
        self.best, self.best_step = -1.0, -1
        self.began = False
        self._loaded: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        """The key of its state in a checkpoint."""
        return "Checkpoints"

    def state_dict(self) -> dict[str, Any]:
        """The best accuracy so far and its step, and the random states. No paths, so that a run folder
        can be moved.
        """
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        best = {"best": self.best, "best_step": self.best_step}
        return {**best, "rng": torch.get_rng_state(), "cuda_rng": cuda}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best accuracy; the random states are restored when training starts."""
        self.best = state_dict["best"]
        self.best_step = state_dict.get("best_step", -1)
        self._loaded = state_dict

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Cleans up the folder before rows of ``metrics.csv`` are removed, so that every checkpoint has
        its rows.
        """
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.is_global_zero:
            try:
                self._tidy()
            except OSError as e:
                raise cannot_be_written(self.folder, e) from e

    def _tidy(self) -> None:
        """Removes checkpoints newer than the one the run is resumed from, and leftovers of a killed
        process.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.folder, self.folder.parent):
            remove_leftovers(folder)
        path = self.folder / f"step-{self.step}.ckpt"
        if self.resumed is not None and not (path.is_file() and path.samefile(self.resumed)):
            write_atomically(path, lambda temporary: _link(self.resumed, temporary))
        for step, later in step_checkpoints(self.folder).items():
            if step > self.step:
                later.unlink()
        flush_folder(self.folder)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Updates ``last.ckpt`` and ``best.ckpt``, which a killed process may not have done."""
        if trainer.is_global_zero:
            self._name()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restores the random states of a resumed run."""
        super().on_train_start(trainer, pl_module)
        if trainer.global_step != self.step:
            raise ValueError(f"it has {trainer.global_step} steps, not {self.step}")
        if self._loaded is not None:
            torch.set_rng_state(self._loaded["rng"].cpu())
            if len(self._loaded["cuda_rng"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all([state.cpu() for state in self._loaded["cuda_rng"]])
            self._loaded = None
        self.began = True

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """Has the last step validated, whatever ``train.validate_every`` is."""
        if batch_idx + 1 == trainer.num_training_batches:
            trainer.val_check_batch = batch_idx + 1

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Saves now and then where there is no validation."""
        if self.save_every and trainer.global_step % self.save_every == 0:
            self.save(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Records whether it is the best so far, and saves."""
        found = trainer.callback_metrics
        score = float(found["val/mAP"] if "val/mAP" in found else found["val/top1"])
        if score > self.best:
            self.best, self.best_step = score, trainer.global_step
        self.save(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves, if the last step was not a validation."""
        self.save(trainer, pl_module)

    def save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes ``step-N.ckpt``, if it does not exist yet, and its other names.

        Raises:
            UserError: If it cannot be written.
        """
        if trainer.global_step == self.step:
            return
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.save()  # otherwise buffered events would be lost if the process is killed
        super().on_validation_end(trainer, pl_module)
        self.step = trainer.global_step
        if trainer.is_global_zero:
            self._name()

    def _name(self) -> None:
        """Links the newest checkpoint as ``last``, and as ``best`` if it is; removes old ones."""
        path = self.folder / f"step-{self.step}.ckpt"
        names = ["last.ckpt", "best.ckpt"] if self.step == self.best_step else ["last.ckpt"]
        for name in names if path.is_file() else ():
            write_atomically(self.folder / name, lambda temporary: _link(path, temporary))
        for old in [*step_checkpoints(self.folder).values()][:-_KEPT]:
            old.unlink(missing_ok=True)

    @contextlib.contextmanager
    def restoring(self) -> Iterator[None]:
        """A context for ``trainer.fit``. Errors that Lightning and torch raise before the first step,
        because the checkpoint does not fit the run, become user errors.

        Raises:
            UserError: Instead of such an error.
        """
        try:
            yield
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
            if self.resumed is None or self.began:
                raise
            reason = " ".join(f"{type(e).__name__}: {e}".split())[:300]
            raise UserError(
                f"{self.resumed}: cannot resume from it ({reason}); give another one: --resume CKPT"
            ) from e


def _link(path: Path, name: Path) -> None:
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, name)
