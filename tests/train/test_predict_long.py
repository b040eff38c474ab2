"""Predictions over time and of live sources, folders and patterns; tables; exported files."""

import functools
import http.server
import json
import os
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from helpers.results import rows_of
from helpers.tiny_predictor import NAMES, picture, write_checkpoint, write_frames, write_video
from helpers.video_kinds import KINDS, ORIENTATIONS, display, webp, write
from PIL import Image

from rstg_pyg import models
from rstg_pyg.train import Predictor, windows
from rstg_pyg.train.data.sources import open_video
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.export import main as export
from rstg_pyg.train.predict import main


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """A video of 7.5 seconds, a short one, and a checkpoint."""
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "long.mp4", 75)
    (folder / "more/deep").mkdir(parents=True)
    write_video(folder / "more/a.mp4", 12)
    write_video(folder / "more/deep/b.avi", 9)
    write_checkpoint(folder / "last.ckpt")
    return folder


@pytest.fixture
def here(media, monkeypatch):
    monkeypatch.chdir(media)
    return media


@pytest.fixture
def predictor(media):
    return Predictor.load(media / "last.ckpt", "cpu")


def cut(media, folder, first, last):
    """Some frames of the long video, as a video of its own."""
    folder.mkdir()
    source, name = open_video(media / "long.mp4")
    for i, frame in enumerate(source.frames(name, range(first, last))):
        Image.fromarray(frame.numpy()).save(folder / f"{i:03d}.png")
    return folder


def test_windows_are_predicted_as_videos_of_their_own(media, predictor, tmp_path):
    found = predictor.windows(media / "long.mp4", seconds=3)
    assert [(w.start, w.end) for w in found] == [(0, 3), (1.5, 4.5), (3, 6), (4.5, 7.5)]
    assert (
        len({w.predictions for w in map(lambda w: w._replace(predictions=w.predictions[0]), found)}) > 1
    )
    for window in found:
        part = cut(
            media, tmp_path / f"{window.start}", round(10 * window.start), round(10 * window.end)
        )
        assert window.predictions == predictor(part)
    spans = [(w.start, round(w.end, 6)) for w in predictor.windows(media / "long.mp4", 4, step=3)]
    assert spans == [(0, 4), (3, 7), (3.5, 7.5)]  # the last one ends with the video
    [whole] = predictor.windows(media / "long.mp4", 60)
    assert (whole.start, whole.predictions) == (0, predictor(media / "long.mp4"))


@pytest.mark.parametrize("protocol", ["full3x2"])
def test_windows_by_other_protocols(media, tmp_path, protocol):
    predictor = Predictor.load(media / "last.ckpt", "cpu", protocol)
    first = predictor.windows(media / "long.mp4", seconds=3)[0]
    assert first.predictions == predictor(cut(media, tmp_path / "x", 0, 30))


def test_windows_as_table_json_and_picture(media, predictor, tmp_path):
    found = predictor.windows(media / "long.mp4", seconds=3)
    for suffix in ("csv", "json", "png"):
        found.save(tmp_path / f"x.{suffix}")
    rows = rows_of(tmp_path / "x.csv")
    assert len(rows) == 4 * 3 and [row["rank"] for row in rows[:4]] == ["1", "2", "3", "1"]
    assert rows[3]["start"] == "1.5" and rows[3]["name"] == found[1].predictions[0].name
    assert float(rows[3]["probability"]) == found[1].predictions[0].probability
    entry = json.loads((tmp_path / "x.json").read_text())["windows"][1]
    assert (entry["start"], entry["end"], len(entry["predictions"])) == (1.5, 4.5, 3)
    assert Image.open(tmp_path / "x.png").size[0] > 1_000
    with pytest.raises(UserError, match="expected a name ending in .csv, .json or .png"):
        found.save(tmp_path / "x.txt")


def test_a_video_of_one_frame_is_one_window(predictor, tmp_path):
    video = tmp_path / "x.mp4"
    write_video(video, 1)
    [(start, end, found)] = predictor.windows(video, seconds=3)
    assert (start, end) == (0, 0) and found == predictor(video)


def test_what_cannot_be_cut(predictor, media, tmp_path):
    write_frames(tmp_path / "frames")
    with pytest.raises(UserError, match="expected a video with a frame rate"):
        predictor.windows(tmp_path / "frames")
    with pytest.raises(UserError, match="expected windows of more than 0 seconds"):
        predictor.windows(media / "long.mp4", 0)


