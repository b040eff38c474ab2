"""One's own videos: every layout is found, splits are disjoint, and what is wrong is said in a line."""

import json
import os
import shutil
import time

import pytest
import torch
from helpers.video_folders import SMALL, found, problem, touch
from torch.utils.data import DataLoader

from rstg_pyg.train.data.check import check
from rstg_pyg.train.data.folder import VideoFolder, is_class_folder, read_folder
from rstg_pyg.train.data.loaders import VideoLoader
from rstg_pyg.train.data.packing import pack
from rstg_pyg.train.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")


def test_class_folders(root):
    wanted = {f"train/{c}/{n}.mp4": c for c in "ab" for n in range(3)}
    assert found(root) == {"train": wanted, "val": {"val/a/8.mp4": "a", "val/b/9.mp4": "b"}}


def test_an_ordinary_loader(root, files):
    dataset = VideoFolder(root, "train", **SMALL, brightness=0.0)
    loader = DataLoader(dataset, batch_size=3, shuffle=True, num_workers=1)
    batches = list(loader)
    assert [tuple(clips.shape) for clips, _ in batches] == [(3, 3, 4, 20, 20)] * 2
    clips, labels = torch.cat([c for c, _ in batches]), torch.cat([y for _, y in batches])
    videos = (clips[:, 0].float().mean(dim=(1, 2, 3)) / 20).round()  # red tells the video
    assert sorted(videos.tolist()) == [0, 1, 2, 3, 4, 5]
    assert torch.equal(labels, (videos > 2).long())


@pytest.mark.parametrize("names", [("training", "validation"), ("Train", "eval"), ("train", "valid")])
def test_spellings_of_splits(tmp_path, names):
    train, val = names
    touch(tmp_path, f"{train}/a/1.MP4", f"{val}/a/2.mkv", "testing/a/3.Webm", "notes/readme.txt")
    assert found(tmp_path) == {
        "train": {f"{train}/a/1.MP4": "a"}, "val": {f"{val}/a/2.mkv": "a"},
        "test": {"testing/a/3.Webm": "a"},
    }  # fmt: skip


def test_nested_folders_frames_and_links(tmp_path, files):
    root = tmp_path / "clips"
    files.frames(root / "train/a/person 1/take", 0, 3)
    files.frames(root / "train/b/é", 1, 3, name="img_{}.png", start=0)
    files.frames(tmp_path / "elsewhere/x", 2, 3)
    (root / "train/b/linked").symlink_to(tmp_path / "elsewhere")
    (root / "train/a/loop").symlink_to(root / "train/a")
    (root / "train/a/person 1/up").symlink_to(root)
    (root / "train/b/self").symlink_to("self")
    touch(root, "train/.hidden/1.mp4", "train/__MACOSX/1.mp4", "train/a/notes.txt")
    ids = {"train/a/person 1/take": "a", "train/b/linked/x": "b", "train/b/é": "b"}
    assert found(root) == {"train": ids}
    dataset = VideoFolder(root, "train", val_fraction=0.0, **SMALL)
    assert dataset.source.kind == "frames"
    assert sorted(dataset.source.num_frames(v) for v in dataset.ids) == [3, 3, 3]


