"""Videos are found in whatever folder they lie, under whatever suffix."""

import unicodedata

import pytest
from helpers.video_kinds import write

from rstg_pyg.train.data.check import check
from rstg_pyg.train.data.labels import read_annotations
from rstg_pyg.train.data.packing import pack
from rstg_pyg.train.data.something import SomethingSomething
from rstg_pyg.train.data.sources import find_sources, open_source
from rstg_pyg.train.errors import UserError

SMALL = dict(num_frames=2, short_side=24, crop_size=20)


def lists(root, videos, split="train", label="Moving something"):
    """Label files of v1."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "something-something-v1-labels.csv").write_text(f"{label}\nMoving nothing\n")
    lines = "".join(f"{video};{label}\n" for video in videos)
    (root / f"something-something-v1-{split}.csv").write_text(lines)
    return root


def videos(folder, *names):
    """Video files of as many frames as the number in the name's stem."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        count = int("".join(c for c in name.split(".")[0] if c.isdigit()))
        path = write(folder / f"{name}.mp4", "mpeg4", count)
        path.rename(folder / name)


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["2.MP4", "3.MP4"], ["2", "3"]),
        (["2.MOV", "3.mp4", "4.Mkv", "5.wmv", "6.ts", "7.mpeg", "8.flv", "9.3gp"], [*"23456789"]),
        (["2.mp4", "3.mp4"], ["2.mp4", "3.mp4"]),  # ids with their suffix
        (["2.mp4", "2.avi", "3.mp4"], ["2", "3"]),
        (["2.x.mp4", "3.mp4"], ["2.x", "3"]),
    ],
)
def test_suffixes(tmp_path, names, ids):
    videos(tmp_path / "any", *names)
    source = open_source(tmp_path, ids)
    assert source.kind == "video" and not source.missing(ids)
    assert [source.num_frames(video) for video in ids] == [int(video[0]) for video in ids]


