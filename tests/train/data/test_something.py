import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from rstg_pyg.train.data.protocols import PROTOCOLS
from rstg_pyg.train.data.sampling import uniform, uniform_shifted
from rstg_pyg.train.data.something import SomethingSomething
from rstg_pyg.train.errors import UserError

SMALL = dict(num_frames=4, short_side=24, crop_size=20)


def open_v1(v1, split="train", **options):
    return SomethingSomething(v1, split, **{**SMALL, **options})


def test_training_clips(v1, files):
    dataset = open_v1(v1)
    assert len(dataset) == 4 and dataset.ids == ["1", "2", "3", "4"]
    assert dataset.classes == files.classes and dataset.labels.tolist() == [0, 1, 2, 1]
    clip, label = dataset[2]
    assert clip.shape == (3, 4, 20, 20) and clip.dtype == torch.uint8 and clip.is_contiguous()
    assert label == 2 and isinstance(label, int)
    assert len(list(dataset)) == 4


def test_the_same_reader_for_folders_and_files(v1, v2):
    options = dict(protocol="center1", **SMALL)
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        frames = SomethingSomething(v1, split, **options)
        files = SomethingSomething(v2, split, **options)
        assert len(frames) == len(files) == count
        for (a, label), (b, same) in zip(frames, files):
            assert label == same and (a.int() - b.int()).abs().float().mean() < 6


def test_videos_without_labels(v1):
    dataset = open_v1(v1, "test", protocol="center1")
    assert dataset.labels.tolist() == [-1, -1] and dataset[1][1] == -1


def test_random_parts_depend_on_seed_epoch_and_item_only(v1):
    dataset = open_v1(v1, sampling="segments", crop="multiscale", flip=True)
    clips = [dataset[visit][0] for visit in range(8)]
    again = open_v1(v1, sampling="segments", crop="multiscale", flip=True)
    for visit in (7, 3, 0, 5):  # in another order, with another past
        assert torch.equal(again[visit][0], clips[visit])
    assert not torch.equal(clips[3], clips[7])  # the next epoch's crop is another
    other = open_v1(v1, sampling="segments", crop="multiscale", flip=True, seed=1)
    assert not torch.equal(other[3][0], clips[3])


def test_crops_change_between_epochs_and_frames_move_alike(v1):
    dataset = open_v1(v1, brightness=0)
    source = dataset.source.read("2", uniform(9, 4), 24)  # [4, 24, 32, 3]
    lefts = set()
    for epoch in range(30):
        clip = dataset[epoch * 4 + 1][0].permute(1, 2, 3, 0)
        match = [
            (y, x)
            for y in range(5)
            for x in range(13)
            if torch.equal(source[:, y : y + 20, x : x + 20], clip)
        ]
        assert match
        lefts.add(match[0][1])
    assert len(lefts) > 5


def test_flips_change_the_class_of_directions(v1):
    plain, flipped = open_v1(v1, brightness=0), open_v1(v1, brightness=0, flip=True)
    seen = set()
    for visit in range(1, 80, 4):  # video 2, from left to right
        (clip, label), (other, mirrored) = plain[visit], flipped[visit]
        if torch.equal(clip, other):
            assert mirrored == label == 1
        else:
            assert torch.equal(clip.flip(3), other) and mirrored == 2
        seen.add(mirrored)
    assert seen == {1, 2}


def test_center1(v1):
    dataset = open_v1(v1, protocol="center1")
    frames = dataset.source.read("4", uniform(40, 4), 24)
    assert torch.equal(dataset[3][0].permute(1, 2, 3, 0), frames[:, 2:22, 6:26])
    assert torch.equal(dataset[7][0], dataset[3][0])  # nothing is random


def test_dense_clips_are_ordered_as_published(v1):
    dataset = open_v1(v1, protocol="dense11x2")
    clips, _ = dataset[3]
    assert clips.shape == (22, 3, 4, 24, 24) and dataset.num_clips == 22 and dataset.clip_size == 24
    for time, indices in enumerate((uniform(40, 4), uniform_shifted(40, 4))):
        frames = dataset.source.read("4", indices, 24)
        for place, left in ((0, 0), (5, 4), (10, 8)):
            expected = frames[:, :, left : left + 24].permute(3, 0, 1, 2)
            assert torch.equal(clips[11 * time + place], expected)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_are_described_with_every_number(v1, name):
    text = open_v1(v1, "val", protocol=name).describe()
    clips = {"center1": "1 spatial x 1 temporal = 1 clip", "dense11x2": "11 spatial x 2 temporal = 22"}
    size = "20 x 20" if name == "center1" else "24 x 24"
    expected = [name, clips.get(name, "3 spatial x 2 temporal = 6"), "4 frames (uniform)", size]
    for part in [*expected, "short side 24", "v1 val: 2 videos, 3 classes in sorted order, frames"]:
        assert part in text