def test_frames_beside_the_files_are_the_same_videos(root, files):
    files.frames(root / "train/a/0", 0, 3)
    assert len(found(root)["train"]) == 6


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("place", ["top", "split", "column"])
def test_metadata(tmp_path, kind, place):
    rows = [("train", "x/1.mp4", "jump"), ("train", "2.mp4", "run, fast"), ("val", "3.mp4", "jump")]
    touch(tmp_path, *(f"{split}/{name}" for split, name, _ in rows))

    def write(path, rows):
        columns = list(rows[0])
        lines = [",".join(columns), *(",".join(f'"{row[c]}"' for c in columns) for row in rows)]
        text = "\n".join(lines) if kind == "csv" else "\n".join(map(json.dumps, rows))
        path.write_text(f"{text}\n")

    wanted = {
        "train": {"train/x/1.mp4": "jump", "train/2.mp4": "run, fast"}, "val": {"val/3.mp4": "jump"}
    }  # fmt: skip
    if place == "split":
        for split in ("train", "val"):
            table = [{"file_name": n, "label": y, "more": "1"} for s, n, y in rows if s == split]
            write(tmp_path / split / f"metadata.{kind}", table)
    elif place == "top":
        write(
            tmp_path / f"metadata.{kind}", [{"file_name": f"{s}/{n}", "label": y} for s, n, y in rows]
        )
    else:  # the column counts, whatever the folder
        splits = ["training", "training", "Eval"]
        table = [
            {"file_name": f"val/{n}", "split": s, "label": y} for (_, n, y), s in zip(rows, splits)
        ]
        write(tmp_path / f"metadata.{kind}", table)
        wanted["train"] = {"val/x/1.mp4": "jump", "val/2.mp4": "run, fast"}
    assert found(tmp_path) == wanted


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("path,label\na b/1.mp4,run\n2.avi,jump high\n", ["run", "jump high"]),
        ("a b/1.mp4,run\n2.avi,jump high\n", ["run", "jump high"]),
        ("label;path\nrun;a b/1.mp4\njump high;2.avi\n", ["run", "jump high"]),
        ("a b/1.mp4 10\n2.avi 9\n", ["10", "9"]),
        ("a b/1.mp4 run\n./2.avi jump high\n", ["run", "jump high"]),
        ("a b/1.mp4\tone\n\n2.avi\ttwo\n", ["one", "two"]),
    ],
)
def test_lists(tmp_path, text, labels):
    (tmp_path / "train.csv").write_text(text)
    assert found(tmp_path) == {"train": dict(zip(("a b/1.mp4", "2.avi"), labels))}


def test_lists_of_ucf(tmp_path):
    folder = tmp_path / "ucfTrainTestlist"
    folder.mkdir()
    (folder / "classInd.txt").write_text("1 Jump\n2 Archery\n3 Run\n")
    (folder / "trainlist01.txt").write_text("Jump/v 1.avi 1\nArchery/v2.avi 2\n")
    (folder / "testlist01.txt").write_text("Archery/v3.avi\n")
    train = {"Jump/v 1.avi": "Jump", "Archery/v2.avi": "Archery"}
    assert found(tmp_path) == {"train": train, "test": {"Archery/v3.avi": "Archery"}}
    listing = read_folder(tmp_path)
    assert listing.classes == ["Jump", "Archery", "Run"]
    assert listing.notes == ["1 class of the list has no videos (Run)"]


def test_numbers_are_sorted_as_numbers(tmp_path):
    touch(tmp_path, *(f"train/{number}/1.mp4" for number in range(12)))
    assert read_folder(tmp_path).classes == [str(number) for number in range(12)]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_several_labels_per_video(tmp_path, files, kind):
    rows = [("1", ["jump", "run"]), ("2", []), ("3", ["run"]), ("4", "sit"), ("5", ["run", "run"])]
    for name, _ in rows:
        files.video(tmp_path / f"in/{name}.mp4", int(name), 5)
    texts = [json.dumps({"file_name": f"{name}.mp4", "label": label}) for name, label in rows]
    if kind == "csv":  # as pandas writes lists
        texts = ["file_name,label", *(f'{name}.mp4,"{label}"' for name, label in rows)]
    (tmp_path / f"in/metadata.{kind}").write_text("\n".join(texts) + "\n")
    expected = torch.tensor([[1.0, 1, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]])
    packed = pack(tmp_path / "in", tmp_path / "packed", short_side=24)
    for root in (tmp_path / "in", tmp_path / "packed", tmp_path / "in"):
        dataset = VideoFolder(root, val_fraction=0, **SMALL)
        assert dataset.classes == ["jump", "run", "sit"] and dataset.multi_label
        assert torch.equal(dataset.labels, expected)
        clips, labels = next(iter(DataLoader(dataset, batch_size=5)))
        assert clips.shape == (5, 3, 4, 20, 20) and torch.equal(labels, expected)
        (batch,) = VideoLoader(dataset, 5)
        assert torch.equal(batch[1], expected)
        past = time.time() - 9
        os.utime(root / f"metadata.{kind}" if root.name == "in" else root / "train.csv", (past, past))
        os.utime(root, (past, past))
    assert packed.videos == 5 and "several per video" in dataset.origin
    assert len(VideoFolder(tmp_path / "in", "val", val_fraction=0.4, **SMALL)) == 2
    flips = VideoFolder(tmp_path / "in", val_fraction=0, flip=True, **SMALL)
    flips.mirrored = [1, 0, None]
    labels = {tuple(flips[5 * epoch + 0][1].tolist()) for epoch in range(9)}
    assert labels == {(1, 1, 0)}
    assert {tuple(flips[5 * e + 2][1].tolist()) for e in range(9)} == {(0, 1, 0), (1, 0, 0)}
    assert {tuple(flips[5 * e + 3][1].tolist()) for e in range(9)} == {(0, 0, 1)}


