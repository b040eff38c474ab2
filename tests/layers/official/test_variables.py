"""Files of weights: whole, damaged, hostile, missing."""

import json
import pickle
import random
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rstg_pyg import official
from rstg_pyg.official import ConversionError, load_variables

PREFIX = "model_2.ckpt"
DATA = f"{PREFIX}.data-00000-of-00001"


SMALL = {"tower/a/kernel": np.arange(12.0).reshape(3, 4), "tower/b": np.ones(3, "f4")}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, variables, save):
    path = tmp_path / "weights.npz"
    save(path, **variables)
    for name in (path, str(path)):
        found = load_variables(name)
        assert set(found) == set(variables)
        assert all(np.array_equal(found[name], value) for name, value in variables.items())
        assert all(found[name].dtype == value.dtype for name, value in variables.items())


def refused(path, message="."):
    with pytest.raises(ConversionError, match=message) as e:
        load_variables(path)
    assert str(path.stem) in str(e.value)
    assert len(str(e.value).splitlines()) == 1
    return str(e.value)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_npz(data):
    """Cut off anywhere, or with any byte wrong: the arrays come out, or one error says so."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.npz"
        np.savez(path, **SMALL)
        raw = path.read_bytes()
        cut = data.draw(st.booleans(), "cut")
        at = data.draw(st.integers(0, len(raw) - 1), "at")
        byte = raw[at] ^ data.draw(st.integers(1, 255), "change")
        path.write_bytes(raw[:at] if cut else raw[:at] + bytes([byte]) + raw[at + 1 :])
        try:
            found = load_variables(path)
        except ConversionError as e:
            assert len(str(e).splitlines()) == 1 and "not a readable .npz file" in str(e)
        else:
            assert not cut and all(isinstance(array, np.ndarray) for array in found.values())


def npy(**header):
    header = repr({"descr": "<f8", "fortran_order": False, **header}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    "name, content",
    [
        (None, b""),
        (None, b"x"),
        (None, b"PK\x03\x04" + b"\0" * 40),
        (None, npy(shape=()) + b"\0" * 8),  # one array without a name
        ("readme.txt", b"hello"),
        ("a.npy", b"hello"),
        ("a.npy", npy(shape=(10**15,))),  # larger than memory
    ],
)
def test_files_that_hold_no_named_arrays(tmp_path, name, content):
    path = tmp_path / "x.npz"
    if name is None:
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(name, content)
    refused(path, "not a readable .npz file")


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


def test_paths_that_do_not_exist(tmp_path):
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "other.pth").write_bytes(b"x")
    for name, message in [
        ("nothing.npz", "no such file"),
        ("folder.npz", "."),
        ("nothing", "an .npz file or a TensorFlow V2 checkpoint .no nothing.index there"),
        ("a/b.ckpt", "no b.ckpt.index there"),
        ("weights.pth", "expected an .npz file or a TensorFlow V2 checkpoint"),
        ("other.pth", "expected an .npz file or a TensorFlow V2 checkpoint"),
    ]:
        refused(tmp_path / name, message)


def test_checkpoint_folders(tmp_path, checkpoint):
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, r"expected one TensorFlow checkpoint .*\(got none\)")
    for end in (".index", ".data-00000-of-00001"):
        shutil.copy(checkpoint / f"{PREFIX}{end}", checkpoint / f"model_9.ckpt{end}")
    message = refused(checkpoint, r"\(got model_2.ckpt, model_9.ckpt\)")
    assert "give its path without '.index'" in message


@pytest.mark.parametrize("name", ["", PREFIX, f"{PREFIX}.index"])
def test_a_checkpoint_without_its_data(checkpoint, name):
    (checkpoint / DATA).unlink()
    with pytest.raises(ConversionError, match=rf"data file {PREFIX}.data-... is missing"):
        load_variables(checkpoint / name)


def test_a_checkpoint_without_its_index(checkpoint):
    (checkpoint / f"{PREFIX}.index").unlink()
    for name in (PREFIX, DATA, f"{PREFIX}.index"):
        with pytest.raises(ConversionError, match=f"no {PREFIX}.index there"):
            load_variables(checkpoint / name)


def test_without_tensorflow(tmp_path, checkpoint, no_tensorflow):
    with pytest.raises(ConversionError, match=r'not installed: pip install "rstg_pyg\[convert\]"'):
        load_variables(checkpoint)
    np.savez(tmp_path / "small.npz", **SMALL)
    assert set(load_variables(tmp_path / "small.npz")) == set(SMALL)


@pytest.mark.parametrize("name", ["", PREFIX, f"{PREFIX}.index", DATA])
def test_a_checkpoint_by_any_of_its_names(tensorflow, checkpoint, variables, name):
    found = load_variables(checkpoint / name)
    assert set(found) == set(variables)
    assert all(np.array_equal(found[name], value) for name, value in variables.items())
    assert found["global_step"].dtype == np.int32


@pytest.mark.parametrize("name", [f"{PREFIX}.index", DATA])
def test_a_damaged_checkpoint(tensorflow, checkpoint, variables, name):
    """TensorFlow's checksums find it, or the byte meant nothing; cut off, it is always found."""
    raw, rng = (checkpoint / name).read_bytes(), random.Random(1)
    for at in [0, 1, 47, len(raw) // 2, len(raw) - 1, *rng.sample(range(len(raw)), 25)]:
        for damaged in (raw[:at], raw[:at] + bytes([raw[at] ^ 0x55]) + raw[at + 1 :]):
            (checkpoint / name).write_bytes(damaged)
            try:
                found = load_variables(checkpoint)
            except ConversionError as e:
                assert "not a readable TensorFlow checkpoint" in str(e)
                assert len(str(e).splitlines()) == 1
            else:
                assert len(damaged) == len(raw)
                assert all(np.array_equal(found[key], value) for key, value in variables.items())
