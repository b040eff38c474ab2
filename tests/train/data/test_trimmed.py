"""Parts of videos: which frames they have, from every kind of source; and in tables."""

import os

import pytest
import torch
from helpers.video_folders import SMALL, found, problem, touch
from helpers.video_kinds import picture, write
from PIL import Image

from rstg_pyg.train.data.folder import VideoFolder, read_folder
from rstg_pyg.train.data.packing import pack
from rstg_pyg.train.data.sources import open_source, open_video
from rstg_pyg.train.data.throughput import measure
from rstg_pyg.train.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")

PARTS = {  # of a video of 40 frames, 10 a second
    "long.mp4": range(40),
    "long.mp4#t=1,2": range(10, 20),
    "long.mp4#t=1.05,2": range(11, 20),
    "long.mp4#t=,0.3": range(3),
    "long.mp4#t=3.5": range(35, 40),
    "long.mp4#t=3.5,4.9": range(35, 40),
    "long.mp4#t=2.21,2.29": range(22, 23),  # between two frames: the one that is shown
    "long.mp4#t=3.95,3.99": range(39, 40),
}


@pytest.fixture
def long(tmp_path, files):
    files.video(tmp_path / "clips/long.mp4", 3, 40, rate=10)
    return tmp_path / "clips"


def test_the_frames_of_parts(long):
    source = open_source(long, list(PARTS))
    whole = source.read("long.mp4", range(40))
    assert len({frame.numpy().tobytes() for frame in whole}) == 40
    for video, frames in PARTS.items():
        assert source.num_frames(video) == len(frames), video
        indices = list(range(len(frames)))[::-1]  # in any order
        assert torch.equal(source.read(video, indices), whole[frames][indices]), video
        assert source.times(video) == pytest.approx([0.1 * i for i in range(len(frames))])
        assert source.frames_per_second(video) == 10


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_seconds_are_those_of_a_player_where_the_sound_begins_earlier(tmp_path, suffix):
    times = range(25, 65)  # the video begins after a second
    path = write(tmp_path / f"late{suffix}", "libx264", 40, times=times, audio=True)
    whole, name = open_video(path)
    source, video = open_video(f"{path}#t=1.2,1.6")
    assert torch.equal(source.read(video, range(10)), whole.read(name, range(5, 15)))
    assert source.num_frames(video) == 10 and whole.span(name) == pytest.approx((1, 2.6))
    source, video = open_video(f"{path}#t=2,2.6")
    assert torch.equal(source.read(video, range(15)), whole.read(name, range(25, 40)))


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_a_last_frame_that_is_shown_for_long(tmp_path, suffix):
    path, durations = tmp_path / f"held{suffix}", [100, 100, 3000]
    first, *others = (Image.fromarray(picture(number)) for number in range(3))
    first.save(path, save_all=True, append_images=others, duration=durations)
    source, video = open_video(f"{path}#t=2,3.2")
    whole, name = open_video(path)
    assert torch.equal(source.read(video, [0]), whole.read(name, [2]))
    source, video = open_video(f"{path}#t=3.5")
    with pytest.raises(UserError, match="has 3.20 seconds"):
        source.num_frames(video)


def test_a_part_of_a_video_of_ones_own(long):
    source, video = open_video(long / "long.mp4#t=1,2")
    assert (video, source.num_frames(video)) == ("long.mp4#t=1,2", 10)


@pytest.mark.parametrize("what", ["2,1", "1,1", "0:01,0:02", "1-2"])
def test_a_part_that_is_none(long, what):
    with pytest.raises(UserError, match=f"long.mp4#t={what}: expected a start and a later end in sec"):
        open_video(f"{long}/long.mp4#t={what}")


@pytest.mark.parametrize("what", ["4,4.5", "4", "3,5.1"])
def test_a_video_that_is_too_short(long, what):
    source = open_source(long, [f"long.mp4#t={what}"])
    with pytest.raises(UserError, match=f"long.mp4: has 4.00 seconds, too few for .*{what}"):
        source.num_frames(f"long.mp4#t={what}")


def test_frame_folders_have_no_seconds(tmp_path, files):
    files.frames(tmp_path / "clip", 0, 9)
    source = open_source(tmp_path, ["clip#t=0,1"])
    with pytest.raises(UserError, match="expected a video that says when its frames are shown"):
        source.num_frames("clip#t=0,1")


