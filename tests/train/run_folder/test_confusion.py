import csv
import json

import numpy as np
import pytest
from helpers.tiny_run import ONE_FILTER, write_tiny
from PIL import Image

from rstg_pyg.train.run import main
from rstg_pyg.train.run_folder import confusion
from rstg_pyg.train.run_folder.confusion import write_confusion, write_curves
from rstg_pyg.train.run_folder.metrics import MetricsFile

COUNTS = np.array([[7, 2, 1], [0, 4, 0], [0, 0, 0]])
NAMES = ["Moving, up", "Moving down", "Nothing"]


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_tables(tmp_path):
    write_confusion(tmp_path, COUNTS, NAMES, "tiny")
    assert rows(tmp_path / "per_class.csv") == [
        ["class", "videos", "correct", "accuracy", "most confused with"],
        ["Moving, up", "10", "7", "0.7000", "Moving down"],
        ["Moving down", "4", "4", "1.0000", ""],
        ["Nothing", "0", "0", "", ""],
    ]
    assert rows(tmp_path / "confusion.csv")[1:] == [
        ["Moving, up", "7", "2", "1"], ["Moving down", "0", "4", "0"], ["Nothing", "0", "0", "0"],
    ]  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "confusion.csv", "confusion.png", "per_class.csv",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("count", "pixels_per_class"), [(2, 100), (20, 40), (61, 13)])
def test_the_picture_has_room_for_every_class(tmp_path, count, pixels_per_class):
    counts = np.diag(np.full(count, 9))
    counts[0, -1] += 3
    names = [f"Pretending to put something behind something else, case {i}" for i in range(count)]
    write_confusion(tmp_path, counts, names, "a title")
    with Image.open(tmp_path / "confusion.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert count * pixels_per_class < min(pixels.shape[:2]) < 4000
    # Wrong ones are red, in the first row at the right.
    red = np.argwhere((pixels[..., 0] - pixels[..., 2] > 25) & (pixels[..., 0] > 150))
    blue = np.argwhere(pixels[..., 2] - pixels[..., 0] > 60)
    assert len(red) and len(blue)
    assert blue[:, 0].max() - blue[:, 0].min() >= (count - 1) * pixels_per_class


def test_what_the_curves_show(tmp_path, monkeypatch):
    drawn = []
    save = confusion.save_png
    monkeypatch.setattr(
        confusion, "save_png", lambda figure, path: drawn.append(figure) or save(figure, path)
    )
    metrics = MetricsFile(tmp_path / "metrics.csv")
    metrics.begin(0)
    write_curves(metrics.path)  # of a run without any
    metrics.add(2, "train", {"loss": 3, "top1": 0.25, "top5": 0.5, "lr": 0.1})
    metrics.add(2, "val", {"loss": 4, "top1": 0.125, "top5": 0.25})
    metrics.add(4, "train", {"loss": 1, "top1": 0.5, "top5": 1, "lr": 0.2})
    write_curves(metrics.path)
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 1000
    loss, accuracy, rate = drawn[1].axes
    assert [[*zip(*line.get_data())] for line in loss.lines] == [[(2, 3), (4, 1)], [(2, 4)]]
    shown = {line.get_label(): line.get_ydata().tolist() for line in accuracy.lines}
    assert shown == {
        "train, top1": [25, 50], "train, top5": [50, 100], "val, top1": [12.5], "val, top5": [25],
    }  # fmt: skip
    assert [[*zip(*line.get_data())] for line in rate.lines] == [[(2, 0.1), (4, 0.2)]]


@pytest.mark.slow
def test_a_run_and_an_evaluation_leave_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = {"epochs": 1, "validate_every": 2, "log_every": 1}
    write_tiny(tmp_path, data={"val_videos": 8}, model=ONE_FILTER, train=train)
    assert main(["--cfg", "tiny.yaml", "--out", "a"]) == 0
    checkpoint = "a/checkpoints/last.ckpt"
    assert main(["--cfg", "tiny.yaml", "--evaluate", checkpoint, "--out", "b"]) == 0
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    table = rows(tmp_path / "a" / "confusion.csv")
    counts = np.array([row[1:] for row in table[1:]], int)
    assert table[0][1:] == ["1+0", "2+0", "2+1", "none"] == [row[0] for row in table[1:]]
    assert counts.sum() == results["num_videos"] == 30
    assert counts.trace() / 30 == pytest.approx(results["top1"])
    for name in ("confusion.csv", "per_class.csv"):
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()
    assert (tmp_path / "a" / "curves.png").is_file() and not (tmp_path / "b" / "curves.png").exists()
    assert (tmp_path / "b" / "confusion.png").is_file()
