"""Loggers by name: what they are given, and that a resumed run goes on in them."""

import json
import os
from pathlib import Path

import pytest
from helpers.tiny_run import ONE_FILTER, write_tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rstg_pyg.train.run import main
from rstg_pyg.train.training import loggers


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = {"max_steps": 4, "epochs": 1, "validate_every": 2, "log_every": 1}
    write_tiny(tmp_path, model=ONE_FILTER, train=train)
    return tmp_path


def run(*arguments):
    return main(["--cfg", "tiny.yaml", "--out", "a", *arguments])


def again(*arguments):
    """The same run once more from its last checkpoint."""
    os.unlink("a/results.json")
    assert run(*arguments, "--resume") == 0


def results():
    return json.loads(Path("a/results.json").read_text())


@pytest.mark.slow
def test_tensorboard_has_the_test_its_pictures_and_the_hyperparameters():
    assert run("trainer.logger=[csv, tensorboard]") == 0
    assert not Path("a/loggers.json").exists() and not Path("a/csv").exists()
    events = EventAccumulator("a/tensorboard").Reload()
    for key in ("top1", "loss"):
        (event,) = events.Scalars(f"test/{key}")
        assert (event.step, event.value) == (4, pytest.approx(results()[key]))
    assert set(events.Tags()["images"]) == {"test/confusion", "test/predictions"}
    assert events.Images("test/predictions")[0].height > 100
    assert "hp_metric" not in events.Tags()["scalars"]
    hparams = events.PluginTagToContent("hparams")
    assert b"train/lr" in hparams["_hparams_/session_start_info"]
    assert b"test/top1" in hparams["_hparams_/experiment"]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named(name, monkeypatch, capsys):
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda _: None)
    assert run(f"trainer.logger=[{name}]") == 2
    message = f'error: trainer.logger: {name} is not installed; pip install "rstg_pyg[{name}]"\n'
    assert capsys.readouterr().err == message


@pytest.mark.slow
def test_wandb(monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert run("trainer.logger=[wandb]") == 0 and wandb.run is None
    (name,) = json.loads(Path("a/loggers.json").read_text()).values()
    (first,) = Path("a/wandb").glob(f"offline-run-*-{name}")
    assert len(list(first.glob("files/media/images/test/*.png"))) == 2
    again("trainer.logger=[wandb]")
    runs = {path.name.rpartition("-")[2] for path in Path("a/wandb").glob("offline-run-*")}
    assert runs == {name}


@pytest.mark.slow
def test_mlflow(folder, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    before = mlflow.get_tracking_uri()
    try:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        assert run("trainer.logger=[mlflow]", "trainer.threads=2") == 0
        again("trainer.logger=[mlflow]")  # a setting that changed is no error
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name("rstg_pyg")
        (found,) = client.search_runs([experiment.experiment_id])
        assert found.info.run_name == "tiny" and found.info.status == "FINISHED"
        assert found.data.params["train/max_steps"] == "4"
        assert found.data.metrics["test/top1"] == pytest.approx(results()["top1"])
        assert [m.step for m in client.get_metric_history(found.info.run_id, "train/loss")] == [
            1,
            2,
            3,
            4,
        ]
        files = {file.path for file in client.list_artifacts(found.info.run_id)}
        assert files == {"confusion.png", "predictions.png"}
    finally:
        mlflow.set_tracking_uri(before)