TABLES = {
    "metadata.csv": "file_name,label,split,start,end\nlong.mp4,a,train,0,1\nlong.mp4,b,train,1,0:02\n"
    "other.mp4,a,train,,\nother.mp4,b,val,0:00:01.5,\n",
    "labels.csv": "video;class;start;end;split\nlong.mp4;a;0;1;\nlong.mp4;b;1;2;\nother.mp4;a;;;\n"
    "other.mp4;b;1.50;;val\n",
    "metadata.jsonl": '{"file_name": "long.mp4", "label": "a", "end": 1}\n'
    '{"file_name": "long.mp4", "label": "b", "start": 1, "end": 2}\n'
    '{"file_name": "other.mp4", "label": "a"}\n'
    '{"file_name": "other.mp4", "label": "b", "start": 1.5, "split": "val"}',
}
LISTS = {
    "train.csv": 'start,end,path,label\n0,1,long.mp4,a\n1,2,long.mp4,b\n,,"other.mp4",a\n',
    "val.csv": 'path,label\n"other.mp4#t=1.5,",b\n',
}


@pytest.mark.parametrize("table", [*TABLES, "lists"])
def test_tables_with_starts_and_ends(long, files, table):
    files.video(long / "other.mp4", 5, 30, rate=10)
    for name, text in LISTS.items() if table == "lists" else [(table, TABLES[table])]:
        (long / name).write_text(text)
    first = "long.mp4#t=,1" if table == "metadata.jsonl" else "long.mp4#t=0,1"
    assert found(long) == {
        "train": {first: "a", "long.mp4#t=1,2": "b", "other.mp4": "a"},
        "val": {"other.mp4#t=1.5,": "b"},
    }
    [note] = read_folder(long).notes
    assert "other.mp4 (train) and other.mp4#t=1.5, (val)" in note
    val = VideoFolder(long, "val", "center1", sampling="uniform", **SMALL)
    assert "1 video" in val.describe()
    clip, label = val[0]
    expected = open_source(long, ["other.mp4"]).read("other.mp4", [15, 19, 24, 29], 24)
    assert torch.equal(clip.movedim(0, -1), expected[:, 2:22, 6:26]) and label == 1

    packed = long.parent / "packed"
    pack(long, packed, short_side=24, quality=95)
    again = VideoFolder(packed, "val", "center1", sampling="uniform", **SMALL)
    assert (again.ids, again.source.kind) == (val.ids, "packed")
    difference = (again[0][0].float() - clip.float()).abs().mean()
    assert difference < 4


PARTS_TABLE = "path,label,start,end\nlong.mp4,a,0,1\nlong.mp4,b,1,2\n"


def test_a_part_in_a_large_store_is_found_without_listing_it(long, monkeypatch):
    (long / "train.csv").write_text(PARTS_TABLE)
    packed = long.parent / "packed"
    pack(long, packed, short_side=24)
    data = VideoFolder(packed, "train", "center1", val_fraction=0, **SMALL)
    monkeypatch.setattr("rstg_pyg.train.data.sources.packed.list_videos", None)
    assert data[1][0].shape == (3, 4, 20, 20)


def test_bench_data_of_parts(long):
    (long / "train.csv").write_text(PARTS_TABLE)
    [rate] = measure(long, 0.1, **SMALL)
    assert rate["source"] == "video" and rate["clips"] > 0


def test_a_store_of_whole_videos_has_no_parts(long):
    (long / "train.csv").write_text("path,label\nlong.mp4,a\n")
    packed = long.parent / "packed"
    pack(long, packed, short_side=24)
    (packed / "train.csv").write_text(PARTS_TABLE)
    (packed / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"0 of the 2 videos of train .*videos.lmdb/long.mp4#t=0,1"):
        VideoFolder(packed, "train", val_fraction=0, **SMALL)
    (long / "videos.lmdb").write_bytes((packed / "videos.lmdb").read_bytes())
    (long / "train.csv").write_text(PARTS_TABLE)
    assert VideoFolder(long, "train", val_fraction=0, **SMALL).source.kind == "video"


