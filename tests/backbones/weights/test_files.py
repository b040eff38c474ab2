import builtins
import collections
import io
import os
import pickle
import pickletools
import struct

import numpy as np
import pytest
import torch
from helpers.public_weights import (
    assert_refused,
    assert_same,
    network,
    random_clip,
    reference,
    synthetic,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from hypothesis.extra.numpy import arrays as numpy_arrays

from rstg_pyg.backbones import load_backbone_weights, read_tensors


def python2_pickle(content):
    """The bytes that ``cPickle.dump(content, file, 2)`` of Python 2 with its numpy writes: every
    string is a byte string, and numpy's module has its old name."""

    class Pickler(pickle._Pickler):
        dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

        def save_string(self, text):
            data = text if isinstance(text, bytes) else text.encode("latin1")
            self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
            self.memoize(text)

        dispatch[bytes] = dispatch[str] = save_string

    file = io.BytesIO()
    Pickler(file, 2).dump(content)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@pytest.mark.parametrize("suffix, zipped", [(".pyth", True), (".pt", False), (".pth", True)])
def test_torch_files(tmp_path, suffix, zipped):
    state = synthetic("slowfast")
    path = tmp_path / f"weights{suffix}"
    checkpoint = {"model_state": state, "optimizer_state": {"momentum": [torch.zeros(2)]}, "epoch": 1}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    backbone = network()
    report = load_backbone_weights(backbone, path)
    assert report.skipped["optimizer_state"] == "not among the weights"
    assert_same(backbone(random_clip()), reference(state, "slowfast", random_clip()))
    assert read_tensors(path)["epoch"] == 1


def test_safetensors_files(tmp_path):
    torch_files = pytest.importorskip("safetensors.torch")
    state = synthetic("pytorchvideo")
    path = tmp_path / "weights.safetensors"
    torch_files.save_file(state, path)
    load_backbone_weights(network(), str(path))
    path.write_bytes(path.read_bytes()[:-100])
    assert_refused(network(), path, "weights.safetensors: .*truncated")


def blobs():
    content = {name: value.numpy() for name, value in synthetic("caffe2").items()}
    content.update({f"{name}_momentum": value for name, value in list(content.items())[:3]})
    content.update(lr=np.array([0.01], dtype=np.float32), model_iter=400000)
    return content


@pytest.mark.parametrize("version, inside", [("python 2", True), (0, False), (2, True), (5, False)])
def test_caffe2_files(tmp_path, version, inside):
    content = {"blobs": blobs()} if inside else blobs()
    data = python2_pickle(content) if version == "python 2" else pickle.dumps(content, version)
    path = tmp_path / "c2_model_iter400000.pkl"
    path.write_bytes(data)
    backbone = network()
    report = load_backbone_weights(backbone, path)
    assert report.skipped["conv1_w_momentum"] == "momentum of the optimizer"
    assert report.skipped["lr"] == report.skipped["model_iter"] == "not a weight"
    state = synthetic("caffe2")
    assert_same(backbone(random_clip()), reference(state, "caffe2", random_clip()))


def test_python2_pickle_is_one():
    opcodes = {op.name for op, _, _ in pickletools.genops(python2_pickle({"a": np.ones(3)}))}
    assert "BINSTRING" in opcodes and not opcodes & {"BINUNICODE", "BINBYTES", "SHORT_BINBYTES"}


@settings(max_examples=40, deadline=None)
@given(
    numpy_arrays(
        st.sampled_from(["f4", ">f4", "f8", "f2", "i8", ">i2", "u1", "?"]),
        array_shapes(min_dims=0, max_dims=3, min_side=0),
    ),
    st.sampled_from(["python 2", 0, 2, 3, 4, 5]),
    st.sampled_from(["as it is", "fortran", "strided"]),
)
def test_arrays_of_all_kinds(tmp_path_factory, array, version, layout):
    if layout == "fortran":
        array = np.asfortranarray(array)
    elif layout == "strided" and array.ndim:
        array = array[::3]
    other = [1, 2.5, (3, True), None, "text"]
    content = collections.OrderedDict(array=array, scalar=np.float64(2.5), other=other)
    path = tmp_path_factory.mktemp("pickles") / "a.pkl"
    path.write_bytes(
        python2_pickle(content) if version == "python 2" else pickle.dumps(content, version)
    )
    result = read_tensors(path)
    assert list(result) == list(content)
    for name in ("array", "scalar"):
        np.testing.assert_array_equal(result[name], content[name])
        assert result[name].dtype == content[name].dtype
    assert result["other"] == other


class Code:
    """Unpickling it calls a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "kind, first", [(0, True), (2, False), (4, True), ("zip", False), ("old", True)]
)
def test_code_in_a_file_does_not_run(tmp_path, kind, first):
    marker, other = tmp_path / "marker", tmp_path / "other"
    code = {"x": Code(builtins.open, str(marker), "w"), "y": Code(os.system, f"touch {other}")}
    state = blobs() if isinstance(kind, int) else synthetic("slowfast")
    content = {**code, **state} if first else {**state, **code}
    if isinstance(kind, int):
        path = tmp_path / "weights.pkl"
        path.write_bytes(pickle.dumps({"blobs": content}, kind))
        pickle.loads(path.read_bytes())  # what it would do
    else:
        path = tmp_path / "weights.pyth"
        torch.save({"model_state": content}, path, _use_new_zipfile_serialization=kind == "zip")
        torch.load(path, weights_only=False)
    assert marker.exists() and other.exists()
    marker.unlink()
    other.unlink()
    assert_refused(network(), path, rf"{path.name}: refused.*open.*could run code")
    assert not marker.exists() and not other.exists()


@pytest.mark.parametrize(
    "function, args",
    [
        *[(os.system, ("echo",)), (builtins.eval, ("1",)), (builtins.getattr, ("a", "upper"))],
        *[(np.load, ("file",)), (np.array, ([1.0],)), (np.dtype, ("O",)), (np.memmap, ("file",))],
        (pickle.loads, (b"",)),
    ],
)
def test_only_arrays_are_rebuilt(tmp_path, function, args):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"conv1_w": Code(function, *args)}, 2))
    assert_refused(network(), path, "refused")
    path.write_bytes(pickle.dumps({"conv1_w": np.array([object], dtype=object)}, 2))
    assert_refused(network(), path, "refused")


def test_a_pickle_cannot_change_the_reader(tmp_path):
    path = tmp_path / "weights.pkl"
    # BUILD with attributes on what the name of an array leads to.
    path.write_bytes(b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nN}X\x01\x00\x00\x00aK\x01s\x86b.")
    assert_refused(network(), path, "weights.pkl")
    test_caffe2_files(tmp_path, 2, True)


@pytest.mark.parametrize("suffix", [".pkl", ".pyth", ".safetensors"])
def test_broken_files(tmp_path, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    path, backbone = tmp_path / f"broken{suffix}", network()
    if suffix == ".pkl":
        path.write_bytes(python2_pickle({"blobs": blobs()}))
    else:
        torch.save({"model_state": synthetic("slowfast")}, path)
    data = path.read_bytes()
    for part in (b"", data[:1], data[:5], data[: len(data) // 2], data[:-1], b"hello world\n" * 9):
        path.write_bytes(part)
        assert_refused(backbone, path, rf"broken{suffix}: expected a weight file")
    assert_refused(backbone, tmp_path / f"absent{suffix}", f"absent{suffix}: no such file")
    assert_refused(backbone, tmp_path, "no such file")


@pytest.mark.parametrize(
    "content, message",
    [
        ([torch.zeros(1)], r"a.pt: expected a dictionary of tensors \(got list\)"),
        (np.ones(3), r"expected a dictionary of tensors \(got ndarray\)"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
    ids=type,
)
def test_files_without_a_dictionary(tmp_path, content, message):
    path = tmp_path / ("a.pkl" if isinstance(content, np.ndarray) else "a.pt")
    path.write_bytes(pickle.dumps(content)) if path.suffix == ".pkl" else torch.save(content, path)
    assert_refused(network(), path, message)