def test_one_frame_and_odd_sizes(v1, files):
    assert open_v1(v1, "val", protocol="center1")[0][0].shape == (3, 4, 20, 20)  # video 5: one frame
    folder = v1 / "20bn-something-something-v1"
    files.frames(folder / "9", 9, 3, height=33, width=17)
    (v1 / "something-something-v1-test.csv").write_text("9\n")
    for protocol in PROTOCOLS:
        clips = open_v1(v1, "test", protocol=protocol)[0][0]
        assert clips.shape[-1] == clips.shape[-2]


@pytest.mark.parametrize("root", ["v1", "v2"])
def test_a_copy_and_workers_read_the_same_clips(root, request):
    dataset = SomethingSomething(request.getfixturevalue(root), "train", **SMALL)
    visits = [5, 2, 0, 7]
    clips = torch.stack([dataset[visit][0] for visit in visits])
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[5][0], clips[0])
    loader = DataLoader(dataset, batch_sampler=[visits[:2], visits[2:]], num_workers=2)
    assert torch.equal(torch.cat([clips for clips, _ in loader]), clips)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(protocol="center2"), "data.protocol: expected one of center1, dense11x2, full3x2"),
        (dict(sampling="random"), "data.sampling: expected one of uniform, segments"),
        (dict(crop="five"), "data.crop: expected one of"),
        (dict(crop_size=25), "data.crop_size: expected 1 to data.short_side=24"),
        (dict(num_frames=0), "data.num_frames: expected at least 1"),
        (dict(brightness=2.0), "data.brightness: expected 0 to 1"),
        (dict(seed=-1), "seed: expected at least 0"),
        (dict(source="video"), "it has data.source=frames"),
        (dict(split="vall"), "no list of the split 'vall'"),
    ],
)
def test_wrong_arguments(v1, options, message):
    split = options.pop("split", "train")
    with pytest.raises(UserError, match=message):
        open_v1(v1, split, **options)


def test_nothing_replaces_a_missing_video(v1):
    for path in (v1 / "20bn-something-something-v1/3").iterdir():
        path.unlink()
    dataset = open_v1(v1)
    with pytest.raises(
        UserError, match="20bn-something-something-v1/3: expected frames like 00001.jpg"
    ):
        dataset[2]
    with pytest.raises(IndexError):
        dataset[-1]


def test_opening_lists_folders_and_opens_no_video(v1, files, monkeypatch):
    lines = "".join(f"{i};{files.classes[i % 3]}\n" for i in range(1, 20_001))
    (v1 / "something-something-v1-train.csv").write_text(lines)
    looked = []
    from pathlib import Path

    for name in ("is_dir", "is_file"):
        plain = getattr(Path, name)
        monkeypatch.setattr(Path, name, lambda self, plain=plain: looked.append(self) or plain(self))
    assert len(open_v1(v1, partial=True)) == 8
    assert len(looked) < 500
    with pytest.raises(UserError, match=r"8 of the 20,000 videos of train are there .*/9, "):
        open_v1(v1)


@pytest.mark.parametrize("protocol", [None, "center1", "full3x2"])
def test_frames_in_random_order(v1, protocol):
    plain, mixed = (
        SomethingSomething(
            v1, "train", protocol, num_frames=6, short_side=24, crop_size=16, shuffle_time=shuffle
        )
        for shuffle in (False, True)
    )
    orders = set()
    for visit in range(2 * len(plain)):
        a, b = plain[visit][0], mixed[visit][0]
        assert torch.equal(b, mixed[visit][0]), "the same order again"
        frames = {tuple(t.flatten().tolist()) for t in a.unbind(-3)}
        assert {tuple(t.flatten().tolist()) for t in b.unbind(-3)} == frames
        orders.add(torch.equal(a, b))
    assert False in orders
    assert "random order" in mixed.describe() and "random order" not in plain.describe()
