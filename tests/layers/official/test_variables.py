"""Files of weights: whole, damaged, hostile, missing."""

import json
import pickle
import random
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rstg_pyg import official
from rstg_pyg.official import ConversionError, load_variables

PREFIX = "model_2.ckpt"
DATA = f"{PREFIX}.data-00000-of-00001"


@pytest.fixture
def small(tmp_path):
    """A little file of named arrays."""
    path = tmp_path / "small.npz"
    np.savez(path, **{"tower/a/kernel": np.arange(12.0).reshape(3, 4), "tower/b": np.ones(3, "f4")})
    return path


# npz


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, variables, save):
    path = tmp_path / "weights.npz"
    save(path, **variables)
    for given in (path, str(path)):
        found = load_variables(given)
        assert set(found) == set(variables)
        assert all(np.array_equal(found[name], value) for name, value in variables.items())
        assert all(found[name].dtype == value.dtype for name, value in variables.items())


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


@pytest.mark.parametrize("given", ["", PREFIX, f"{PREFIX}.index", DATA])
def test_a_checkpoint_by_any_of_its_names(tensorflow, checkpoint, variables, given):
    found = load_variables(checkpoint / given)
    assert set(found) == set(variables)
    assert all(np.array_equal(found[name], value) for name, value in variables.items())
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
def test_a_damaged_checkpoint(tensorflow, checkpoint, variables, name):
    """TensorFlow's checksums find it, or the byte meant nothing."""
    raw = (checkpoint / name).read_bytes()
    for at in random.Random(1).sample(range(len(raw)), 25):
        (checkpoint / name).write_bytes(raw[:at] + bytes([raw[at] ^ 0x55]) + raw[at + 1 :])
        try:
            found = load_variables(checkpoint)
        except ConversionError as e:
            assert "not a readable TensorFlow checkpoint" in str(e)
        else:
            assert all(np.array_equal(found[key], value) for key, value in variables.items())