def test_videos_that_are_not_there(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    with pytest.raises(UserError, match="expected FOLDER/long.mp4/00001.jpg and so on"):
        open_source(tmp_path / "a/b", ["long.mp4#t=0,1"])


def test_parts_of_one_video_are_not_divided(tmp_path):
    touch(tmp_path, *(f"{n}.mp4" for n in range(10)))
    rows = [f"{n}.mp4,{'ab'[i % 2]},{i},{i + 1}" for n in range(10) for i in range(4)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label,start,end", *rows]))
    listing = read_folder(tmp_path)
    parts = {split: {v.id for v in listing.part(split, 0.2)} for split in ("train", "val")}
    videos = {split: {name.partition("#")[0] for name in names} for split, names in parts.items()}
    assert len(parts["val"]) == 8 and len(videos["val"]) == 2 and len(parts["train"]) == 32
    assert not videos["train"] & videos["val"]


def test_no_class_has_all_its_parts_in_validation(tmp_path):
    names = [f"{n}.mp4" for n in range(10)]
    touch(tmp_path, *names)
    for label in ("abcdefghij", "abbbbbbbbb"):  # of each video
        rows = [f"{name},{c},{i},{i + 1}" for name, c in zip(names, label) for i in range(4)]
        (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label,start,end", *rows]))
        listing = read_folder(tmp_path)
        if label[-1] == "b":
            trained = {video.label for video in listing.part("train", 0.8)}
            assert trained == {0, 1} and len(listing.part("val", 0.8)) == 4 * 8
        else:
            with pytest.raises(UserError, match="each video of .* is the only one of a class"):
                listing.part("val", 0.2)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("1.mp4,a,2,2", "line 2: expected an end after the start (got 2 to 2)"),
        ("1.mp4,a,one,2", "line 2: expected seconds, or 1:02:03.5, as start or end (got 'one')"),
        ("1.mp4,a,-1,2", "(got '-1')"),
        ("1.mp4,a,0,0", "line 2: expected an end after the start (got 0 to 0)"),
    ],
)
def test_mistakes(tmp_path, row, words):
    touch(tmp_path, "1.mp4")
    (tmp_path / "metadata.csv").write_text(f"file_name,label,start,end\n{row}\n")
    problem(tmp_path, words)


def test_parts_of_two_splits_that_share_seconds(tmp_path):
    touch(tmp_path, "1.mp4", "2.mp4")
    rows = ["1.mp4,a,train,0,4", "1.mp4,a,test,3.9,8", "2.mp4,a,train,0,4", "2.mp4,a,train,1,2"]
    table = "\n".join(["file_name,label,split,start,end", *rows])
    (tmp_path / "metadata.csv").write_text(table)
    assert not read_folder(tmp_path).notes
    (tmp_path / "metadata.csv").write_text(f"{table}\n2.mp4,a,test,3,6\n1.mp4,a,val,,\n")
    [note] = read_folder(tmp_path).notes
    assert "two splits show the same seconds: 1.mp4#t=0,4 (train) and 1.mp4 (val), and 2 more" in note


OTHER = "id,name\n0,grün\n1,b\n"  # than the table


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_a_table_of_something_else_is_no_table(root, encoding):
    (root / "labels.csv").write_bytes(OTHER.encode(encoding))
    assert set(found(root)) == {"train", "val"}


def test_a_table_in_another_encoding_is_said(root):
    (root / "labels.csv").write_bytes("file,label\ntrain/a/0.mp4,grün\n".encode("latin-1"))
    with pytest.raises(UserError, match="labels.csv: expected UTF-8 text"):
        read_folder(root)


def test_a_table_with_quotes_around_its_columns(root):
    (root / "labels.csv").write_text('"video","class"\n"train/a/0.mp4","x, y"\n')
    assert found(root) == {"train": {"train/a/0.mp4": "x, y"}}
    (root / "train.csv").write_text('"path","label"\n"train/b/3.mp4","x, y"\n')
    assert found(root) == {"train": {"train/b/3.mp4": "x, y"}}


def test_lists_come_before_a_table_of_all_labels(root):
    names = [f"train/a/{n}.mp4" for n in range(3)]
    (root / "labels.csv").write_text("\n".join(["video,label", *(f"{name},x" for name in names)]))
    for split, name in zip(("train", "val", "test"), names):
        (root / f"{split}.csv").write_text(f"path,label\n{name},x\n")
    ids = {split: {name: "x"} for split, name in zip(("train", "val", "test"), names)}
    assert found(root) == ids


def test_a_table_that_was_none_is_looked_at_again(root):
    (root / "labels.csv").write_text("clip,kind\ntrain/a/0.mp4,x\n")
    for path in (root, *root.rglob("*")):
        os.utime(path, (1e9, 1e9))
    assert set(found(root)) == {"train", "val"}
    (root / "labels.csv").write_text("file,label\ntrain/a/0.mp4,x\n")  # changes no folder
    assert found(root) == {"train": {"train/a/0.mp4": "x"}}
