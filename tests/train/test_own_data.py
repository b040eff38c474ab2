"""A run with a data set of one's own: without validation videos, of one class, partly downloaded."""

import json

import numpy as np
import pytest
from helpers.results import rows_of
from PIL import Image

from rstg_pyg.train.run import main

CONFIG = """
name: tiny
data: {dataset: something, num_frames: 2, short_side: 16, crop_size: 16, num_workers: 0, root: data}
model:
  backbone: {filters: [4], padding: 1}
  rstg: {hidden_channels: 4, scales: [2, 1], num_rounds: 1}
train: {epochs: 2, batch_size: 2, validate_every: 2, log_every: 1}
trainer: {accelerator: cpu, threads: 1, progress_bar: false}
"""
LIST = "something-something-v1-{}.csv"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Eight videos of two classes, and no list of validation videos; runs and returns the results."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    root = tmp_path / "data"
    for number in range(8):
        folder = root / f"videos/{number}"
        folder.mkdir(parents=True)
        for frame in range(3):
            pixels = np.random.default_rng((number, frame)).integers(0, 255, (16, 20, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{frame:03d}.png")
    (root / LIST.format("labels")).write_text("A\nB\n")
    (root / LIST.format("train")).write_text("".join(f"{n};{'AB'[n % 2]}\n" for n in range(8)))

    def run(*overrides, code=0):
        assert main(["--cfg", "tiny.yaml", "--out", "out", *overrides]) == code
        return json.loads((tmp_path / "out/results.json").read_text())

    return run


def splits(folder):
    return {row["split"] for row in rows_of(folder / "out/metrics.csv")}


def test_without_validation_no_accuracy_is_invented(run, tmp_path, capsys):
    results = run()
    printed = capsys.readouterr().out
    assert "no validation while training: no accuracy is measured" in printed
    assert "not evaluated, since there are no validation videos" in printed
    assert (results["top1"], results["loss"], results["num_videos"]) == (None, None, 0)
    assert (results["steps"], splits(tmp_path)) == (8, {"train"})
    assert not (tmp_path / "out/confusion.csv").exists()
    assert (tmp_path / "out/checkpoints/last.ckpt").is_file()
    again = ["--cfg", "tiny.yaml", "--evaluate", "out/checkpoints/last.ckpt"]
    assert main(again) == 2
    assert "no list of validation videos; nothing can be evaluated" in capsys.readouterr().err
    assert main([*again, "data.val_fraction=0.25"]) == 0  # what training saw, but it can be had


def test_part_of_the_training_videos(run, tmp_path, capsys):
    results = run("data.val_fraction=0.25")
    assert (results["num_videos"], results["steps"], splits(tmp_path)) == (2, 6, {"train", "val"})
    assert "train: 6 videos" in capsys.readouterr().out


@pytest.mark.slow
def test_no_validation_while_training(run, tmp_path, capsys):
    results = run("data.val_fraction=0.25", "train.validate_every=0")
    assert "no validation while training: the test comes at the end" in capsys.readouterr().out
    assert results["num_videos"] == 2 and splits(tmp_path) == {"train"}
    overrides = ["train.validate_every=0", "data.val_fraction=0.25"]
    assert main(["--cfg", "tiny.yaml", *overrides, "--out", "out", "--resume"]) == 0
    assert main(["--cfg", "tiny.yaml", *overrides, "train.early_stopping=2"]) == 2
    assert "train.early_stopping: expected validation videos" in capsys.readouterr().err


def test_one_class(run, tmp_path):
    (tmp_path / "data" / LIST.format("labels")).write_text("A\n")
    (tmp_path / "data" / LIST.format("train")).write_text("".join(f"{n};A\n" for n in range(8)))
    results = run("data.val_fraction=0.25")
    assert (results["top1"], results["num_videos"]) == (1.0, 2)
    assert (tmp_path / "out/confusion.csv").read_text().splitlines()[1] == "A,2"


def test_part_of_the_videos(run, tmp_path, capsys):
    (tmp_path / "data/videos/3").rename(tmp_path / "away")
    assert main(["--cfg", "tiny.yaml", "--out", "no"]) == 2
    assert "7 of the 8 videos of train are there" in capsys.readouterr().err
    assert run("data.partial=true")["steps"] == 6
    assert "train: 7 of 8 videos (the others are not there)" in capsys.readouterr().out
