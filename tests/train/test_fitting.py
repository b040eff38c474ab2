"""The Python API: ``fit`` and ``evaluate`` give what the commands give."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_run import ONE_FILTER, tiny_config

import rstg_pyg.train
from rstg_pyg.train import Predictor, evaluate, fit
from rstg_pyg.train.config import Config, load_config, parse_config
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.fitting import _changed, _dotted
from rstg_pyg.train.run import main
from rstg_pyg.train.schema import (
    FolderConfig,
    SomethingConfig,
    SyncMNISTConfig,
    TrainConfig,
    TrainerConfig,
)

TINY = tiny_config(model=ONE_FILTER, train={"max_steps": 2, "validate_every": 2})


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(json.dumps(TINY))
    return tmp_path


@pytest.mark.slow
def test_fit_and_evaluate_equal_the_command(folder):
    same = ("train.max_steps=3", "train.validate_every=3")
    run = fit("tiny.yaml", "train.lr=0.01", max_steps=3, validate_every=3, out=folder / "api")
    assert main(["--cfg", "tiny.yaml", "train.lr=0.01", *same, "--out", "cli"]) == 0
    cli = json.loads((folder / "cli/results.json").read_text())
    for key in ("top1", "loss", "steps", "config", "config_hash"):
        assert run.results[key] == cli[key], key
    assert run.results["steps"] == 3 and run.folder == folder / "api"
    assert run.checkpoint == folder / "api/checkpoints/best.ckpt"
    assert run.model is run.predictor.model and not run.model.training
    clip = torch.randint(256, (1, 3, 16, 16), dtype=torch.uint8)
    assert run.predictor(clip) == Predictor.load(folder / "cli")(clip)

    longer = fit(parse_config(TINY, "tiny"), lr=0.01, max_steps=5, out="parts")
    whole = fit(parse_config(TINY, "tiny"), lr=0.01, max_steps=5, out="parts", resume=True)
    assert longer.results["loss"] == whole.results["loss"]

    test = run.results | {"config": None}
    for what, config in ((run, None), ("api", "tiny.yaml"), (str(run.checkpoint), None)):
        again = evaluate(what, config)
        assert (again["top1"], again["loss"]) == (test["top1"], test["loss"])
    assert evaluate(run, test_videos=6)["num_videos"] == 6
    assert main(["--evaluate", "cli", "--out", "again"]) == 0  # with the config of the training
    assert json.loads((folder / "again/results.json").read_text())["loss"] == cli["loss"]
    with pytest.raises(UserError, match=r"another config.*data.mean"):
        evaluate(run, mean=3.0)


def test_settings_are_keys_of_one_section():
    data = {*SyncMNISTConfig.model_fields, *SomethingConfig.model_fields, *FolderConfig.model_fields}
    sections = [
        {*Config.model_fields},
        data,
        {*TrainConfig.model_fields},
        {*TrainerConfig.model_fields},
    ]
    names = [name for section in sections for name in section]
    assert {name for name in names if names.count(name) > 1} == {"seed"}  # the run's
    keys = {"seed": "seed", "root": "data.root", "epochs": "train.epochs", "devices": "trainer.devices"}
    keys |= {"turn": "data.turn", "test_clips": "data.test_clips"}  # of skeletons
    keys["model.dropout"] = "model.dropout"
    assert {key: _dotted(key) for key in keys} == keys
    pixels = {"mean": np.array([1.0, 2.0, 3.0]), "std": torch.ones(3), "frame_stride": np.int64(2)}
    data = _changed("folder.yaml", (), {"root": Path("clips"), **pixels}).data
    assert (data.mean, data.std, data.frame_stride) == ([1.0, 2.0, 3.0], [1.0] * 3, 2)
    with pytest.raises(UserError, match="unknown setting 'epoch'; did you mean 'epochs'"):
        fit("tiny.yaml", epoch=3)
    with pytest.raises(UserError, match="train.epochs: .*got 'ten'"):
        fit(load_config("tiny.yaml"), epochs="ten")


@pytest.mark.slow
def test_the_package_loads_nothing_before_it_is_used():
    code = (
        "import sys, rstg_pyg.train; print(*{'pytorch_lightning', 'pydantic', 'av'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert all(getattr(rstg_pyg.train, name).__name__ == name for name in rstg_pyg.train.__all__)
    with pytest.raises(AttributeError, match="no attribute 'fi'"):
        rstg_pyg.train.fi  # noqa: B018
