"""Boxes of a detector: files, and how they follow crops, flips and sizes."""

import json

import numpy as np
import pytest
import torch
from helpers.first_clips import train_on_few

from rstg_pyg.train.build import build_dataset
from rstg_pyg.train.config import load_config
from rstg_pyg.train.data import transforms
from rstg_pyg.train.data.boxes import BoxedClip, Boxes, flip, in_window
from rstg_pyg.train.data.clips import VideoClips
from rstg_pyg.train.data.loaders import VideoLoader
from rstg_pyg.train.data.mini import MiniSomething, write_mini_boxes
from rstg_pyg.train.data.skipped import UNREAD, Skipped
from rstg_pyg.train.data.video_lists import Video
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.predictor import Predictor

HEIGHT, WIDTH, LENGTH = 40, 60, 9


def rectangle(t):
    """Corners in pixels of a bright rectangle that moves."""
    return np.float32([6 + 3 * t, 10 + t, 20 + 4 * t, 30 + t])


class Frames:
    """A source of videos of a bright rectangle on black."""

    kind = "frames"

    def missing(self, videos):
        return []

    def num_frames(self, video):
        return LENGTH

    def varying_times(self, video):
        return None

    def read(self, video, indices, short_side):
        if video == "broken":
            raise UserError("broken cannot be read")
        frames = torch.zeros(len(indices), HEIGHT, WIDTH, 3, dtype=torch.uint8)
        for frame, t in zip(frames, indices):
            x0, y0, x1, y1 = rectangle(t).astype(int)
            frame[y0:y1, x0:x1] = 255
        return transforms.resize_short_side(frames, short_side)


@pytest.fixture
def folder(tmp_path):
    boxes = [[rectangle(t).tolist(), [0, 0, 5, 5]][: 1 + t % 2] for t in range(LENGTH)]
    (tmp_path / "a.json").write_text(json.dumps({"boxes": boxes, "size": [HEIGHT, WIDTH]}))
    return tmp_path


def clips(folder, split="train", videos=("a",), **options):
    settings = dict(num_frames=4, short_side=40, crop_size=32, num_boxes=3, brightness=0.0)
    labels = [Video(video, "Pushing something from left to right") for video in videos]
    names = ["Pushing something from left to right", "Pushing something from right to left"]
    videos = [Video(video.id, 0) for video in labels]
    return VideoClips(videos, names, Frames(), split, "x", boxes=folder, **{**settings, **options})


def assert_on_the_rectangle(clip, boxes):
    """The first box covers the bright pixels of each frame."""
    size = clip.size(-1)
    for t in range(clip.size(-3)):
        bright = clip[0, t] > 127
        x0, y0, x1, y1 = (boxes[t, 0] * size).tolist()
        if not bright.any():
            assert (x1 - x0) * (y1 - y0) < 2 * size
            continue
        rows, cols = bright.nonzero(as_tuple=True)
        found = [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]
        assert [x0, y0, x1, y1] == pytest.approx([float(n) for n in found], abs=1.1)


@pytest.mark.parametrize("crop", ["random", "multiscale"])
@pytest.mark.parametrize("short_side", [40, 33])
def test_boxes_follow_crops_flips_and_sizes_of_training_clips(folder, crop, short_side):
    dataset = clips(folder, crop=crop, short_side=short_side, flip=True)
    labels, windows = [], set()
    for visit in range(24):
        (clip, boxes), label = dataset[visit]
        assert clip.shape == (3, 4, 32, 32) and boxes.shape == (4, 3, 4)
        assert (boxes[:, 2] == 0).all() and boxes.min() >= 0 and boxes.max() <= 1
        assert_on_the_rectangle(clip, boxes)
        labels.append(label)
        windows.add(tuple(boxes[0, 0].tolist()))
    assert set(labels) == {0, 1} and len(windows) > 12


