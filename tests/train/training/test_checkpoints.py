"""Which checkpoints a training leaves, with Lightning's own trainer."""

import os

import pytest
import pytorch_lightning as pl
import torch

from rstg_pyg.train.errors import UserError
from rstg_pyg.train.run_folder.weights import read_checkpoint
from rstg_pyg.train.training.checkpoints import AtomicCheckpointIO, Checkpoints


class Toy(pl.LightningModule):
    """One weight; the accuracies of its validations are given."""

    def __init__(self, scores):
        super().__init__()
        self.lin, self.scores, self.drawn = torch.nn.Linear(1, 1), list(scores), []

    def training_step(self, x, i):
        self.drawn.append(float(torch.rand(())))
        return self.lin(x).sum()

    def validation_step(self, x, i):
        pass

    def on_validation_epoch_end(self):
        self.log("val/top1", self.scores.pop(0))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def on_save_checkpoint(self, checkpoint):
        checkpoint |= {"config": {}, "origin": "toy"}


def fit(checkpoints, scores, steps=12, callbacks=()):
    toy = Toy(scores)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, limit_train_batches=steps, val_check_interval=min(2, steps),
        check_val_every_n_epoch=None, callbacks=[*callbacks, checkpoints], logger=False,
        plugins=[AtomicCheckpointIO()], num_sanity_val_steps=0, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=checkpoints.folder,
    )  # fmt: skip
    data = torch.utils.data.DataLoader(torch.ones(20, 1))
    with checkpoints.restoring():
        trainer.fit(toy, data, data, ckpt_path=checkpoints.resumed)
    return toy


def contents(folder):
    return {path.name: read_checkpoint(path)["global_step"] for path in folder.iterdir()}


def numbered(*steps, last, best):
    return {**{f"step-{step}.ckpt": step for step in steps}, "last.ckpt": last, "best.ckpt": best}


@pytest.fixture
def folder(tmp_path):
    """Of a training whose fourth step was the best."""
    folder = tmp_path / "run" / "checkpoints"
    torch.manual_seed(0)
    fit(Checkpoints(folder), (0.1, 0.5, 0.5, 0.3, 0.2, 0.2), steps=11)
    return folder


def test_the_last_three_and_the_best_are_kept(folder):
    assert contents(folder) == numbered(8, 10, 11, last=11, best=4)
    assert os.path.samefile(folder / "last.ckpt", folder / "step-11.ckpt")


def test_a_run_that_is_resumed_does_later_steps_again(folder):
    (folder / ".step-14.ckpt.1.tmp").write_bytes(b"half")

    class Stop(pl.Callback):
        def on_train_start(self, *args):
            raise KeyError

    with pytest.raises(UserError, match="step-8.ckpt: cannot resume from it"):
        fit(Checkpoints(folder, folder / "step-8.ckpt", 8), (), callbacks=[Stop()])
    assert contents(folder) == numbered(8, last=8, best=4)

    toy = fit(Checkpoints(folder, folder / "step-8.ckpt", 8), (0.4, 0.6))  # the first is not the best
    assert contents(folder) == numbered(8, 10, 12, last=12, best=12)
    torch.manual_seed(0)
    whole = fit(Checkpoints(folder.parent / "whole"), (0.1, 0.5, 0.5, 0.3, 0.2, 0.1))
    assert toy.drawn == whole.drawn[8:] and len(toy.drawn) == 4


def test_a_run_that_goes_on_elsewhere_takes_its_checkpoint_along(folder, tmp_path):
    fit(Checkpoints(tmp_path / "new", folder / "step-10.ckpt", 10), (0.1,))
    assert contents(tmp_path / "new") == {"step-10.ckpt": 10, "step-12.ckpt": 12, "last.ckpt": 12}


def test_errors_of_the_training_stay_what_they_are(tmp_path):
    with pytest.raises(IndexError):
        fit(Checkpoints(tmp_path), ())  # no score is left