def test_a_file_of_just_the_ids_name_is_the_one(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, count in (("1.mp4", 3), ("1.avi", 5)):
        write(folder / f"{count}.mp4", "mpeg4", count).rename(folder / name)
    source = open_source(tmp_path, ["1.avi", "1.mp4"])
    assert [source.num_frames(video) for video in ("1.avi", "1.mp4")] == [5, 3]


def test_lists_of_mmaction_keep_their_suffixes(tmp_path):
    videos(tmp_path / "videos", "2.mp4", "3.AVI")
    (tmp_path / "label_map.txt").write_text("A\nB\n")
    (tmp_path / "k_train_list_videos.txt").write_text("2.mp4 0\n3.AVI 1\n")
    dataset = SomethingSomething(tmp_path, "train", annotations="mmaction", **SMALL)
    assert [dataset.source.num_frames(video) for video in dataset.ids] == [2, 3]
    packed = pack(tmp_path, tmp_path / "packed", annotations="mmaction", short_side=24)
    assert packed.videos == 2
    (source, *_) = find_sources(tmp_path / "packed", ["2.mp4", "3.AVI"])
    assert source.kind == "packed" and source.num_frames("3.AVI") == 3


def test_names_of_frames_may_carry_the_id_and_differ_from_folder_to_folder(tmp_path, files):
    files.frames(tmp_path / "f/YSKX3", 1, 4, "YSKX3-{:06d}.jpg", start=1)
    files.frames(tmp_path / "f/AB12", 1, 5, "AB12-{:06d}.jpg", start=0)
    files.frames(tmp_path / "f/x_1", 1, 6, "x_1_{:03d}.png", start=0)
    files.frames(tmp_path / "f/both", 1, 7, "{:05d}.png")
    for number in (1, 2):
        (tmp_path / f"f/both/{number:05d}.jpg").write_bytes(b"a thumbnail")
    source = open_source(tmp_path, ["YSKX3", "AB12", "x_1", "both"])
    assert [source.num_frames(video) for video in ("YSKX3", "AB12", "x_1", "both")] == [4, 5, 6, 7]
    for video, last in (("YSKX3", 3), ("AB12", 4), ("both", 6)):
        (frame,) = source.frames(video, [last])
        assert abs(float(frame[..., 1].float().mean()) - 5 * last) < 2
    (tmp_path / "f/YSKX3/YSKX3-000001.jpg").unlink()
    with pytest.raises(UserError, match="YSKX3-000001.jpg: the frame is missing"):
        source.num_frames("YSKX3")
    (tmp_path / "f/AB12/AB12-3.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"AB12-000003.jpg and AB12-3.jpg are frames of one number"):
        source.num_frames("AB12")


@pytest.mark.parametrize("above", ["", "videos", "a/b"])
def test_split_folders(tmp_path, above):
    root = lists(tmp_path, ["2", "3"])
    lists(root, ["4"], "validation")
    videos(root / above / "train", "2.mp4", "3.mp4")
    videos(root / above / "val", "4.mp4")
    assert SomethingSomething(root, "val", **SMALL).source.num_frames("4") == 4
    assert check(root).ok
    assert pack(root, tmp_path / "packed", short_side=24).videos == 3


def test_ids_that_repeat_where_the_root_is(tmp_path, files):
    root = tmp_path / "something/v1"
    ids = [f"something/v1/img/{number}" for number in (1, 2)]
    for number in (1, 2):
        files.frames(root / f"img/{number}", number, 3 + number)
    for place in (root, root.parent, tmp_path):
        source = open_source(place, ids)
        assert not source.missing(ids) and [source.num_frames(video) for video in ids] == [4, 5]
    assert source.location("something/v1/img/9") == root / "img/9"


@pytest.mark.slow
def test_partial_downloads(tmp_path, capsys):
    root = lists(tmp_path, [str(number) for number in range(1, 41)])
    videos(root / "videos", *(f"{number}.mp4" for number in range(28, 41)), "9000.txt")
    with pytest.raises(
        UserError, match=r"13 of the 40 videos of train are there .*videos/1.mp4, .* and 24 more"
    ):
        SomethingSomething(root, "train", **SMALL)
    for options in (dict(partial=True), dict(on_error="skip")):
        dataset = SomethingSomething(root, "train", **SMALL, **options)
        assert len(dataset) == len(dataset.labels) == 13 and dataset.ids[0] == "28"
        assert "13 of 40 videos (the others are not there)" in dataset.describe()
    report = check(root)
    assert not report.ok and "13 of 40 videos are there in the video; missing are" in report.text()
    assert not any("classes have no video" in problem for problem in report.problems)
    assert any("1 class has no video (Moving nothing)" in note for note in report.notes)


def test_the_source_with_the_most_videos_is_taken(tmp_path, files):
    videos(tmp_path / "videos", "2.mp4", "3.mp4", "4.mp4")
    files.frames(tmp_path / "frames/2", 1, 2)
    assert open_source(tmp_path, ["2", "3", "4"]).kind == "video"
    assert open_source(tmp_path, ["2", "3", "4"], "frames").missing(["2", "3", "4"]) == ["3", "4"]
    assert open_source(tmp_path, ["2"]).kind == "frames"


def test_part_of_training_for_validation(tmp_path):
    ids = [str(number) for number in range(1, 41)]
    root = lists(tmp_path, ids)
    videos(root / "videos", *(f"{number}.mp4" for number in ids))
    with pytest.raises(UserError, match="there is no list of the split 'val'"):
        SomethingSomething(root, "val", **SMALL)
    parts = {s: SomethingSomething(root, s, val_fraction=0.1, **SMALL).ids for s in ("train", "val")}
    assert len(parts["val"]) == 4 and sorted(parts["train"] + parts["val"]) == sorted(ids)
    lists(root, ids[::-1])  # another order of the list changes nothing
    assert set(SomethingSomething(root, "val", val_fraction=0.1, **SMALL).ids) == set(parts["val"])
    for share, message in ((1.0, "expected 0 to below 1"), (0.99, "leaves none for train")):
        with pytest.raises(UserError, match=f"data.val_fraction: .*{message}"):
            SomethingSomething(root, "train", val_fraction=share, **SMALL)


def test_forms_of_unicode(tmp_path):
    label = "Déplacer"
    composed, apart = (unicodedata.normalize(form, label) for form in ("NFC", "NFD"))
    root = lists(tmp_path, ["2é"], label=composed)
    path = root / "something-something-v1-train.csv"
    path.write_text(path.read_text().replace(composed, apart))
    videos(root / "videos", unicodedata.normalize("NFD", "2é.mp4"))
    assert read_annotations(root).splits["train"][0].label == 0
    assert SomethingSomething(root, "train", **SMALL).source.num_frames("2é") == 2


def test_a_packed_store_keeps_rates_and_times(tmp_path):
    root = lists(tmp_path / "data", ["1", "2"])
    (root / "v").mkdir()
    write(root / "v/1.mp4", "mpeg4", 5, rate=12)
    times = [0, 1, 2, 3, 4, 5, 14, 22, 30]
    write(root / "v/2.mkv", "libx264", 9, rate=25, times=times, options={"preset": "ultrafast"})
    packed = pack(root, tmp_path / "packed", short_side=24)
    low = min(12.0, open_source(root, ["2"]).frames_per_second("2"))
    high = max(12.0, open_source(root, ["2"]).frames_per_second("2"))
    assert packed.made.fps == [low, high] and " to " in str(packed.made)
    here, there = (SomethingSomething(place, "train", **SMALL) for place in (tmp_path / "packed", root))
    assert "(uniform, by time where the frame rate varies)" in here.describe()
    assert here.source.varying_times("1") is None
    for dataset in (here, there):
        assert abs(dataset.source.varying_times("2") - [t / 25 for t in times]).max() < 0.002