@pytest.mark.parametrize("protocol, count", [("center1", 1), ("full3x2", 6)])
def test_boxes_follow_the_crops_of_a_protocol(folder, protocol, count):
    (found, boxes), _ = clips(folder, "test", protocol=protocol)[0]
    found, boxes = (found[None], boxes[None]) if count == 1 else (found, boxes)
    assert len(found) == len(boxes) == count
    for clip, part in zip(found, boxes):
        assert_on_the_rectangle(clip, part)


def test_shuffled_frames_keep_their_boxes(folder):
    for visit in range(4):
        (clip, boxes), _ = clips(folder, shuffle_time=True)[visit]
        assert_on_the_rectangle(clip, boxes)


def test_batches_have_boxes_also_where_nothing_could_be_read(folder, tmp_path):
    (folder / "broken.json").write_text((folder / "a.json").read_text())
    dataset = clips(folder, videos=("a", "broken"), on_error="skip")
    dataset.skipped = Skipped(tmp_path, 0).part("train", 2)
    batches = list(VideoLoader(dataset, 1))
    assert [type(batch) for batch, _ in batches] == [BoxedClip, BoxedClip]
    for batch, _ in batches:
        assert batch.clip.shape == (1, 3, 4, 32, 32) and batch.boxes.shape == (1, 4, 3, 4)
    assert batches[1][0].boxes.abs().max() == 0 and batches[1][1].tolist() == [UNREAD]


def test_files(tmp_path):
    boxes = np.random.default_rng(0).uniform(0, 20, (5, 2, 4)).astype(np.float32)
    np.savez(tmp_path / "clip.npz", boxes=boxes, size=[20, 40])
    (tmp_path / "b.json").write_text(json.dumps({"boxes": [[], [[0.1, 0.2, 0.3, 0.4]]]}))
    read = Boxes(tmp_path, 2, ["clip.mp4", "b"]).read
    found = read("clip.mp4", np.array([0, 5, 9]), 10)  # every second frame has boxes
    assert torch.allclose(found, torch.from_numpy(boxes[[0, 2, 4]] / np.float32([40, 20, 40, 20])))
    assert read("b", np.array([0, 1]), 2)[:, :, 0].tolist() == [[0, 0], [pytest.approx(0.1), 0]]
    first = Boxes(tmp_path, 1, []).read("clip", np.array([3]), 10)
    assert torch.equal(first[0], read("clip", np.array([3]), 10)[0, :1])


def test_windows():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.75, 0.6], [0.0, 0.0, 0.1, 0.1]])
    nan = torch.full((1, 4), float("nan"))
    found = in_window(torch.cat([boxes, nan, torch.zeros(1, 4)]), (20, 50, 40, 50), (100, 200))
    expected = [[0, 0, 1, 1], [1, 0.75, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    expected[1] = [0.0] * 4  # it begins where the window ends
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float))
    shifted = in_window(boxes[1:2], (20, 50, 100, 100), (100, 200))
    assert torch.allclose(shifted, torch.tensor([[0.5, 0.3, 1.0, 0.4]]))
    mirrored = torch.tensor([[0.1, 0.2, 0.4, 0.5], [0, 0, 0, 0]])
    assert torch.allclose(flip(mirrored), torch.tensor([[0.6, 0.2, 0.9, 0.5], [0, 0, 0, 0]]))


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "cannot be read as boxes"),
        ('{"size": [1, 2]}', "'boxes'"),
        ('{"boxes": []}', r"expected boxes of one frame or more, \[F, N, 4\]"),
        ('{"boxes": [[[1, 2, 3]]]}', "reshape"),
        ('{"boxes": [[[1, 2, 3, 4]]], "size": [0, 5]}', "height and width"),
        ('{"boxes": [[["a", 2, 3, 4]]]}', "float"),
    ],
)
def test_damaged_files_are_named(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=rf"a\.json: .*{message}"):
        Boxes(tmp_path, 2, ["a"]).read("a", np.array([0]), 1)


