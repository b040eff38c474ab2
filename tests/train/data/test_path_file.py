"""Test videos with the digits and paths of a file: ``data.paths``."""

import os
import pickle

import numpy as np
import pytest
import torch

from rstg_pyg.train.build import build_dataset
from rstg_pyg.train.config import load_config
from rstg_pyg.train.data.syncmnist import SyncMNIST, as_paths
from rstg_pyg.train.errors import UserError


@pytest.fixture
def content(test_digits):
    """A stand-in for the authors' file: paths of generated videos in its names and types."""
    source = SyncMNIST(test_digits, "test", 12, seed=5, num_digits=3, none_probability=0.3)
    videos = source.videos(torch.arange(12))
    rng = np.random.default_rng(0)
    index = [
        [rng.choice(np.flatnonzero(test_digits.labels == k)) for k in row] for row in videos.classes
    ]
    return {
        "digit_position": np.ones((1, 12), np.uint8),
        "coords_digits": videos.corners[None].numpy().astype(np.uint8),
        "noise_coords": np.zeros((1, 12, 10, 0, 2), np.uint8),
        "ind_digits": np.array([index], np.uint32),
        "set_digits": videos.classes[None, :, 1:].numpy().astype(np.uint8),
        "sincron_prob": videos.synchronous[None].numpy().astype(np.uint8),
    }, videos


@pytest.fixture
def written(tmp_path):
    """Builds the test split of a file of arrays."""

    def build(content, *changes):
        (tmp_path / "paths.pickle").write_bytes(pickle.dumps(content, protocol=3))
        return built(tmp_path / "paths.pickle", *changes)

    return build


def built(path, *changes):
    config = ["size=small", "pretrain.steps=0", "data.num_digits=3", "data.digits=builtin", *changes]
    return build_dataset(load_config("syncmnist/ours.yaml", [*config, f"data.paths={path}"]), "test")


def test_the_videos_of_a_file(content, written, test_digits):
    content, generated = content
    dataset = written(content)
    assert len(dataset) == 12 and "12 test videos" in dataset.protocol_text
    assert "data.paths" in dataset.describe() and "generated" not in dataset.describe()
    videos = dataset.videos(torch.arange(12))
    assert torch.equal(videos.labels, generated.labels)
    assert torch.equal(videos.corners, generated.corners)
    assert torch.equal(videos.synchronous, generated.synchronous) and not videos.synchronous.all()
    clip, label = dataset[4]
    assert torch.equal(clip, videos.clips[4]) and label == videos.labels[4]
    # The same paths with other images of the same classes.
    index = torch.from_numpy(content["ind_digits"][0].astype(np.int64))
    assert torch.equal(test_digits.labels[index], generated.classes)
    assert not torch.equal(videos.clips, generated.clips)
    assert len(written(content, "data.test_videos=5")) == 5


def test_other_splits_are_generated(content, tmp_path):
    config = load_config("syncmnist/ours.yaml", ["data.digits=builtin", f"data.paths={tmp_path}/none"])
    assert "generated" in build_dataset(config, "val").protocol_text
    with pytest.raises(UserError, match="data.paths: .*no such file"):
        build_dataset(config, "test")


class Code:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_file_with_code_is_refused(content, written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="data.paths: .*refused.*system") as error:
        written({**content[0], "more": Code()})
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coords_digits": None}, "expected coords_digits"),
        ({"coords_digits": "text"}, "got str"),
        ({"sincron_prob": np.ones((1, 11), np.uint8)}, "do not belong together"),
        ({"ind_digits": np.zeros((1, 12, 3), np.uint32)}, "names other digits"),
        ({"ind_digits": np.full((1, 12, 3), 9_000, np.uint32)}, "names other digits"),
        ({"coords_digits": np.full((1, 12, 10, 3, 2), 72, np.uint8)}, "outside the canvas"),
    ],
)
def test_arrays_that_do_not_fit(content, written, changes, message):
    with pytest.raises(UserError, match=message) as error:
        written({**content[0], **changes})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", ["data.num_digits=5", "data.num_frames=8", "data.num_classes=9"])
def test_other_settings(content, written, change):
    with pytest.raises(UserError, match=change.split("=")[0]):
        written(content[0], change)


def test_an_empty_file(content):
    empty = {name: array[:, :0] for name, array in content[0].items()}
    with pytest.raises(UserError, match="do not belong together"):
        as_paths(empty, "x")
