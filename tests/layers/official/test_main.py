"""The command that converts published weights: ``python -m rstg_pyg.official``."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import rstg_pyg.train.run
from rstg_pyg.official.__main__ import main
from rstg_pyg.train.build import build_model, normalize
from rstg_pyg.train.config import load_config
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.run_folder.weights import load_weights, read_weights

SIZES = ("model.backbone.filters=[16,16,16]", "model.rstg.hidden_channels=16")


@pytest.fixture
def weights(tmp_path, variables, monkeypatch):
    """The checkpoint's tensors as a file, in the folder where the commands run."""
    monkeypatch.chdir(tmp_path)
    np.savez("weights.npz", **variables)
    return tmp_path / "weights.npz"


def command(*arguments, cfg="syncmnist_published", out="weights.safetensors", sizes=SIZES):
    return main([*arguments, "--cfg", cfg, "--out", out, *sizes])


def logits(model, config, recorded):
    clips = torch.from_numpy(recorded["in/frames"]).movedim(-1, 1)
    with torch.no_grad():
        return model.eval()(normalize(clips, config)).numpy()


@pytest.mark.slow
def test_the_command_end_to_end(weights, recorded, capsys):
    assert command("weights.npz", "--report") == 0
    out, error = capsys.readouterr()
    assert error == ""
    assert "27 used, 34 skipped, 0 unused, 0 missing, 0 mismatched: " in out
    assert "momentum of the optimizer" in out and "second copy of an LSTM" in out
    assert "46 classes; written to weights.safetensors" in out
    assert "used        tower/pred/bias -> lin.bias" in out.splitlines()

    config = load_config("syncmnist_published", list(SIZES))
    found = read_weights(Path("weights.safetensors"), config)
    assert (found["global_step"], found["config"]["model"]["rstg"]["published"]) == (0, True)
    model = build_model(config, 46)
    load_weights(model, found["state_dict"], Path("weights.safetensors"))
    with pytest.raises(UserError, match="made for 46 classes, but the data has 45"):
        load_weights(build_model(config, 45), found["state_dict"], Path("weights.safetensors"))
    np.testing.assert_allclose(logits(model, config, recorded), recorded["out/logits"], atol=1e-6)

    arguments = ["--cfg", "syncmnist_published", *SIZES, "--evaluate", "weights.safetensors"]
    arguments += ["--out", "evaluated", "data.digits=builtin", "data.test_videos=3"]
    arguments += ["trainer.accelerator=cpu", "trainer.progress_bar=false"]
    assert rstg_pyg.train.run.main(arguments) == 0
    results = json.loads(Path("evaluated/results.json").read_text())
    assert (results["num_videos"], results["steps"]) == (3, 0) and np.isfinite(results["loss"])

    # Another config of the model is refused, by the key that differs.
    assert rstg_pyg.train.run.main([*arguments, "model.rstg.num_rounds=2"]) == 2
    assert "model.rstg.num_rounds (3 against 2)" in capsys.readouterr().err
    assert rstg_pyg.train.run.main([*arguments, "data.mean=12.0"]) == 2
    assert "data.mean (0.0 against 12.0)" in capsys.readouterr().err


def fails(capsys, *arguments, message, **kwargs):
    assert command(*arguments, **kwargs) == 2
    out, error = capsys.readouterr()
    lines = error.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and "Traceback" not in out + error
    assert message in error, error
    assert not Path("weights.safetensors").exists()
    return out


