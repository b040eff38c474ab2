import csv
import json

import numpy as np
import pytest
from helpers.tiny_run import ONE_FILTER, write_tiny
from PIL import Image

from rstg_pyg.train.run import main
from rstg_pyg.train.run_folder import confusion
from rstg_pyg.train.run_folder.confusion import per_class, write_confusion, write_curves

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
    assert [row[1] for row in per_class(COUNTS, NAMES)[1:]] == [10, 4, 0]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "pixels_per_class"), [(1, 100), (20, 40), (61, 13)])
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


@pytest.mark.parametrize("lines", [0, 1, 60])
def test_curves(tmp_path, lines):
    metrics = tmp_path / "metrics.csv"
    text = ["step,split,loss,top1,top5,lr,videos_per_second,data_share"]
    text += [f"{20 * i},train,{2 / (i + 1)},0.5,0.9,0.001,100,0.1" for i in range(lines)]
    text += [f"{20 * i},val,{2 / (i + 1)},0.5,0.9,,," for i in range(0, lines, 7)]
    metrics.write_text("\n".join(text) + "\n")
    write_curves(metrics)
    with Image.open(tmp_path / "curves.png") as image:
        image.load()
        assert image.width > 1000


def test_what_the_curves_show(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(confusion, "_save", lambda figure, path: drawn.append(figure) or path.touch())
    text = ["step,split,loss,top1,top5,lr", "2,train,3,0.25,0.5,0.1", "2,val,4,0.125,0.25,"]
    (tmp_path / "metrics.csv").write_text("\n".join([*text, "4,train,1,0.5,1,0.2"]) + "\n")
    write_curves(tmp_path / "metrics.csv")
    loss, accuracy, rate = drawn[0].axes
    assert [[*zip(*line.get_data())] for line in loss.lines] == [[(2, 3), (4, 1)], [(2, 4)]]
    shown = {line.get_label(): line.get_ydata().tolist() for line in accuracy.lines}
    assert shown == {
        "training, top-1": [25, 50], "training, top-5": [50, 100],
        "validation, top-1": [12.5], "validation, top-5": [25],
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