def test_missing_files_are_counted(folder):
    with pytest.raises(UserError, match=r"data.boxes: 1 of the 3 videos .*b\.npz.*or \.json"):
        clips(folder, videos=("a", "b", "c"))


def test_a_part_of_a_video_has_boxes_of_its_own(tmp_path):
    for name, x in (("match", 0.0), ("match.mp4#t=3,4", 0.5), ("take", 0.0)):
        np.savez(tmp_path / f"{name}.npz", boxes=[[[x, 0, 1, 1]]])
    with pytest.raises(UserError, match=r"1 of the 3 videos .*match\.mp4#t=1,2\.npz, .*take\.2\.npz"):
        Boxes(tmp_path, 1, ["match.mp4", "match.mp4#t=1,2", "take.2"])
    boxes = Boxes(tmp_path, 1, ["match.mp4", "match.mp4#t=3,4"])
    found = [boxes.read(video, np.array([0]), 1)[0, 0, 0] for video in ("match.mp4", "match.mp4#t=3,4")]
    assert found == [0.0, 0.5]


def test_boxes_of_the_built_in_data_are_where_the_objects_are(tmp_path):
    """Pixels that change much from frame to frame are in a box of one of the frames."""
    made = MiniSomething(size=48, num_frames=8, shake=0.0, noise=0.0)
    moving = outside = 0
    for item in range(20):
        frames = torch.from_numpy(made.render("train", item).astype(np.int16))
        boxes = torch.from_numpy(made.boxes("train", item).copy())
        inside = torch.zeros(8, 48, 48, dtype=torch.bool)
        for t in range(8):
            for x0, y0, x1, y1 in (boxes[t] * 48).tolist():
                low_x, low_y = max(round(x0 - 0.5), 0), max(round(y0 - 0.5), 0)
                inside[t, low_y : max(round(y1 + 0.5), 0), low_x : max(round(x1 + 0.5), 0)] = True
        changed = (frames[1:] - frames[:-1]).abs().amax(-1) > 40
        moving += int(changed.sum())
        outside += int((changed & ~(inside[1:] | inside[:-1])).sum())
        assert inside.float().mean() < 0.7
    assert moving > 5_000 and outside < 0.01 * moving
    folder = write_mini_boxes(tmp_path / "boxes", train=2, validation=1, num_frames=8)
    assert sorted(path.name for path in folder.iterdir()) == ["1.npz", "2.npz", "3.npz"]
    assert write_mini_boxes(folder, train=9, validation=9) == folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nonlocal_i3d_gcn", "nonlocal_i3d_gcn_grid"])
def test_the_demo_learns_its_first_clips(name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    task, dataset, losses = train_on_few(f"smt/{name}.yaml", "model.backbone.width=4")
    assert (dataset.boxes is None) == name.endswith("grid")
    assert sum(losses[-2:]) < 0.8 * sum(losses[:2])
    if dataset.boxes is not None:
        several = build_dataset(task.config, "test", protocol="full3x2")[0][0]
        logits = task.eval()(BoxedClip(*(part[None] for part in several)))
        assert logits.shape == (1, 20)
        with pytest.raises(UserError, match="boxes of a detector, so videos alone"):
            Predictor(task.model, task.config, dataset.label_names, dataset.protocol)


@pytest.mark.parametrize(
    "changes, message",
    [
        (["data.boxes=null"], "model.head: regions are those of data.boxes"),
        (["model.head=null"], "data.boxes: the network takes none"),
        (["data.root=x"], "data.boxes: builtin is for the built-in data"),
        (["train.mixup=0.2"], "train.mixup: data.boxes do not follow it"),
        (["data.rand_augment=9"], "data.rand_augment: data.boxes do not follow it"),
    ],
)
def test_what_does_not_go_with_boxes_is_named(changes, message):
    changes = ["data.boxes=builtin", *changes]
    with pytest.raises(UserError, match=message):
        load_config("smt/nonlocal_i3d_gcn.yaml", changes)