def test_mistakes_end_with_code_2_and_one_line(weights, variables, capsys):
    fails(capsys, "nothing.npz", message="nothing.npz: no such file")
    fails(capsys, "nothing", message="no nothing.index there")
    fails(capsys, "weights.npz", cfg="nothing", message="there is no config 'nothing'")
    fails(capsys, "weights.npz", "model.rstg.heads=x", message="model.rstg.heads")
    fails(capsys, "weights.npz", out="weights.pt", message="ending in .safetensors")
    fails(capsys, "weights.npz", out="weights.npz/x.safetensors", message="cannot be written")
    fails(capsys, "weights.npz", cfg="syncmnist", message="model.rstg.published: true")
    fails(capsys, "weights.npz", sizes=SIZES[1:], message="do not fit the config")
    fails(capsys, "weights.npz", "model.rstg.typed_update=true", message="missing")
    scaled = ("model.rstg.attention=dot", "model.rstg.attention_scale=0.5")
    fails(capsys, "weights.npz", *scaled, message="'attention_scale' to be 1")
    fails(capsys, "weights.npz", "model.rstg.num_rounds=0", message="model.rstg.num_rounds")

    Path("bad.npz").write_bytes(weights.read_bytes()[:5000])
    fails(capsys, "bad.npz", message="not a readable .npz file")
    np.savez("bad.npz", **{**variables, "tower/pred/bias": np.full(46, np.nan)})
    fails(capsys, "bad.npz", message="46 of 46 values are not finite")
    np.savez("bad.npz", **{**variables, "tower/extra": np.zeros(3)})
    out = fails(capsys, "bad.npz", "--report", message="1 tensors are unused (tower/extra)")
    assert "unused      tower/extra" in out.splitlines()
    np.savez("bad.npz", **{n: v for n, v in variables.items() if n != "tower/conv0/conv2d/bias"})
    out = fails(capsys, "bad.npz", "--report", message="tensors are missing (tower/conv0/conv2d/bias)")
    assert "missing     tower/conv0/conv2d/bias" in out.splitlines()
    np.savez("bad.npz", **{n: v for n, v in variables.items() if n != "tower/pred/bias"})
    fails(capsys, "bad.npz", message="0 of them named .../pred/bias")
    np.savez("bad.npz", **{**variables, "tower/b/pred/bias": np.zeros(3)})
    fails(capsys, "bad.npz", message="2 of them named .../pred/bias")


def test_unused_tensors_can_be_left_out(weights, variables, capsys):
    np.savez("more.npz", **{**variables, "tower/extra": np.zeros(3)})
    assert command("more.npz", "--allow-unused") == 0
    out = capsys.readouterr().out
    assert "27 used, 34 skipped, 1 unused" in out and len(out.splitlines()) == 2


@pytest.mark.parametrize("value", [np.zeros(0, "f4"), np.zeros((), "f4"), np.zeros((2, 23), "f4")])
def test_a_classifier_of_a_strange_shape(weights, variables, capsys, value):
    np.savez("bad.npz", **{**variables, "tower/pred/bias": value})
    fails(capsys, "bad.npz", message="")


def test_the_command_without_tensorflow(checkpoint, tmp_path, monkeypatch, no_tensorflow, capsys):
    monkeypatch.chdir(tmp_path)
    fails(capsys, str(checkpoint), message='pip install "rstg_pyg[convert]"')


def test_the_command_without_the_training_room(weights, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rstg_pyg.train.run_folder.weights", None)
    fails(capsys, "weights.npz", message='pip install "rstg_pyg[train]"')


@pytest.mark.parametrize("arguments", [[], ["x.npz"], ["x.npz", "--cfg", "y"], ["x.npz", "--nothing"]])
def test_the_command_says_how_it_is_called(arguments, capsys):
    with pytest.raises(SystemExit) as e:
        main(arguments)
    assert e.value.code == 2
    assert "usage: python -m rstg_pyg.official" in capsys.readouterr().err


def test_the_command_reads_a_checkpoint(tensorflow, checkpoint, tmp_path, monkeypatch, recorded):
    monkeypatch.chdir(tmp_path)
    assert command(str(checkpoint)) == 0
    config = load_config("syncmnist_published", list(SIZES))
    model = build_model(config, 46)
    path = tmp_path / "weights.safetensors"
    load_weights(model, read_weights(path, config)["state_dict"], path)
    np.testing.assert_allclose(logits(model, config, recorded), recorded["out/logits"], atol=1e-6)
