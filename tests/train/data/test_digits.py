import gzip
import struct

import numpy as np
import pytest
import torch

from rstg_pyg.train.data.syncmnist import digits as digits_module
from rstg_pyg.train.data.syncmnist.digits import load_digits
from rstg_pyg.train.errors import UserError


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def packed(labels):
    """The same bytes at any time: they name tests, which have to have one name in all processes."""
    return gzip.compress(idx(labels.astype(np.uint8)), mtime=0)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in [("train", 30), ("t10k", 20)]:
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count) % 10
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(packed(labels))
    return tmp_path


def test_reads_raw_and_gzipped_files(folder):
    train = load_digits("train", "mnist", folder)
    test = load_digits("test", "auto", folder)
    assert train.source == test.source == "mnist"
    assert train.images.shape == (30, 28, 28) and train.images.dtype == torch.uint8
    assert train.labels.tolist() == [i % 10 for i in range(30)]
    assert len(test.labels) == 20
    expected = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
    assert np.array_equal(train.images.numpy(), expected)


@pytest.mark.parametrize("place", ["MNIST/raw", "raw"])
def test_finds_files_where_torchvision_puts_them(folder, place, tmp_path):
    target = tmp_path / "elsewhere" / place
    target.mkdir(parents=True)
    for path in folder.glob("*ubyte*"):
        path.rename(target / path.name.replace("-idx", ".idx"))
    assert len(load_digits("train", "mnist", tmp_path / "elsewhere").labels) == 30


def test_missing_folder_and_file(folder, tmp_path):
    with pytest.raises(UserError, match=r"data.root: the folder .* does not exist"):
        load_digits("train", "auto", tmp_path / "nowhere")
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match="has no train-labels-idx1-ubyte"):
        load_digits("train", "auto", folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "truncated"),
        (lambda data: data + b"x", "too long"),
        (lambda data: data[:7], "not an IDX file"),
        (lambda data: b"", "not an IDX file"),
        (lambda data: b"\x89PNG" + data[4:], "not an IDX file"),
        (lambda data: data[:3] + b"\x01" + data[4:], "not an IDX file"),
    ],
)
def test_damaged_files_are_named(folder, damage, message):
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message) as e:
        load_digits("train", "mnist", folder)
    assert str(path) in str(e.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        *((packed(np.zeros(30))[:cut], "damaged") for cut in (1, 10, -1, -9)),
        (packed(np.full(30, 11)), r"expected labels 0\.\.9 \(got 11\)"),
        (packed(np.zeros(29)), "29 labels"),
    ],
)
def test_wrong_labels(folder, data, message):
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(data)
    with pytest.raises(UserError, match=message):
        load_digits("train", "mnist", folder)


def test_builtin_splits_share_no_image(digits, test_digits):
    assert digits.source == test_digits.source == "builtin"
    assert len(digits.labels) + len(test_digits.labels) == 1797
    assert digits.images.shape[1:] == (28, 28)
    train = {im.numpy().tobytes() for im in digits.images}
    test = {im.numpy().tobytes() for im in test_digits.images}
    assert not train & test
    assert digits.labels.unique().tolist() == list(range(10))


def test_without_network(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(digits_module, "_download", lambda folder: "no network")
    assert load_digits("train", "auto").source == "builtin"
    with pytest.raises(UserError, match=r"the download failed \(no network\).*data.root"):
        load_digits("train", "mnist")
    with pytest.raises(UserError, match="expected one of auto, mnist, builtin"):
        load_digits("train", "svhn")
    with pytest.raises(UserError, match=f"data.digits=builtin: .*data.root names {tmp_path}"):
        load_digits("train", "builtin", tmp_path)


def test_download_failure_is_reported_in_one_line(tmp_path, monkeypatch):
    import torchvision.datasets

    def fail(*args, **kwargs):
        raise RuntimeError("Error downloading\nmore")

    monkeypatch.setattr(torchvision.datasets, "MNIST", fail)
    assert digits_module._download(tmp_path) == "Error downloading"
