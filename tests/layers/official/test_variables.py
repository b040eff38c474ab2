"""Files of weights: whole, damaged, hostile, missing; and the command that converts them."""

import builtins
import json
import pickle
import random
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import rstg_pyg.train.run
from rstg_pyg import official
from rstg_pyg.official import ConversionError, load_variables
from rstg_pyg.official.__main__ import main
from rstg_pyg.train.assemble import build_model, normalise
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.run_folder.weights import load_weights, read_weights
from rstg_pyg.train.settings import load_config

GOLDEN = Path(__file__).parents[2] / "golden" / "tf_checkpoint"
PREFIX = "model_2.ckpt"
DATA = f"{PREFIX}.data-00000-of-00001"
SIZES = ("model.backbone.filters=[16,16,16]", "model.rstg.hidden_channels=16")


@pytest.fixture(scope="module")
def recorded():
    with np.load(GOLDEN / "expected.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture
def stored(recorded):
    return {name[5:]: value for name, value in recorded.items() if name.startswith("ckpt/")}


@pytest.fixture
def small(tmp_path):
    """A little file of named arrays."""
    path = tmp_path / "small.npz"
    np.savez(path, **{"tower/a/kernel": np.arange(12.0).reshape(3, 4), "tower/b": np.ones(3, "f4")})
    return path


@pytest.fixture
def no_tensorflow(monkeypatch):
    original = builtins.__import__

    def imports(name, *args, **kwargs):
        if name.partition(".")[0] == "tensorflow":
            raise ImportError(f"No module named {name!r}")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", imports)


# npz


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, stored, save):
    path = tmp_path / "weights.npz"
    save(path, **stored)
    for given in (path, str(path)):
        found = load_variables(given)
        assert set(found) == set(stored)
        assert all(np.array_equal(found[name], value) for name, value in stored.items())
        assert all(found[name].dtype == value.dtype for name, value in stored.items())


def refused(path, message="."):
    with pytest.raises(ConversionError, match=message) as e:
        load_variables(path)
    assert str(path.stem) in str(e.value)
    assert len(str(e.value).splitlines()) == 1
    return str(e.value)


def test_npz_that_is_not_there(tmp_path):
    refused(tmp_path / "nothing.npz", "no such file")
    (tmp_path / "folder.npz").mkdir()
    refused(tmp_path / "folder.npz")


def test_a_truncated_npz(small):
    raw = small.read_bytes()
    for length in range(len(raw)):
        small.write_bytes(raw[:length])
        refused(small, "not a readable .npz file")


def test_a_damaged_npz(small):
    """Any byte may be wrong: the arrays come out, or one error says so."""
    raw, rng, failed = small.read_bytes(), random.Random(0), 0
    for at in range(len(raw)):
        for value in {0, 255, raw[at] ^ 1, raw[at] ^ rng.randrange(1, 256)} - {raw[at]}:
            small.write_bytes(raw[:at] + bytes([value]) + raw[at + 1 :])
            try:
                found = load_variables(small)
            except ConversionError as e:
                failed += 1
                assert len(str(e).splitlines()) == 1
            else:
                assert all(isinstance(array, np.ndarray) for array in found.values())
    assert failed > len(raw)


