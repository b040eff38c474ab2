"""Lightning's parts in a run: loggers, early stopping, ordinary loaders; nothing private."""

import json
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers.results import rows_of
from helpers.tiny_run import ONE_FILTER, write_tiny

import rstg_pyg.train
from rstg_pyg.train import fit
from rstg_pyg.train.build import build_dataset, build_model
from rstg_pyg.train.config import load_config
from rstg_pyg.train.run import main
from rstg_pyg.train.training import checkpoints
from rstg_pyg.train.training.callbacks import StopOnSignal
from rstg_pyg.train.training.task import VideoTask


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path, model=ONE_FILTER, train={"max_steps": 2, "validate_every": 2, "log_every": 1})
    return tmp_path


def run(*arguments):
    return main(["--cfg", "tiny.yaml", *arguments])


def steps(out):
    return [int(row["step"]) for row in rows_of(f"{out}/metrics.csv") if row["split"] == "val"]


@pytest.mark.slow
def test_a_run_stops_early_and_stays_stopped():
    hook = threading.excepthook
    still = ("train.lr=1e-9", "train.epochs=20", "train.max_steps=null", "train.early_stopping=2")
    assert run(*still, "--out", "a") == 0 and threading.excepthook is hook
    assert steps("a") == [2, 4, 6]  # the accuracy of the first one is not beaten
    os.unlink("a/results.json")
    assert run(*still, "--out", "a", "--resume") == 0
    assert steps("a") == [2, 4, 6] and json.loads(Path("a/results.json").read_text())["steps"] == 6


@pytest.mark.slow
def test_a_run_that_is_interrupted_while_it_validates_stops_as_early(monkeypatch):
    still = ("train.lr=1e-9", "train.epochs=20", "train.max_steps=null", "train.early_stopping=2")
    with monkeypatch.context() as patch:
        patch.setattr(StopOnSignal, "_is_asked", lambda self, trainer: trainer.global_step == 4)
        assert run(*still, "--out", "a") == 130
    assert run(*still, "--out", "a", "--resume") == 0
    assert steps("a") == [2, 4, 6]  # as without the interruption


@pytest.mark.slow
def test_the_last_step_is_validated():
    """Whatever the steps between are: the best checkpoint is one of the whole training."""
    more = ("train.epochs=20", "train.max_steps=5", "train.validate_every=2")
    assert run(*more, "--out", "a") == 0
    assert steps("a") == [2, 4, 5]


@pytest.mark.slow
def test_the_average_of_the_weights_keeps_the_graph():
    """torch's own also averages the edges, which are integers."""
    more = ("train.epochs=20", "train.max_steps=5", "train.ema=0.9", "train.lr=0.1")
    assert run(*more, "--out", "a") == 0
    assert run(*more, "--evaluate", "a/checkpoints/last.ckpt", "--out", "b") == 0
    loss = [json.loads(Path(f"{name}/results.json").read_text())["loss"] for name in "ab"]
    assert loss[0] == pytest.approx(loss[1], abs=1e-7)


@pytest.mark.slow
def test_speed_counts_the_videos_that_there_are():
    """Fewer than a batch, here."""
    found = fit("tiny.yaml", out="a", train_videos=5, batch_size=8, epochs=2).results
    speed = found["training"]
    videos = speed["videos_per_second"] * speed["train_seconds"]
    assert videos == pytest.approx(5 * found["steps"]) and found["steps"] == 2


@pytest.mark.slow
def test_fit_in_a_thread():
    found = []
    steps = np.int64(2)
    thread = threading.Thread(target=lambda: found.append(fit("tiny.yaml", max_steps=steps, out="😀")))
    thread.start()
    thread.join()
    assert found and Path("😀/results.json").is_file()


@pytest.mark.slow
def test_any_logger_of_lightning_can_be_named(capsys):
    logger = "{class_path: pytorch_lightning.loggers.CSVLogger, init_args: {save_dir: logs}}"
    assert run(f"trainer.logger=[{logger}]", "--out", "a") == 0
    assert run("trainer.logger=[]", "--out", "b") == 0
    assert not Path("a/tensorboard").exists() and not Path("b/tensorboard").exists()
    rows = rows_of("logs/lightning_logs/version_0/metrics.csv")
    assert [row["step"] for row in rows if row["train/loss"]] == ["1", "2"]
    assert [row["step"] for row in rows if row["val/loss"]] == ["2"]
    capsys.readouterr()
    for entry, message in {
        "{class_path: nowhere.Logger}": "nowhere.Logger: cannot be created (ModuleNotFoundError",
        "{class_path: pathlib.Path}": "pathlib.Path: expected a Lightning logger",
        "{class: x}": "expected csv, tensorboard, wandb, mlflow, or class_path",
    }.items():
        assert run(f"trainer.logger=[{entry}]") == 2
        error = capsys.readouterr().err
        assert error.startswith("error: trainer.logger: ") and message in error


def test_the_task_trains_and_tests_from_an_ordinary_loader(folder):
    config = load_config("tiny.yaml")
    videos = build_dataset(config, "train").videos(torch.arange(8))
    loader = torch.utils.data.DataLoader(list(zip(videos.clips, videos.labels)), batch_size=4)
    task = VideoTask(build_model(config, 4), config, 2, "", list("abcd"))
    trainer = pl.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        accelerator="cpu", default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(task, loader, loader)
    assert trainer.global_step == 2 and trainer.callback_metrics["val/loss"] > 0
    trainer.test(task, loader, verbose=False)
    assert task.test_confusion.sum() == 8 and task.test_confusion.shape == (4, 4)


def test_one_class():
    config = load_config("tiny.yaml")
    task = VideoTask(build_model(config, 1), config, 1, "", ["only"])
    clips = torch.zeros(3, 1, 3, 16, 16, dtype=torch.uint8)
    loader = torch.utils.data.DataLoader(list(zip(clips, torch.zeros(3, dtype=torch.long))))
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.test(task, loader, verbose=False)
    assert np.array_equal(task.test_confusion, [[3]]) and task.test_results["top1"] == 1.0


def test_nothing_private_of_lightning_is_touched():
    """Neither by name nor through the objects that Lightning hands out."""
    private = re.compile(
        r"optim_progress|_child_processes|pytorch_lightning\S*\._[a-z]|import _\w+ *$"
        r"|\b(trainer|pl_module|logger|loop|strategy|launcher|precision_plugin)(\.\w+)*\._[a-z]"
    )
    sources = [*Path(rstg_pyg.train.__file__).parent.rglob("*.py")]
    assert any(path.name == "checkpoints.py" for path in sources)
    found = [f"{p}: {m[0]}" for p in sources for m in private.finditer(p.read_text())]
    assert not found
    mine = Path(checkpoints.__file__).read_text()
    theirs = {name for name in vars(pl.callbacks.ModelCheckpoint("x")) if name.startswith("_")}
    assert "_last_global_step_saved" in theirs and not theirs & set(re.findall(r"self\.(_\w+)", mine))
