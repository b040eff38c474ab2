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


def test_mistakes_end_with_code_2_and_one_line(weights, capsys):
    scaled = ("model.rstg.attention=dot", "model.rstg.attention_scale=0.5")
    for arguments, kwargs, message in [
        (["nothing.npz"], {}, "nothing.npz: no such file"),
        (["nothing"], {}, "no nothing.index there"),
        (["weights.npz"], {"cfg": "nothing"}, "there is no config 'nothing'"),
        (["weights.npz", "model.rstg.heads=x"], {}, "model.rstg.heads"),
        (["weights.npz"], {"out": "weights.pt"}, "ending in .safetensors"),
        (["weights.npz"], {"out": "weights.npz/x.safetensors"}, "cannot be written"),
        (["weights.npz"], {"cfg": "syncmnist"}, "model.rstg.published: true"),
        (["weights.npz"], {"sizes": SIZES[1:]}, "do not fit the config"),
        (["weights.npz", "model.rstg.typed_update=true"], {}, "missing"),
        (["weights.npz", *scaled], {}, "'attention_scale' to be 1"),
        (["weights.npz", "model.rstg.num_rounds=0"], {}, "model.rstg.num_rounds"),
    ]:
        fails(capsys, *arguments, message=message, **kwargs)


def test_bad_weights_end_with_code_2_and_one_line(weights, variables, capsys):
    Path("bad.npz").write_bytes(weights.read_bytes()[:5000])
    fails(capsys, "bad.npz", message="not a readable .npz file")
    for changes, message, line in [
        ({"tower/pred/bias": np.full(46, np.nan)}, "46 of 46 values are not finite", ""),
        ({"tower/extra": np.zeros(3)}, "1 tensors are unused (tower/extra)", "unused      tower/extra"),
        ({"tower/conv0/conv2d/bias": None}, "tensors are missing (tower/conv0/conv2d/bias)",
         "missing     tower/conv0/conv2d/bias"),
        ({"tower/pred/bias": None}, "0 of them named .../pred/bias", ""),
        ({"tower/b/pred/bias": np.zeros(3)}, "2 of them named .../pred/bias", ""),
        *(({"tower/pred/bias": np.zeros(shape, "f4")}, "", "") for shape in [(0,), (), (2, 23)]),
    ]:  # fmt: skip
        values = {n: v for n, v in {**variables, **changes}.items() if v is not None}
        np.savez("bad.npz", **values)
        out = fails(capsys, "bad.npz", "--report", message=message)
        assert line == "" or line in out.splitlines()


def test_unused_tensors_can_be_left_out(weights, variables, capsys):
    np.savez("more.npz", **{**variables, "tower/extra": np.zeros(3)})
    assert command("more.npz", "--allow-unused") == 0
    out = capsys.readouterr().out
    assert "27 used, 34 skipped, 1 unused" in out and len(out.splitlines()) == 2


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