@pytest.mark.parametrize("content", [b"", b"x", b"PK\x03\x04" + b"\0" * 40, b"\x93NUMPY", b"\0" * 999])
def test_garbage(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    refused(tmp_path / "x.npz", "not a readable .npz file")


def test_one_array_is_no_npz(tmp_path):
    with open(tmp_path / "x.npz", "wb") as file:
        np.save(file, np.ones(3))
    refused(tmp_path / "x.npz", "not a readable .npz file .*one array without a name")


@pytest.mark.parametrize("name, content", [("readme.txt", "hello"), ("a.npy", "hello")])
def test_members_that_are_no_arrays(tmp_path, name, content):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr(name, content)
    refused(tmp_path / "x.npz", "not a readable .npz file")


def test_an_array_larger_than_memory(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }"
    header = header.ljust(117) + b"\n"
    member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("a.npy", member)
    refused(tmp_path / "x.npz", "not a readable .npz file")


class Hostile:
    """Runs when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_does_not_run(tmp_path):
    mark, path = tmp_path / "it_ran", tmp_path / "x.npz"
    np.savez(path, **{"tower/a": np.array([Hostile(mark)], dtype=object)})
    refused(path, "pickled objects, which could run code; only arrays are read")
    path.write_bytes(pickle.dumps(Hostile(mark)))
    refused(path, "not a readable .npz file")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Hostile(mark)))  # it would have
    assert mark.exists()


def test_strings_are_arrays_but_no_weights(tmp_path, recorded):
    np.savez(tmp_path / "x.npz", **{"tower/pred/bias": recorded["config"]})
    found = load_variables(tmp_path / "x.npz")
    with pytest.raises(ConversionError, match="missing .*1 tensors do not fit .tower/pred/bias"):
        official.convert(json.loads(str(recorded["config"])), found)


# checkpoints


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of the recorded checkpoint."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("checkpoint", f"{PREFIX}.index", DATA):
        shutil.copy(GOLDEN / name, folder)
    return folder


def test_checkpoint_paths_that_do_not_exist(tmp_path):
    refused(tmp_path / "nothing", "an .npz file or a TensorFlow V2 checkpoint .no nothing.index there")
    refused(tmp_path / "a" / "b.ckpt", "no b.ckpt.index there")
    refused(tmp_path / "weights.pth", "expected an .npz file or a TensorFlow V2 checkpoint")
    (tmp_path / "weights.pth").write_bytes(b"x")
    refused(tmp_path / "weights.pth", "expected an .npz file or a TensorFlow V2 checkpoint")


def test_checkpoint_folders(tmp_path, checkpoint):
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, r"expected one TensorFlow checkpoint .*\(got none\)")
    for end in (".index", ".data-00000-of-00001"):
        shutil.copy(checkpoint / f"{PREFIX}{end}", checkpoint / f"model_9.ckpt{end}")
    message = refused(checkpoint, r"\(got model_2.ckpt, model_9.ckpt\)")
    assert "give its path without '.index'" in message


@pytest.mark.parametrize("given", ["", PREFIX, f"{PREFIX}.index"])
def test_a_checkpoint_without_its_data(checkpoint, given):
    (checkpoint / DATA).unlink()
    with pytest.raises(ConversionError, match=rf"data file {PREFIX}.data-... is missing"):
        load_variables(checkpoint / given)


def test_a_checkpoint_without_its_index(checkpoint):
    (checkpoint / f"{PREFIX}.index").unlink()
    for given in (PREFIX, DATA, f"{PREFIX}.index"):
        with pytest.raises(ConversionError, match=f"no {PREFIX}.index there"):
            load_variables(checkpoint / given)


@pytest.mark.parametrize("how", ["no_tensorflow", "none"])
def test_without_tensorflow(checkpoint, how, request, monkeypatch):
    if how == "none":
        monkeypatch.setitem(sys.modules, "tensorflow", None)
    else:
        request.getfixturevalue("no_tensorflow")
    with pytest.raises(ConversionError, match=r'not installed: pip install "rstg_pyg\[convert\]"'):
        load_variables(checkpoint)


def test_npz_needs_no_tensorflow(small, no_tensorflow):
    assert set(load_variables(small)) == {"tower/a/kernel", "tower/b"}


@pytest.fixture
def tensorflow():
    return pytest.importorskip("tensorflow", reason="reads a TensorFlow checkpoint (extra convert)")


@pytest.mark.parametrize("given", ["", PREFIX, f"{PREFIX}.index", DATA])
def test_a_checkpoint_by_any_of_its_names(tensorflow, checkpoint, stored, given):
    found = load_variables(checkpoint / given)
    assert set(found) == set(stored)
    assert all(np.array_equal(found[name], value) for name, value in stored.items())
    assert found["global_step"].dtype == np.int32


@pytest.mark.parametrize("name", [f"{PREFIX}.index", DATA])
def test_a_truncated_checkpoint(tensorflow, checkpoint, name):
    raw = (checkpoint / name).read_bytes()
    rng = random.Random(0)
    for length in sorted({0, 1, 47, len(raw) // 2, len(raw) - 1, *rng.sample(range(len(raw)), 25)}):
        (checkpoint / name).write_bytes(raw[:length])
        with pytest.raises(ConversionError, match="not a readable TensorFlow checkpoint") as e:
            load_variables(checkpoint)
        assert len(str(e.value).splitlines()) == 1


@pytest.mark.parametrize("name", [f"{PREFIX}.index", DATA])
def test_a_damaged_checkpoint(tensorflow, checkpoint, stored, name):
    """TensorFlow's checksums find it, or the byte meant nothing."""
    raw = (checkpoint / name).read_bytes()
    for at in random.Random(1).sample(range(len(raw)), 25):
        (checkpoint / name).write_bytes(raw[:at] + bytes([raw[at] ^ 0x55]) + raw[at + 1 :])
        try:
            found = load_variables(checkpoint)
        except ConversionError as e:
            assert "not a readable TensorFlow checkpoint" in str(e)
        else:
            assert all(np.array_equal(found[key], value) for key, value in stored.items())


# the command


@pytest.fixture
def weights(tmp_path, stored, monkeypatch):
    """The checkpoint's tensors as a file, in the folder where the commands run."""
    monkeypatch.chdir(tmp_path)
    np.savez("weights.npz", **stored)
    return tmp_path / "weights.npz"


def command(*arguments, cfg="syncmnist_published", out="weights.safetensors", sizes=SIZES):
    return main([*arguments, "--cfg", cfg, "--out", out, *sizes])


def logits(model, config, recorded):
    clips = torch.from_numpy(recorded["in/frames"]).movedim(-1, 1)
    with torch.no_grad():
        return model.eval()(normalise(clips, config)).numpy()


def test_the_command_end_to_end(weights, recorded, capsys):
    assert command("weights.npz", "--report") == 0
    out, error = capsys.readouterr()
    assert error == ""
    assert "27 used, 34 skipped, 0 unused, 0 missing, 0 mismatched: " in out
    assert "momentum of the optimiser" in out and "second copy of an LSTM" in out
    assert "46 classes; written to weights.safetensors" in out
    assert "used        tower/pred/bias -> lin.bias" in out.splitlines()

    config = load_config("syncmnist_published", list(SIZES))
    found = read_weights(Path("weights.safetensors"), config)
    assert (found["global_step"], found["config"]["model"]["rstg"]["published"]) == (0, True)
    model = build_model(config, 46)
    load_weights(model, found["state_dict"], Path("weights.safetensors"))
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


def test_the_command_is_quiet_without_report(weights, capsys):
    assert command("weights.npz") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def fails(capsys, *arguments, message, **kwargs):
    assert command(*arguments, **kwargs) == 2
    out, error = capsys.readouterr()
    lines = error.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and "Traceback" not in out + error
    assert message in error, error
    assert not Path("weights.safetensors").exists()
    return out


def test_mistakes_end_with_code_2_and_one_line(weights, stored, capsys):
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
    np.savez("bad.npz", **{**stored, "tower/pred/bias": np.full(46, np.nan)})
    fails(capsys, "bad.npz", message="46 of 46 values are not finite")
    np.savez("bad.npz", **{**stored, "tower/extra": np.zeros(3)})
    out = fails(capsys, "bad.npz", "--report", message="1 tensors would be left over (tower/extra)")
    assert "unused      tower/extra" in out.splitlines()
    np.savez("bad.npz", **{n: v for n, v in stored.items() if n != "tower/conv0/conv2d/bias"})
    out = fails(capsys, "bad.npz", "--report", message="tensors are missing (tower/conv0/conv2d/bias)")
    assert "missing     tower/conv0/conv2d/bias" in out.splitlines()
    np.savez("bad.npz", **{n: v for n, v in stored.items() if n != "tower/pred/bias"})
    fails(capsys, "bad.npz", message="0 of them named .../pred/bias")
    np.savez("bad.npz", **{**stored, "tower/b/pred/bias": np.zeros(3)})
    fails(capsys, "bad.npz", message="2 of them named .../pred/bias")


def test_unused_tensors_can_be_left_out(weights, stored, capsys):
    np.savez("more.npz", **{**stored, "tower/extra": np.zeros(3)})
    assert command("more.npz", "--allow-unused") == 0
    assert "27 used, 34 skipped, 1 unused" in capsys.readouterr().out


@pytest.mark.parametrize("value", [np.zeros(0, "f4"), np.zeros((), "f4"), np.zeros((2, 23), "f4")])
def test_a_classifier_of_a_strange_shape(weights, stored, capsys, value):
    np.savez("bad.npz", **{**stored, "tower/pred/bias": value})
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


def test_converted_weights_do_not_fit_another_number_of_classes(weights):
    assert command("weights.npz") == 0
    path = Path("weights.safetensors")
    found = read_weights(path, load_config("syncmnist_published", list(SIZES)))
    model = build_model(load_config("syncmnist_published", list(SIZES)), 45)
    with pytest.raises(UserError, match="made for 46 classes, but the data has 45"):
        load_weights(model, found["state_dict"], path)