def test_part_of_train(tmp_path):
    touch(tmp_path, *(f"{c}/{n}.mp4" for c in "abc" for n in range(10)), "d/1.mp4")
    listing = read_folder(tmp_path)
    parts = {split: listing.part(split, 0.2) for split in ("train", "val")}
    assert {s: [sum(v.label == i for v in p) for i in range(4)] for s, p in parts.items()} == {
        "train": [8, 8, 8, 1], "val": [2, 2, 2, 0],
    }  # fmt: skip
    assert not {v.id for v in parts["train"]} & {v.id for v in parts["val"]}
    touch(tmp_path, "e/1.mp4", "e/2.mp4")
    assert set(parts["val"]) < set(read_folder(tmp_path).part("val", 0.2))
    with pytest.raises(UserError, match="no videos of val .*data.val_fraction=0.2"):
        listing.part("val", 0.0)
    assert listing.part("train", 0.0) == listing.splits["train"]


def test_folds(tmp_path):
    """Every video is in one fold, but for those that are alone in their class."""
    sizes = {"a": 12, "b": 7, "c": 3, "d": 2, "e": 1}
    touch(tmp_path, *(f"{c}/{n}.mp4" for c, count in sizes.items() for n in range(count)))
    listing = read_folder(tmp_path)
    everything = {video.id for video in listing.splits["train"]}
    for share, count in ((0.2, 5), (0.3, 4), (0.5, 2)):
        seen = []
        for fold in range(count):
            val, train = ({v.id for v in listing.part(s, share, fold)} for s in ("val", "train"))
            assert val | train == everything and not val & train
            seen += val
        assert sorted(seen) == sorted(everything - {"e/0.mp4"})
    with pytest.raises(
        UserError, match=r"val_fold: .*\(got 5\); data.val_fraction=0.2 has folds 0 to 4"
    ):
        VideoFolder(tmp_path, "val", val_fold=5, **SMALL)


def test_one_class(root):
    for split in ("train", "val"):
        shutil.rmtree(root / split / "b")
    dataset = VideoFolder(root, **SMALL)
    assert dataset.classes == ["a"] and "1 class, videos: train 3, val 1" in dataset.summary()
    assert "with one class there is nothing to learn" in dataset.summary()


def test_summary(root):
    lines = VideoFolder(root, **{**SMALL, "num_frames": 5}).summary().splitlines()
    assert lines[0] == f"{root} (class folders): 2 classes, videos: train 6, val 2"
    assert [line.split() for line in lines[1:4]] == [
        ["class", "train", "val"], ["a", "3", "1"], ["b", "3", "1"]
    ]  # fmt: skip
    assert lines[4] == "40 x 30 pixels, 3 to 8 frames in 6 videos of train"
    assert lines[5].startswith("2 of 6 have fewer than the 5 frames of a clip: frames are repeated")
    assert lines[6] == "no test videos: results are those of the validation videos"


def test_short_videos_repeat_frames(root):
    clip, _ = VideoFolder(root, **{**SMALL, "num_frames": 6}, brightness=0.0)[0]
    assert clip.shape == (3, 6, 20, 20)
    green = (clip[1].float().mean(dim=(1, 2)) / 5).round().tolist()  # which frame it is
    assert green == [0, 0, 0, 1, 1, 2]


def test_an_empty_class_folder(root):
    (root / "train/c").mkdir()
    problem(root, f"{root / 'train'}: 1 class folder has no videos ({root / 'train/c'})")


def test_a_class_only_in_val(root):
    (root / "val/b").rename(root / "val/bb")
    problem(root, "1 class is in val and not in train (bb); did you mean 'b'?")


