import io
import json
import re
import subprocess
import sys
import weakref

import av
import numpy as np
import pytest
import torch
from helpers.tiny_predictor import NAMES, VALUES, write_checkpoint, write_frames, write_video
from helpers.tiny_run import tiny_config
from PIL import Image

from rstg_pyg.train.build import build_dataset
from rstg_pyg.train.data.protocols import PROTOCOLS
from rstg_pyg.train.data.something import SomethingSomething
from rstg_pyg.train.data.sources import FrameSource, open_video
from rstg_pyg.train.data.sources.video_file import VideoFile
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.predict import main
from rstg_pyg.train.predictor import Predictor
from rstg_pyg.train.run_folder.weights import write_weights
from rstg_pyg.train.training.task import VideoTask


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Videos of every kind, and a checkpoint."""
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "a.mp4")
    write_video(folder / "b.avi")
    write_video(folder / "c.webm", codec="libvpx-vp9")
    write_video(folder / "d.gif", codec="gif", pix="rgb8")
    write_frames(folder / "frames")
    (folder / "broken.mp4").write_bytes(b"not a video at all")
    (folder / "empty.webm").touch()
    write_checkpoint(folder / "last.ckpt")
    return folder


def test_a_network_has_the_name_that_it_was_asked_for():
    assert Predictor.load("smt_demo", "cpu").describe().startswith("smt_demo: 20 classes")
    said = Predictor.load("syncmnist", "cpu").describe()
    assert said.startswith("syncmnist (trained with the config ours): 46 classes")


@pytest.fixture
def here(media, monkeypatch):
    monkeypatch.chdir(media)
    return media


def shown(text):
    return re.findall(r"^ +([\d.]+)%  (.*)$", text, re.MULTILINE)


def test_every_kind_of_video(here, tmp_path, capsys):
    videos = ["a.mp4", "b.avi", "c.webm", "d.gif", "frames"]
    out = tmp_path / "out.json"
    assert main([*videos, "--ckpt", "last.ckpt", "--device", "cpu", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "3 classes; center1: 1 spatial x 1 temporal = 1 clip of 4 frames" in printed
    assert printed.startswith("last.ckpt (trained with the config ")
    lines = shown(printed)
    assert len(lines) == 15 and {name for _, name in lines} == set(NAMES)
    found = json.loads(out.read_text())["videos"]
    for video, name in zip(found, videos):
        assert video["video"] == name and video["frames"] == 9
        chances = [entry["probability"] for entry in video["predictions"]]
        assert sum(chances) == pytest.approx(1) and chances == sorted(chances, reverse=True)
        assert all(NAMES[entry["class"]] == entry["name"] for entry in video["predictions"])
    # All show the same pictures, up to compression.
    first = found[4]["predictions"][0]
    assert all(video["predictions"][0]["class"] == first["class"] for video in found)


def test_predictions_are_those_of_an_evaluation(tmp_path):
    """The same clips and logits as data set and task give, for every protocol."""
    root = tmp_path / "data"
    for i, count in enumerate([9, 2, 30], 1):
        write_frames(root / "20bn-something-something-v1" / str(i), count)
    (root / "something-something-v1-labels.csv").write_text("\n".join(NAMES))
    lines = [f"{i};{NAMES[0]}" for i in (1, 2, 3)]
    (root / "something-something-v1-validation.csv").write_text("\n".join(lines))
    config, _ = write_checkpoint(tmp_path / "last.ckpt")
    names = ("num_frames", "short_side", "crop_size", "sampling")
    options = {name: getattr(config.data, name) for name in names}
    for protocol in PROTOCOLS:
        dataset = SomethingSomething(root, "val", protocol, **options)
        predictor = Predictor.load(tmp_path / "last.ckpt", "cpu", protocol)
        task = VideoTask(predictor.model, config, 1, "test", NAMES).eval()
        for item in range(3):
            video = open_video(root / "20bn-something-something-v1" / str(item + 1))
            clips, _ = dataset[item]
            mine = predictor.clips(video)
            assert torch.equal(mine, clips if clips.dim() == 5 else clips[None])
            with torch.no_grad():
                torch.testing.assert_close(predictor.logits(mine), task(clips[None])[0])


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("sampling", "rstg"),
    [("segments", {"cell": "gru", "residual": True}), ("uniform", {"in_norm": "batch"})],
)
def test_a_stream_ends_with_the_answer_of_the_whole(media, tmp_path, protocol, rstg, sampling):
    write_checkpoint(tmp_path / "x.ckpt", rstg=rstg, sampling=sampling)
    predictor = Predictor.load(tmp_path / "x.ckpt", "cpu", protocol)
    assert predictor.model.streams
    write_frames(tmp_path / "short", 2)  # frames are seen more than once
    for video in (media / "frames", tmp_path / "short"):
        *_, (frame, logits) = predictor.stream(video)
        assert frame == predictor.times(video).max()
        torch.testing.assert_close(logits, predictor.logits(predictor.clips(video)))


def test_the_predictor_from_python(media, tmp_path):
    write_checkpoint(tmp_path / "run/checkpoints/last.ckpt")
    predictor = Predictor.load(str(tmp_path / "run"), device="cpu")  # a run folder
    video = media / "a.mp4"
    found = predictor(video)
    assert [p.name for p in found] == [NAMES[p.label] for p in found]
    assert sum(p.probability for p in found) == pytest.approx(1) and sorted(found)[0].label == 0
    assert [p.probability for p in found] == sorted((p.probability for p in found), reverse=True)
    clips = predictor.clips(video)
    assert predictor(str(video), top=2) == predictor(clips, 2) == predictor(clips[0], 2) == found[:2]
    with pytest.raises(UserError, match=r"of uint8, as the frames are \(got torch.float32"):
        predictor(clips / 255)
    seen = predictor.attention(video)
    assert seen.place == "head" and seen.alpha.shape == (4, seen.edge_index.size(1))
    drawn = predictor.draw_attention(video, tmp_path / "x.png", "A title", "head")
    assert torch.equal(drawn.alpha, seen.alpha) and Image.open(tmp_path / "x.png").format == "PNG"


@pytest.mark.slow
def test_the_predictor_needs_no_training_framework():
    code = "import sys, rstg_pyg.train.predictor; print(*(m for m in sys.modules if 'lightning' in m))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_stream_on_the_command_line(here, tmp_path, capsys):
    assert main(["frames", "--ckpt", "last.ckpt", "--top", "2"]) == 0
    whole = shown(capsys.readouterr().out)
    assert main(["frames", "--ckpt", "last.ckpt", "--top", "2", "--stream"]) == 0
    printed = capsys.readouterr().out
    assert shown(printed) == whole and printed.count("  frame ") == 4
    write_frames(tmp_path / "one", 1)
    assert main([str(tmp_path / "one"), "--ckpt", "last.ckpt"]) == 0
    assert "(1 frame, fewer than the clip's 4: some are used more than once)" in capsys.readouterr().out
    # A network that looks across frames says so, and predicts at the end.
    write_checkpoint(tmp_path / "map.ckpt", rstg={"places": ["conv0", "head"]})
    assert main(["frames", "--ckpt", str(tmp_path / "map.ckpt")]) == 0
    whole = shown(capsys.readouterr().out)
    assert main(["frames", "--ckpt", str(tmp_path / "map.ckpt"), "--stream"]) == 0
    printed = capsys.readouterr().out
    assert shown(printed) == whole and printed.count("combines frames") == 1


class LongVideo(FrameSource):
    """10,000 frames, each of which is known by a weak reference."""

    kind, detail = "test", ""

    def __init__(self):
        self.alive, self.most = 0, 0

    def num_frames(self, video):
        return 10_000

    def times(self, video):
        return None

    def _frames(self, video, indices):
        for _ in indices:
            frame = torch.zeros(60, 80, 3, dtype=torch.uint8)
            weakref.finalize(frame, self._gone)
            self.alive += 1
            self.most = max(self.most, self.alive)
            yield frame

    def _gone(self):
        self.alive -= 1

    def location(self, video):
        return video

    def missing(self, videos):
        return []


def test_memory_does_not_grow_with_the_video(media):
    predictor = Predictor.load(media / "last.ckpt", "cpu", "dense11x2")
    for predict in (
        lambda source: list(predictor.stream((source, "x")))[-1][1],
        lambda source: predictor.logits(predictor.clips((source, "x"))),
    ):
        source = LongVideo()
        predict(source)
        assert source.most <= 3


def test_a_bad_video_does_not_stop_the_others(here, capsys, monkeypatch, tmp_path):
    (tmp_path / "none").mkdir()
    paths = ["nowhere.mp4", "broken.mp4", "empty.webm", str(tmp_path / "none"), "a.mp4"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(paths) + "\n\n"))
    out = tmp_path / "out.json"
    assert main(["-", "frames", "--ckpt", "last.ckpt", "--json", str(out)]) == 2
    printed = capsys.readouterr()
    assert len(shown(printed.out)) == 6
    errors = printed.err.splitlines()
    assert len(errors) == 4 and all(line.startswith("error: ") for line in errors)
    for line, name, reason in zip(errors, paths, ("missing", "decoded", "empty", "numbered frames")):
        assert name in line and reason in line
    assert [("error" in v) for v in json.loads(out.read_text())["videos"]] == [True] * 4 + [False] * 2
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["-", "--ckpt", "last.ckpt"]) == 2
    assert "expected paths on standard input" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_video_on_standard_input(here, monkeypatch, capsys, encoding):
    file = io.TextIOWrapper(io.BytesIO(b"\0\0\0 ftypisom\n\xff\n"), encoding)
    monkeypatch.setattr("sys.stdin", file)
    assert main(["-", "--ckpt", "last.ckpt"]) == 2
    assert "-: expected paths on standard input, one per line (got other" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["--stream"]])
def test_overlays(here, tmp_path, capsys, arguments):
    page = tmp_path / "x.html"
    assert main(["frames", "--ckpt", "last.ckpt", "--overlay", str(page), *arguments]) == 0
    text = page.read_text()
    assert all(name in text for name in NAMES) and "frame 9 of 9" in text and len(text) < 100_000
    page.unlink()
    for kind, pages in ((".png", 1), (".gif", 9)):
        out = tmp_path / f"x{kind}"
        assert main(["frames", "--ckpt", "last.ckpt", "--overlay", str(out), *arguments]) == 0
        assert f"attention at head drawn in {out}" in capsys.readouterr().out
        with Image.open(out) as image:
            assert getattr(image, "n_frames", 1) == pages
    if not arguments:
        assert (
            main(["frames", "a.mp4", "--ckpt", "last.ckpt", "--overlay", str(tmp_path / "y.png")]) == 0
        )
        assert {p.name for p in tmp_path.iterdir()} == {"x.png", "x.gif", "y-1.png", "y-2.png"}


def test_names_come_from_the_checkpoint_or_a_label_file(here, tmp_path, capsys):
    config, model = write_checkpoint(tmp_path / "x.ckpt")
    write_weights(tmp_path / "x.safetensors", model, config, "test")
    weights = str(tmp_path / "x.safetensors")
    assert main(["frames", "--ckpt", weights]) == 0
    numbers = shown(capsys.readouterr().out)
    assert {name for _, name in numbers} == {"class 0", "class 1", "class 2"}
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({name: str(i) for i, name in enumerate(NAMES)}))
    assert main(["frames", "--ckpt", weights, "--labels", str(labels)]) == 0
    named = shown(capsys.readouterr().out)
    assert [(p, NAMES[int(name[-1])]) for p, name in numbers] == named
    labels.write_text(json.dumps({"one": "0", "two": "1"}))
    assert main(["frames", "--ckpt", weights, "--labels", str(labels)]) == 2
    assert "labels.json: has 2 classes, but" in capsys.readouterr().err


def test_syncmnist_sees_gray_frames_of_its_size(tmp_path, digits):
    values = tiny_config(model={"rstg": VALUES["model"]["rstg"]})
    config, _ = write_checkpoint(tmp_path / "x.ckpt", values, ["1+0", "2+0", "2+1", "none"])
    clip, _ = build_dataset(config, "test")[5]
    folder = tmp_path / "clip"
    folder.mkdir()
    for t in range(3):
        frame = Image.fromarray(clip[0, t].numpy()).convert("RGB")
        frame.save(folder / f"{t}.png")
    predictor = Predictor.load(tmp_path / "x.ckpt", "cpu")
    video = open_video(folder)
    assert torch.equal(predictor.clips(video)[0], clip)
    *_, (_, logits) = predictor.stream(video)
    torch.testing.assert_close(logits, predictor.logits(clip[None]))
    write_frames(tmp_path / "color")  # of another size
    assert predictor.clips(tmp_path / "color").shape == (1, 1, 3, 16, 16)


def test_mistakes_are_named(here, tmp_path, capsys):
    write_checkpoint(tmp_path / "flat.ckpt", rstg={"space_stages": False, "positions": False})
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    for arguments, message in (
        (["--top", "0"], "--top: expected at least 1 (got 0)"),
        (["--overlay", "x.jpg"], "--overlay: expected a name ending in .html or .gif or .png"),
        (["--place", "head"], "--place: selects the graph for --overlay"),
        (["--overlay", "x.png", "--place", "res3"], "--place: expected one of head (got 'res3')"),
        (["--overlay", "a.mp4/x.png"], "cannot be written"),
        (["--labels", "labels.cvs"], "--labels: labels.cvs does not exist"),
        (["--ckpt", ""], "expected a run folder, a checkpoint or a model (got an empty name)"),
        (["--ckpt", "lost.ckpt"], "lost.ckpt: there is no such checkpoint; there is last.ckpt"),
        (["--ckpt", str(tmp_path / "other.ckpt")], "not a checkpoint of rstg_pyg"),
        (["--ckpt", str(tmp_path / "flat.ckpt"), "--overlay", "x.png"], "nothing to draw"),
    ):
        assert main(["frames", "--ckpt", "last.ckpt", *arguments]) == 2
        assert message in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert main(["frames", "--ckpt", "last.ckpt", "--device", "gpu"]) == 2
        assert "there is no GPU here" in capsys.readouterr().err
    assert not (here / "x.png").exists()


def test_videos_without_usable_time_stamps_are_read_whole(tmp_path):
    path = tmp_path / "same.webm"
    noise = np.random.default_rng(0).integers(0, 255, (300, 64, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=25)
        stream.width = stream.height = 64
        stream.options = {"cpu-used": "8", "deadline": "realtime"}
        for frame in [*map(av.VideoFrame.from_ndarray, noise), None]:
            for packet in stream.encode(frame):
                packet.pts = packet.dts = 0
                container.mux(packet)
    assert VideoFile(path).num_frames == sum(1 for _ in VideoFile(path).frames()) == 300
