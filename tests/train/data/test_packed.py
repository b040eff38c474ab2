import json
import multiprocessing
import os
import pickle
import resource
import signal
import time
import traceback
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader

from rstg_pyg.train.data import packing, parallel
from rstg_pyg.train.data.packing import pack
from rstg_pyg.train.data.something import SomethingSomething
from rstg_pyg.train.data.sources import open_source
from rstg_pyg.train.data.sources.packed import STORE, PackedVideos
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.prepare import main

SMALL = dict(short_side=24, quality=95)
IDS = [str(i) for i in range(1, 9)]


def in_a_child(function):
    """Runs a function in a process of its own; returns its exit status and what it reported."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            function(lambda text: os.write(writer, text.encode()))
            os._exit(0)
        except BaseException:
            os.write(writer, traceback.format_exc().encode())
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


@pytest.mark.parametrize(("source", "fps"), [("v1", None), ("v2", [12.0, 12.0])])
def test_a_packed_store_is_a_root(source, fps, request, files, tmp_path):
    root, out = request.getfixturevalue(source), tmp_path / "packed"
    packed = pack(root, out, **SMALL)
    assert (packed.store, packed.videos, packed.added) == (out, 8, 8)
    assert packed.size == (out / STORE).stat().st_size
    assert not list(tmp_path.glob("*.partial")) and not list(out.glob("*lock*"))
    options = dict(num_frames=4, short_side=24, crop_size=20, protocol="center1")
    for split in ("train", "val", "test"):
        here = SomethingSomething(out, split, **options)
        there = SomethingSomething(root, split, **options)
        assert here.source.kind == "packed" and here.ids == there.ids
        for (a, label), (b, same) in zip(here, there):
            assert label == same and (a.int() - b.int()).abs().float().mean() < 5
    store = PackedVideos(out / STORE)
    made = store.made
    kind = "frames" if fps is None else "video"
    assert (made.short_side, made.quality, made.source, made.fps) == (24, 95, kind, fps)
    assert "Pillow" in made.extractor and ("PyAV" in made.extractor) == (kind == "video")
    assert store.frames_per_second("4") == (fps and fps[0])
    rate = "frame rate unknown" if fps is None else "12 frames per second"
    assert f"short side 24, JPEG quality 95, from {kind}, {rate}, by " in store.detail


def test_reads_and_resizes(v1, files, tmp_path):
    pack(v1, tmp_path / "p", **SMALL)
    source = pickle.loads(pickle.dumps(open_source(tmp_path / "p", IDS)))
    assert [source.num_frames(video) for video in IDS] == files.lengths
    frames = source.read("4", [30, 2, 30])
    assert frames.shape == (3, 24, 32, 3) and torch.equal(frames[0], frames[2])
    assert abs(float(frames[0][..., 1].float().mean()) - 150) < 2
    assert source.read("4", [0], short_side=12).shape == (1, 12, 16, 3)
    assert sorted(source.videos()) == IDS and source.missing(["1", "11"]) == ["11"]
    with pytest.raises(UserError, match="the video 11 is not in the packed store; nearest: 8, 7, 6"):
        source.num_frames("11")


def test_workers(v1, tmp_path):
    pack(v1, tmp_path / "a", **SMALL)
    pack(v1, tmp_path / "b", **SMALL, workers=2)
    a, b = (PackedVideos(tmp_path / name / STORE) for name in "ab")
    assert all(torch.equal(a.read(v, [0]), b.read(v, [0])) for v in IDS)
    dataset = SomethingSomething(tmp_path / "a", "train", num_frames=4, short_side=24, crop_size=20)
    clips = torch.stack([dataset[i][0] for i in range(4)])  # opened here, then in the workers
    (loaded,) = [clips for clips, _ in DataLoader(dataset, batch_size=4, num_workers=2)]
    assert torch.equal(loaded, clips)


@pytest.mark.parametrize("at", [1, 5])
def test_killed_and_continued(v1, tmp_path, monkeypatch, at):
    monkeypatch.setattr(packing, "_TRANSACTION", 1)
    out = tmp_path / "p"

    def kill(done, total):
        if done == at:
            os.kill(os.getpid(), signal.SIGKILL)

    status, _ = in_a_child(lambda report: pack(v1, out, **SMALL, progress=kill))
    assert status == -signal.SIGKILL and not out.exists()
    packed = pack(v1, out, **SMALL)
    assert (packed.videos, packed.added) == (8, 8 - at)
    source = PackedVideos(out / STORE)
    assert all(source.read(video, [0]).shape[0] == 1 for video in IDS)


def test_full_disk(v1, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "_TRANSACTION", 1)
    out = tmp_path / "p"

    def pack_on_little_space(report):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, resource.RLIM_INFINITY))
        try:
            pack(v1, out, **SMALL)
        except UserError as e:
            report(str(e))

    status, message = in_a_child(pack_on_little_space)
    assert status == 0
    assert f"{tmp_path}/p.partial: cannot be written" in message and "MB are free there" in message
    assert "free some space and run it again" in message and "Traceback" not in message
    done = int(message.split(" whole videos")[0].split()[-1])
    assert 0 < done < 8 and not out.exists()
    assert pack(v1, out, **SMALL).added == 8 - done


def test_broken_videos_are_named_and_the_others_kept(v1, tmp_path):
    path = v1 / "20bn-something-something-v1/3/00002.jpg"
    data = path.read_bytes()
    path.write_bytes(data[:300])
    (v1 / "20bn-something-something-v1/6").rename(v1 / "away")
    out = tmp_path / "p"
    with pytest.raises(UserError) as caught:
        pack(v1, out, **SMALL)
    assert "2 of 8 videos cannot be packed" in str(caught.value) and not out.exists()
    assert f"{path}: the image cannot be decoded" in str(caught.value)
    assert "v1/6: the video's folder is missing; nearest: 5, 7, 4" in str(caught.value)
    path.write_bytes(data)
    (v1 / "away").rename(v1 / "20bn-something-something-v1/6")
    assert pack(v1, out, **SMALL).added == 2


def test_continuing_with_other_settings(v1, tmp_path):
    (tmp_path / "p.partial").mkdir()
    with packing._Writer(tmp_path / "p.partial") as writer:
        writer.begin(packing.Made(24, 90, "another program", "frames", None), str(v1))
    with pytest.raises(UserError, match=r"begun with other settings .*another program.* now .*Pillow"):
        pack(v1, tmp_path / "p", **SMALL)
    v1.rename(tmp_path / "v2")
    with pytest.raises(UserError, match=rf"p.partial: was begun with the videos of {v1}\n"):
        pack(tmp_path / "v2", tmp_path / "p", **SMALL)


def test_two_at_once(v1, tmp_path):
    def pack_too(report):
        with pytest.raises(UserError, match="p.partial: another program is packing it"):
            pack(v1, tmp_path / "p", **SMALL)

    with packing._Writer(tmp_path / "p.partial"):
        assert in_a_child(pack_too) == (0, "")


def test_wrong_places(v1, tmp_path):
    pack(v1, tmp_path / "p", **SMALL)
    with pytest.raises(UserError, match="p: exists already"):
        pack(v1, tmp_path / "p", **SMALL)
    with pytest.raises(UserError, match="is a packed store already"):
        pack(tmp_path / "p", tmp_path / "q", **SMALL)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        pack(v1, tmp_path / "file" / "p", **SMALL)
    with pytest.raises(UserError, match="--quality from 1 to 100"):
        pack(v1, tmp_path / "r", quality=0)


def test_a_changed_bit_is_found(v1, tmp_path):
    pack(v1, tmp_path / "p", **SMALL)
    path = tmp_path / "p" / STORE
    data = bytearray(path.read_bytes())
    jpegs = [i for i in range(len(data) - 3) if data[i : i + 3] == b"\xff\xd8\xff"]
    data[jpegs[-1] + 200] ^= 4
    path.write_bytes(data)
    source = PackedVideos(path)
    problems = []
    for video in IDS:
        try:
            list(source.frames(video))
        except UserError as e:
            problems.append(str(e))
    assert len(problems) == 1 and "is damaged (wrong checksum)" in problems[0]
    assert str(path) in problems[0]


def test_truncated_and_foreign_stores(v1, tmp_path):
    pack(v1, tmp_path / "p", **SMALL)
    path = tmp_path / "p" / STORE
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="the packed store is truncated"):
        PackedVideos(path)
    for content in (b"", b"hello" * 5000):
        path.write_bytes(content)
        with pytest.raises(UserError, match="videos.lmdb: "):
            PackedVideos(path)


def fails(how, item):
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL) if how == "dies" else time.sleep(1000)
    return item


@pytest.mark.parametrize(("how", "reason"), [("dies", ""), ("hangs", "timed out after 2 seconds")])
def test_a_worker_that_dies_or_hangs_is_an_error(how, reason):
    before = set(multiprocessing.active_children())  # of other tests
    message = rf"a worker process died or hung \(DataLoader .*{reason}.*\) at (\d, )?3(, \d)?; fix or"
    with pytest.raises(UserError, match=message):
        list(parallel.in_processes(partial(fails, how), range(10), 2, timeout=2))
    end = time.monotonic() + 30
    while set(multiprocessing.active_children()) - before and time.monotonic() < end:
        time.sleep(0.01)
    assert not set(multiprocessing.active_children()) - before


def test_results_come_in_order():
    assert list(parallel.in_processes(abs, range(-20, 0), 2)) == list(range(20, 0, -1))


def test_the_command(v1, tmp_path, capsys):
    arguments = ["pack", "--root", str(v1), "--out", str(tmp_path / "p"), "--short-side", "24"]
    assert main([*arguments, "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert "p: 8 videos (8 new)" in printed and f"use it with data.root={tmp_path / 'p'}" in printed
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "exists already" in error


def test_throughput_command(v1, tmp_path, capsys, files):
    for i in range(1, 9):
        files.video(v1 / "videos" / f"{i}.mp4", i, 5)
    out = tmp_path / "bench.json"
    bench = ["--seconds", "0.05"]
    assert main(["bench-data", "--root", str(v1), *bench, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "frames: " in printed and "video: " in printed and "clips/s per worker" in printed
    rates = json.loads(out.read_text())["rates"]
    assert [rate["source"] for rate in rates] == ["frames", "video"]
    assert all(rate["clips_per_second"] > 0 for rate in rates)
    assert main(["bench-data", "--root", str(v1), "--cfg", "syncmnist_mini.yaml"]) == 2
    assert "--root: cannot be combined" in capsys.readouterr().err
    pack(v1, tmp_path / "p", **SMALL)
    assert main(["bench-data", "--root", str(tmp_path / "p"), *bench]) == 0
    assert "packed: " in capsys.readouterr().out