def test_labels_that_are_not_in_the_list(tmp_path):
    (tmp_path / "classes.txt").write_text("jump\nrun\n")
    (tmp_path / "train.csv").write_text("path,label\n1.mp4,jump\n2.mp4,rum\n3.mp4,1\n4.mp4,7\n")
    problem(tmp_path, "train.csv, line 3: the label 'rum' is not in classes.txt; did you mean 'run'?",
            "1 more labels")  # fmt: skip


@pytest.mark.parametrize("table", ["metadata.csv", "train.csv"])
def test_rows_without_files(root, table):
    names = [f"train/a/{n}.mp4" for n in range(7)]
    names += ["val/a/8.mp4"] if table == "metadata.csv" else []
    head = "file_name" if table == "metadata.csv" else "path"
    (root / table).write_text("\n".join([f"{head},label", *(f"{name},a" for name in names)]) + "\n")
    (root / "val.csv").write_text("path,label\nval/a/8.mp4,a\n")
    some = ", ".join(str(root / f"train/a/{n}.mp4") for n in (3, 4, 5))
    with pytest.raises(UserError, match="videos of train are there") as e:
        VideoFolder(root, "train", **SMALL)
    assert some in str(e.value) and "and 1 more" in str(e.value)
    assert len(VideoFolder(root, "train", partial=True, **SMALL)) == 3
    assert some in check(root).text()


def test_a_missing_video_is_not_taken_from_another_split(root):
    names = [f"{split}/{c}/{n}.mp4" for split in ("train", "val") for c in "ab" for n in (1, 8)]
    names.remove("train/b/8.mp4")
    (root / "metadata.csv").write_text("file_name,label\n" + "".join(f"{name},a\n" for name in names))
    shutil.copy(root / "train/a/2.mp4", root / "train/a/8.mp4")
    shutil.copy(root / "val/b/9.mp4", root / "val/b/8.mp4")
    with pytest.raises(UserError, match="2 of the 4 videos of val are there"):
        VideoFolder(root, "val", **SMALL)
    assert len(VideoFolder(root, "val", partial=True, **SMALL)) == 2


def test_blanks_around_a_split(root):
    rows = "".join(f"train/a/{n}.mp4 , a , {'test' if n else 'Train '}\n" for n in range(3))
    (root / "metadata.csv").write_text(f"file_name, label, split\n{rows}")
    assert {split: len(videos) for split, videos in found(root).items()} == {"train": 1, "test": 2}


def test_a_broken_link_is_missing(root):
    (root / "train/a/gone.mp4").symlink_to("nowhere.mp4")
    problem(root, "6 of the 7 videos of train are there", "gone.mp4")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "has no videos; expected train/CLASS/clip.mp4"),
        (("a/train/x/1.mp4", "a/val/x/1.mp4"), "one level too high; give"),
        (("train/a/1.mp4", "training/a/2.mp4"), "are both folders of one split"),
        (("train/a/1.jpg", "train/b/1.mp4"), "has images and no videos"),
        (("train/a/1.mp4", "train/b/x/1.jpg"), "1 video is a file (train/a/1.mp4) and 1 is a folder"),
        (("train.csv", "train.txt"), "are both lists of train"),
    ],
)
def test_what_is_no_data_set(tmp_path, names, words):
    touch(tmp_path, *names)
    problem(tmp_path, words)


@pytest.mark.parametrize(
    ("table", "text", "words"),
    [
        ("metadata.csv", "name,label\n1.mp4,a\n", "line 2: expected a value for 'file_name'"),
        ("metadata.csv", "file_name,label\n1.mp4,\n", "line 2: expected a value for 'label'"),
        ("metadata.jsonl", '{"file_name": "1.mp4", "label": ["a", ["b"]]}', "a value for 'label'"),
        ("metadata.jsonl", "[1]", "line 1: expected an object of JSON"),
        ("metadata.csv", "file_name,label\n../1.mp4,a\n", "below the data folder"),
        ("metadata.csv", "file_name,label,split\n1.mp4,a,out\n", "test for 'split' (got 'out')"),
        ("train.csv", "1.mp4\n", "line 1: expected a path and a label"),
        ("train.csv", "1.mp4,a\n1.mp4,a\n", "line 2: 1.mp4 is there twice"),
        ("metadata.csv", "file_name,label\n1.mp4,a\n2.mp4,run, fast\n", "line 3: expected 2 values"),
        ("metadata.csv", 'file_name,label\n1.mp4,"[a, b]"\n', "line 2: expected a list like"),
        ("train.csv", "path,label\n1.mp4,run, fast\n", "quotes around what has ',' in it"),
        ("train.csv", "1.mp4,24,3\n", "line 1: expected a path and a label (got '1.mp4,24,3'); put"),
        ("train.csv", "video_path,label\n1.mp4,a\n", "line 1: expected the columns path and"),
        ("train.csv", "label,youtube_id,time_start\na,1,0\n", "expected the columns path and label"),
        ("metadata.csv", "file_name,label\na\\1.mp4,a\n", "; write / between folders"),
    ],
)
def test_damaged_tables(tmp_path, table, text, words):
    (tmp_path / table).write_text(text)
    problem(tmp_path, words)


