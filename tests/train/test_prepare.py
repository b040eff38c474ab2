import json
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import fails
from PIL import Image, ImageSequence

from rstg_pyg.train.benchmarking import readers
from rstg_pyg.train.build import build_dataset
from rstg_pyg.train.config import load_config
from rstg_pyg.train.data.mini import write_mini_something
from rstg_pyg.train.prepare import main

CONFIG = "syncmnist_mini.yaml"
SMALL = ("data.digits=builtin", "data.num_frames=3")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_show_png(capsys):
    assert main(["show", "--cfg", CONFIG, *SMALL, "--out", "a.png", "--count", "2"]) == 0
    image = Image.open("a.png")
    assert image.format == "PNG"
    assert image.width == 3 * (64 + 4) + 4  # three frames of 32 pixels, doubled
    assert np.asarray(image).std() > 10
    marked = (np.asarray(image) == [255, 212, 0]).all(-1).any()  # the pair, if there is one
    dataset = build_dataset(load_config(CONFIG, SMALL), "train")
    assert marked == dataset.videos([0, 1]).synchronous.any() == True  # noqa: E712
    assert "2 clips of scikit-learn's built-in digits" in capsys.readouterr().out
    assert [p.name for p in Path().iterdir()] == ["a.png"]


def test_show_gif():
    assert main(["show", "--cfg", CONFIG, "--out", "a.gif", "--split", "test", *SMALL]) == 0
    image = Image.open("a.gif")
    frames = [np.asarray(f.convert("L")) for f in ImageSequence.Iterator(image)]
    assert image.format == "GIF" and len(frames) == 3
    assert not np.array_equal(frames[0], frames[1])


def test_show_videos(folder, capsys):
    write_mini_something(folder / "data", train=3, validation=1, size=16, num_frames=2)
    sizes = ("data.num_frames=2", "data.short_side=16", "data.crop_size=16", "model.rstg=null")
    assert main(["show", "--cfg", "smt.yaml", "data.root=data", *sizes, "--out", "a.png"]) == 0
    assert "3 clips of v1 20 classes written to a.png" in capsys.readouterr().out


def test_bench_data(capsys):
    arguments = ["bench-data", "--cfg", CONFIG, "--seconds", "0.1", "train.batch_size=4", *SMALL]
    assert main([*arguments, "--out", "bench.json"]) == 0
    printed = capsys.readouterr().out
    assert "batches of 4:" in printed and "one by one:" in printed and "3 frames" in printed
    figures = json.loads(Path("bench.json").read_text())
    assert f"batches of 4: {figures['videos_per_second']:,.0f} videos/s" in printed
    assert figures["videos_per_second"] > 0 and figures["data"]["num_frames"] == 3
    assert "threads" in figures and "torch" in figures["versions"]


@pytest.mark.slow
def test_readers_are_compared(capsys, monkeypatch):
    small = (".mp4", "libx264", {"preset": "ultrafast"}, 4e5, 48, 64, 12)
    monkeypatch.setattr(readers, "_VIDEOS", {"mp4": small})
    assert main(["bench-data", "--readers", "--seconds", "0.01", "--out", "readers.json"]) == 0
    found, printed = json.loads(Path("readers.json").read_text()), capsys.readouterr().out
    rows = {(row["data"], row["frames"], row["reader"]): row for row in found["rows"]}
    for data, other in (("mp4", "PyAV"), ("JPEG folder", "Pillow"), ("packed store", "Pillow")):
        for frames in (8, 32):
            ours = rows[data, frames, "rstg_pyg"]
            assert f"{ours['clips_per_second']:.1f} (" in printed and ours["difference"] == 0
            by = rows[data, frames, f"{other}, plain loop"]["difference"]
            assert by == 0 if data != "packed store" else 0 < by < 4  # encoded once more
    assert found["versions"]["torch"] and found["compared"]["av"]
    for name in ("decord", "torchcodec", "cv2"):
        assert (name in found["compared"]) != (f"{name}: absent (" in printed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench-data", "--readers", "--cfg", CONFIG], "--readers: cannot be combined"),
        (["show", "--cfg", CONFIG, "--out", "a.jpg"], "ending in .png or .gif"),
        (["show", "--cfg", CONFIG, "--out", "a.png", "--count", "0"], "at least 1"),
        (["show", "--out", "a.png"], "--cfg needs the name of a config"),
        (["show", "--cfg", CONFIG, "--out", "a.png", "data.digts=x"], "did you mean 'digits'"),
        (["bench-data", "--cfg", CONFIG, "--seconds", "0"], "expected a positive number"),
        (["show", "--cfg", CONFIG, "--out", "file/a.png", *SMALL], "cannot be written"),
        (["check", "--root", ""], "--root: expected a folder (got nothing)"),
    ],
)
def test_mistakes(arguments, message, capsys):
    Path("file").write_text("x")
    assert message in fails(capsys, main, *arguments)