def test_windows_on_the_command_line(here, tmp_path, capsys):
    outs = {name: str(tmp_path / f"x.{name}") for name in ("csv", "json", "png")}
    arguments = ["--windows", "3", "--csv", outs["csv"], "--json", outs["json"], "--top", "2"]
    arguments += ["--timeline", outs["png"], "--ckpt", "last.ckpt"]
    assert main(["long.mp4", "more/a.mp4", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "long.mp4 (windows of 3 s)" in printed and printed.count(" s  ") == 5
    rows = rows_of(outs["csv"])
    assert [row["video"] for row in rows] == ["long.mp4"] * 8 + ["more/a.mp4"] * 2
    videos = json.loads((tmp_path / "x.json").read_text())["videos"]
    assert [len(video["windows"]) for video in videos] == [4, 1]
    assert (tmp_path / "x-1.png").is_file() and (tmp_path / "x-2.png").is_file()


def test_ctrl_c_leaves_the_files_of_an_earlier_run(here, tmp_path, monkeypatch, capsys):
    """What was predicted until then goes to files beside them, at every attempt to new ones."""
    outs = [tmp_path / name for name in ("x.csv", "x.json", "x.png")]
    arguments = ["--ckpt", "last.ckpt", "--csv", str(outs[0]), "--json", str(outs[1])]
    assert main(["more/a.mp4", "long.mp4", *arguments]) == 0
    outs[2].write_bytes(b"a picture of an earlier run")
    before = [out.read_bytes() for out in outs]
    logits, calls = Predictor.logits, []

    def interrupted(self, clips):
        calls.append(clips)
        if len(calls) in (2, 6, 7):
            raise KeyboardInterrupt
        return logits(self, clips)

    monkeypatch.setattr(Predictor, "logits", interrupted)
    assert main(["more/a.mp4", "long.mp4", *arguments]) == 130
    assert f"goes to {tmp_path}/x-partial.csv, not to {outs[0]}" in capsys.readouterr().err
    assert [row["video"] for row in rows_of(tmp_path / "x-partial.csv")] == ["more/a.mp4"] * 3
    [video] = json.loads((tmp_path / "x-partial.json").read_text())["videos"]
    assert video == json.loads(before[1])["videos"][0]

    windows = ["--windows", "3", "--timeline", str(outs[2])]
    assert main(["long.mp4", *windows, *arguments]) == 130
    [video] = json.loads((tmp_path / "x-partial2.json").read_text())["videos"]
    assert len(video["windows"]) == 3 and video["error"] == "interrupted"
    assert [row["error"] for row in rows_of(tmp_path / "x-partial2.csv")] == ["interrupted"] * 10
    assert (tmp_path / "x-partial.png").read_bytes().startswith(b"\x89PNG")
    assert main(["long.mp4", *arguments]) == 130  # nothing was predicted
    assert [out.read_bytes() for out in outs] == before
    assert len([*tmp_path.iterdir()]) == 8


@pytest.fixture
def address(media):
    """The long video on a server."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=media)
    handler.log_message = lambda *a: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/long.mp4"
        server.shutdown()


def test_an_address_gives_the_windows_of_the_file(address, media, predictor):
    for seconds in (3, 4, 60):  # the last window ends with the video
        live = predictor.windows(address, seconds)
        file = predictor.windows(media / "long.mp4", seconds)
        assert [w.predictions for w in live] == [w.predictions for w in file]
        assert [w[:2] for w in live] == [pytest.approx(w[:2]) for w in file]


@pytest.mark.parametrize("name", ["turned.mp4", "wide.mkv", "varying.mkv", "cover.mkv"])
def test_an_address_is_shown_as_a_file(name, predictor, tmp_path, monkeypatch):
    path, options = tmp_path / name, {"preset": "ultrafast"}
    if name == "turned.mp4":  # as a phone records upright videos
        display(write(path, "libx264", 40, options=options), ORIENTATIONS[6][0])
    elif name == "wide.mkv":
        write(path, "libx264", 40, options=options, aspect=Fraction(2))
    elif name == "varying.mkv":
        times = [*range(20), *range(24, 104, 4)]
        write(path, "libx264", 40, options=options, times=times)
    else:
        KINDS["the first video stream is a cover"](tmp_path, np.random.default_rng(1))
    monkeypatch.setattr(windows, "_open", lambda name: av.open(str(path)))
    live = predictor.windows(f"https://example.org/{name}", 60)
    assert live[0].predictions == predictor.windows(path, 60)[0].predictions


def test_a_stream_that_changes_its_shape(predictor, tmp_path, monkeypatch):
    for size in ((48, 64), (48, 96)):
        write(tmp_path / f"{size[1]}.ts", "mpeg2video", 20, size=size)
    path = tmp_path / "both.ts"
    path.write_bytes((tmp_path / "64.ts").read_bytes() + (tmp_path / "96.ts").read_bytes())
    monkeypatch.setattr(windows, "_open", lambda name: av.open(str(path)))
    with pytest.raises(UserError, match="expected frames of one shape"):
        predictor.windows("https://example.org/both.ts", 60)


def test_windows_with_single_frames_between_gaps(predictor, tmp_path, recwarn):
    path = tmp_path / "x.mkv"
    write(path, "libx264", 6, options={"preset": "ultrafast"}, times=[0, 1, 2, 75, 76, 225])
    assert len(predictor.windows(path, 1)) == 5
    assert not [warning for warning in recwarn if warning.category is RuntimeWarning]


def test_windows_of_a_webp_without_durations(predictor, tmp_path):
    webp(tmp_path / "x.webp", 5, durations=0)
    with pytest.raises(UserError, match="expected a video with a frame rate"):
        predictor.windows(tmp_path / "x.webp")
    webp(tmp_path / "y.webp", 1, durations=0)
    assert len(predictor.windows(tmp_path / "y.webp")) == 1


def test_a_camera(here, monkeypatch, capsys, tmp_path):
    def opened(name):
        return av.open("testsrc=duration=7:rate=10:size=64x48", format="lavfi")

    monkeypatch.setattr(windows, "_open", opened)
    out = tmp_path / "x.csv"
    assert main(["--camera", "0", "--ckpt", "last.ckpt", "--csv", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "camera:0 (windows of 4 s)" in printed and printed.count(" s  ") == 3
    assert out.read_text().count("camera:0,2.0,6.0,") == 3

    def interrupted(name):
        return Ending(opened(name))

    class Ending:
        """A camera before which somebody presses Ctrl-C after five seconds."""

        def __init__(self, container):
            self.container, self.streams = container, container.streams

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.container.close()

        def decode(self, stream):
            for frame in self.container.decode(stream):
                if frame.time > 5:
                    raise KeyboardInterrupt
                yield frame

    monkeypatch.setattr(windows, "_open", interrupted)
    assert main(["--camera", "0", "--ckpt", "last.ckpt", "--csv", str(out)]) == 130
    assert out.read_text().count("camera:0,0.0,4.0,") == 3 and "camera:0,2.0" not in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--camera", "99"], "camera:99: there is no such camera (No such file or directory)"),
        (["rtsp://127.0.0.1:1/x"], "rtsp://127.0.0.1:1/x: cannot be read (Connection refused)"),
        (["nothing://x"], "nothing://x: cannot be read (Protocol not found)"),
        (["none*.mp4"], "none*.mp4: there are no such files"),
        ([], "expected videos: a file, a folder, a pattern, an address or --camera 0"),
        (["long.mp4", "--windows", "-1"], "--windows: expected more than 0 seconds (got -1)"),
        (["long.mp4", "--windows", "3", "--stream"], "--windows: cannot be combined with --overlay"),
        (["long.mp4", "--timeline", "x.png"], "--timeline: draws the windows; give --windows too"),
        (["g-1.gif", "long.mp4", "--overlay", "g.gif"], "--overlay: g-1.gif is a video to predict"),
        (["g.gif#t=0,1", "--overlay", "g.gif"], "--overlay: g.gif is a video to predict"),
    ],
)
def test_mistakes(here, capsys, arguments, message):
    assert main([*arguments, "--ckpt", "last.ckpt"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_links_hidden_files_and_names_that_are_no_text(here, tmp_path, capsys):
    folder = tmp_path / "linked"
    folder.mkdir()
    (folder / "walk").symlink_to(here / "more")
    (folder / "._a.mp4").write_bytes(b"left by a Mac")
    name = os.fsdecode(b"caf\xe9.mp4")
    (folder / name).write_bytes((here / "more/a.mp4").read_bytes())
    out = tmp_path / "x.csv"
    assert main([str(folder), "--ckpt", "last.ckpt", "--top", "1", "--csv", str(out)]) == 0
    found = [row["video"].removeprefix(f"{folder}/") for row in rows_of(out)]
    assert found == ["caf\\udce9.mp4", "walk/a.mp4", "walk/deep/b.avi"]


def test_folders_and_patterns(here, tmp_path, capsys):
    out = tmp_path / "x.csv"
    for videos in (["more"], ["more/*.mp4", "more/deep/b.avi"], ["more/**/*.*"]):
        assert main([*videos, "--ckpt", "last.ckpt", "--top", "1", "--csv", str(out)]) == 0
        rows = rows_of(out)
        assert [row["video"] for row in rows] == ["more/a.mp4", "more/deep/b.avi"]
        assert all(row["name"] in NAMES and not row["start"] for row in rows)


def test_a_part_of_a_video_whose_name_looks_like_a_pattern(here, tmp_path, predictor):
    name, out = tmp_path / "Match [x1y2].mp4", tmp_path / "x.json"
    name.write_bytes((here / "long.mp4").read_bytes())
    assert main([f"{name}#t=1,3", "--ckpt", "last.ckpt", "--device", "cpu", "--json", str(out)]) == 0
    [answer] = json.loads(out.read_text())["videos"]
    assert answer["frames"] == 20
    best = predictor(cut(here, tmp_path / "part", 10, 30))[0]
    assert answer["predictions"][0]["probability"] == pytest.approx(best.probability)


def test_without_a_checkpoint_the_model_of_the_package_is_used(here, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models, "FOLDER", tmp_path)
    assert export(["last.ckpt", "--out", str(tmp_path / "smt_demo")]) == 0
    capsys.readouterr()
    assert main(["long.mp4"]) == 0
    first, *_ = printed = capsys.readouterr().out.splitlines()
    assert first == "no --ckpt: this uses smt_demo, a small network that comes with the package"
    assert main(["long.mp4", "--ckpt", "smt_demo"]) == 0
    assert capsys.readouterr().out.splitlines() == printed[1:]


def test_frames_of_ones_own(predictor, media, tmp_path):
    step = predictor.stream()
    (tmp_path / "clip").mkdir()
    for i in range(4):  # as many as a clip has, so that each is sampled once
        Image.fromarray(picture(3 * i)).save(tmp_path / "clip" / f"{i}.png")
        found = step(picture(3 * i))
    wanted = predictor(tmp_path / "clip")
    assert [p.label for p in found] == [p.label for p in wanted]
    assert [p.probability for p in found] == pytest.approx([p.probability for p in wanted], abs=1e-6)
    assert predictor.stream()(torch.from_numpy(picture(0).copy())) != found
    write_checkpoint(tmp_path / "map.ckpt", rstg={"places": ["conv0", "head"]})
    with pytest.raises(UserError, match="cannot stream"):
        Predictor.load(tmp_path / "map.ckpt", "cpu").stream()


@pytest.mark.slow
def test_an_exported_file_predicts_the_same(here, predictor, tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    out = str(tmp_path / "x.onnx")
    assert export(["last.ckpt", "--out", out]) == 0
    exported = Predictor.load(out)
    mine, wanted = exported("long.mp4"), predictor("long.mp4")
    assert [(p.label, p.name) for p in mine] == [(p.label, p.name) for p in wanted]
    assert [p.probability for p in mine] == pytest.approx([p.probability for p in wanted], abs=1e-5)
    clip = torch.randint(256, (3, 4, 20, 20), dtype=torch.uint8)
    assert exported(clip)[0].probability == pytest.approx(predictor(clip)[0].probability, abs=1e-5)
    assert len(exported.windows("long.mp4", 3)) == 4
    for call in (exported.stream, lambda: exported.attention("long.mp4")):
        with pytest.raises(UserError, match="look into|takes whole clips and cannot stream"):
            call()
    assert main(["long.mp4", "--ckpt", out, "--stream"]) == 0
    printed = capsys.readouterr().out
    assert "takes whole clips: --stream keeps" in printed and "combines" not in printed
    capsys.readouterr()
    (tmp_path / "y.onnx").write_bytes(b"nothing")
    (tmp_path / "y.pt2").write_bytes(b"nothing")
    assert export(["last.ckpt", "--out", str(tmp_path / "s.onnx"), "--stream"]) == 0
    for name, message in {
        "y.onnx": "y.onnx: cannot be read", "z.onnx": "z.onnx: there is no such file",
        "s.onnx": "is a step of a stream", "y.pt2": "torch may run code of such a file",
    }.items():  # fmt: skip
        assert main(["long.mp4", "--ckpt", str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err
    assert main(["long.mp4", "--ckpt", out, "--protocol", "full3x2"]) == 2
    assert export([out, "--out", str(tmp_path / "x.pt2")]) == 2
    assert "is exported already" in capsys.readouterr().err


@pytest.mark.slow
def test_an_exported_file_takes_the_middle_square_of_a_protocol_of_whole_frames(here, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    write_checkpoint(tmp_path / "full.ckpt", protocol="full3x2")
    assert export([str(tmp_path / "full.ckpt"), "--out", str(tmp_path / "x.onnx")]) == 0
    whole = Predictor.load(tmp_path / "full.ckpt", "cpu")
    exported, clips = Predictor.load(tmp_path / "x.onnx"), whole.clips("long.mp4")
    assert clips.shape == (6, 3, 4, 24, 24) and not torch.equal(clips[1], clips[0])
    one = exported.clips("long.mp4")
    assert one.shape == (1, 3, 4, 24, 24) and any(torch.equal(one[0], clip) for clip in clips[1::3])
    logits = exported.logits(clips)  # of all clips they are the run's
    torch.testing.assert_close(logits, whole.logits(clips), rtol=0, atol=1e-4)
    assert (exported.logits(one) - logits).abs().max() > 1e-3