@pytest.mark.parametrize("table", ["metadata.csv", "metadata.jsonl", "train.csv"])
def test_columns_that_are_not_used_are_said(tmp_path, table):
    touch(tmp_path, "1.mp4", "2.mp4")
    names = ["path" if table == "train.csv" else "file_name", "label", "fps", "person"]
    rows = [("1.mp4", "a", 30, 2), ("2.mp4", "b", 25, 4)]
    lines = [",".join(names), *(",".join(map(str, row)) + "," * (row == rows[0]) for row in rows)]
    if table == "metadata.jsonl":
        lines = [json.dumps(dict(zip(names, row))) for row in rows]
    (tmp_path / table).write_text("\n".join(lines) + "\n")
    [note] = read_folder(tmp_path).notes
    assert note.startswith(f"{tmp_path / table}: 2 columns are not used (fps, person); ")


def settle(root):
    """Makes all folders and tables old, as they are after two seconds."""
    for folder, _, names in os.walk(root):
        for path in [folder, *(os.path.join(folder, name) for name in names)]:
            os.utime(path, (time.time() - 9,) * 2)


def test_the_listing_is_kept_until_a_folder_changes(root, cache, monkeypatch):
    from rstg_pyg.train.data.folder import listing

    read_folder(root)
    assert not cache.exists()  # the folders have just been made and may change within a tick
    settle(root)
    first = read_folder(root)
    assert len(list(cache.glob("listing-*.json"))) == 1
    monkeypatch.setattr(listing, "_find", None)  # not looked for again
    assert read_folder(root) == first
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    shutil.copy(root / "val/a/8.mp4", root / "train/b/new.mp4")
    assert len(read_folder(root).splits["train"]) == 7
    settle(root)
    read_folder(root)
    (next(cache.glob("listing-*.json"))).write_text("[]")
    assert len(read_folder(root).splits["train"]) == 7


def test_check_and_pack(root, tmp_path):
    assert is_class_folder(root)
    report = check(root, deep=True)
    assert report.ok, report.text()
    assert f"{root}: own videos (train, val)" in report.text()
    assert "train: 6 videos; smallest class 3 (a)" in report.text()
    packed = pack(root, tmp_path / "packed", short_side=24)
    assert packed.videos == 8
    for split in ("train", "val"):
        here = VideoFolder(root, split, protocol="center1", **SMALL)
        there = VideoFolder(packed.store, split, protocol="center1", **SMALL)
        assert there.source.kind == "packed" and there.classes == here.classes
        assert (there.ids, there.labels.tolist()) == (here.ids, here.labels.tolist())
        for (a, _), (b, _) in zip(here, there):
            assert (a.float() - b.float()).abs().mean() < 4  # JPEG
    assert check(packed.store).ok
    (root / "train/c").mkdir()
    with pytest.raises(UserError, match="has no videos"):
        pack(root, tmp_path / "again")


def test_class_folders_that_are_not_surely_some_are_told_how(tmp_path, files):
    for number, name in enumerate(("a/x/0", "b/x/1")):
        files.video(tmp_path / f"{name}.mp4", number, 3)
    with pytest.raises(UserError, match="in class folders: .* prepare.py --annotations folder$"):
        check(tmp_path)
    assert check(tmp_path, "folder").ok


def test_names_that_cannot_be_written_down(tmp_path):
    touch(tmp_path, "train/a/ä b.mp4", os.fsdecode(b"train/a/\xff.mp4"))
    problem(tmp_path, "expected the name of a video below the data folder")
