"""``data.on_error=skip``: what cannot be read is left out, counted and listed, and not replaced."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.results import rows_of

from rstg_pyg.train.data.loaders import VideoLoader
from rstg_pyg.train.data.mini import write_mini_something
from rstg_pyg.train.data.skipped import UNREAD, Skipped
from rstg_pyg.train.data.something import SomethingSomething
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.run import main

RUN = Path(__file__).resolve().parents[2] / "train" / "run.py"
VIDEOS = "20bn-something-something-v1"
CONFIG = """
name: tiny
data: {dataset: something, num_frames: 2, short_side: 16, crop_size: 16, num_workers: 0, root: data}
model:
  backbone: {filters: [4, 8], padding: 1}
  rstg: {hidden_channels: 8, scales: [2, 1], num_rounds: 1}
train: {epochs: 2, batch_size: 4, validate_every: 3, log_every: 1}
trainer: {accelerator: cpu, threads: 1, progress_bar: false}
"""
SKIP, TWO = "data.on_error=skip", ("trainer.devices=2", "trainer.strategy=ddp")


def damage(root, names):
    """Cuts the first frames of these videos off."""
    for name in names:
        path = sorted((root / VIDEOS / name).iterdir())[0]
        path.write_bytes(path.read_bytes()[:200])
    return sorted(names)


def ids(root, split):
    text = (root / f"something-something-v1-{split}.csv").read_text()
    return [line.partition(";")[0] for line in text.splitlines()]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """12 videos to train with, of which 7 are damaged, and 9 to evaluate, of which 3 are."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "data"
    write_mini_something(root, train=12, validation=9, size=16, num_frames=2)
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def broken(folder):
    root = folder / "data"
    return {
        "train": damage(root, ids(root, "train")[:7]),
        "test": damage(root, ids(root, "validation")[6:]),
    }


def listed(path):
    rows = rows_of(path)
    return {part: sorted(r["video"] for r in rows if r["part"] == part) for part in ("train", "test")}


@pytest.mark.slow
def test_a_run_leaves_out_what_it_cannot_read(folder, broken, capsys):
    assert main(["--cfg", "tiny.yaml", "--out", "a"]) == 2
    assert "00001.jpg: the image cannot be decoded" in capsys.readouterr().err
    assert main(["--cfg", "tiny.yaml", "--out", "b", SKIP]) == 0
    said = capsys.readouterr()
    assert "3 videos of the test could not be read and were not evaluated" in said.out
    assert said.err.count("skipped: ") == 7 + 3 + 3  # train, and val and test of the same videos
    results = json.loads((folder / "b/results.json").read_text())
    assert (results["num_videos"], results["num_unread"], results["steps"]) == (6, 3, 6)
    assert results["skipped"]["videos"]["test"] == broken["test"]
    assert listed(folder / "b/skipped.csv") == broken
    assert sum(int(row["videos"]) for row in rows_of(folder / "b/per_class.csv")) == 6
    tested = [row["video"] for row in rows_of(folder / "b/predictions.csv")]
    assert tested == [name for name in ids(folder / "data", "validation") if name not in broken["test"]]
    reason = (folder / "b/skipped.csv").read_text()
    assert all(f"{name}/00001.jpg: the image cannot be decoded" in reason for name in broken["train"])

    whole = folder / "whole"  # the same without the damaged ones
    os.rename(folder / "data", whole)
    path = whole / "something-something-v1-validation.csv"
    path.write_text("".join(path.read_text().splitlines(True)[:6]))
    checkpoint = "b/checkpoints/last.ckpt"
    assert main(["--cfg", "tiny.yaml", "--evaluate", checkpoint, "--out", "c", "data.root=whole"]) == 0
    again = json.loads((folder / "c/results.json").read_text())
    assert (again["num_videos"], again["top1"]) == (6, results["top1"])
    assert again["loss"] == pytest.approx(results["loss"], rel=1e-5)


@pytest.mark.slow
def test_a_run_that_ended_goes_on_without_what_it_cannot_read(folder, capsys):
    assert main(["--cfg", "tiny.yaml", "--out", "a", "train.max_steps=1"]) == 0
    damage(folder / "data", ids(folder / "data", "train")[:7])
    Skipped(folder / "a").part("train", 9).note([("before", "it was cut off, they said")], 1)
    resume = ["--resume", "a/checkpoints/last.ckpt", "--cfg", "tiny.yaml", SKIP]
    assert main([*resume, "train.max_steps=1"]) == 0
    results = json.loads((folder / "a/results.json").read_text())
    assert (results["num_unread"], results["skipped"]["videos"]) == (0, {"train": ["before"]})
    (folder / "a/skipped.csv").write_text("part,video\nx,y\n")
    capsys.readouterr()
    assert main([*resume, "train.max_steps=1"]) == 2
    assert "a/skipped.csv: not a list of skipped videos" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_train_with_the_mean_over_the_videos_that_can_be_read(folder, broken):
    """Their shares differ in size; one process takes the same steps."""
    options = (SKIP, "train.optimizer=sgd", "train.lr=0.1", "train.clip=null", "seed=1")
    options += ("trainer.precision=32-true",)
    command = [sys.executable, str(RUN), "--cfg", "tiny.yaml", "--out", "two", *options, *TWO]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert main(["--cfg", "tiny.yaml", "--out", "one", *options]) == 0
    one, two = (
        torch.load(folder / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("one", "two")
    )
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
def test_two_processes_stay_in_step(folder, broken):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(RUN), "--cfg", "tiny.yaml", "--out", "two", SKIP, *TWO]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "two/results.json").read_text())
    assert (results["num_videos"], results["num_unread"], results["steps"]) == (6, 3, 6)
    assert listed(folder / "two/skipped.csv") == broken
    assert not (folder / "two/skipped-1.csv").exists()
    assert main(["--cfg", "tiny.yaml", "--evaluate", "two/checkpoints/last.ckpt", SKIP]) == 0
    one = json.loads((folder / "runs/tiny-evaluate/results.json").read_text())
    assert (one["num_videos"], one["top1"]) == (6, results["top1"])
    assert one["loss"] == pytest.approx(results["loss"], abs=1e-5)
    tested = [rows_of(folder / run / "predictions.csv") for run in ("two", "runs/tiny-evaluate")]
    assert tested[0] == tested[1] and len(tested[0]) == 6


def dataset(root, split="train", **arguments):
    return SomethingSomething(root, split, num_frames=2, short_side=16, crop_size=16, **arguments)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_are_smaller_and_hold_nothing_else(folder, num_workers):
    root = folder / "data"
    names = ids(root, "train")
    damage(root, [names[1], *names[4:8]])
    videos = dataset(root, on_error="skip")
    videos.skipped = Skipped(folder).part("train", len(videos))
    loader = VideoLoader(videos, 4, num_workers=num_workers)
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == [3, 1, 4]
    expected = torch.stack([videos[i][0] for i in (0, 2, 3)])
    assert torch.equal(batches[0][0], expected)
    clips, labels = batches[1]  # the whole batch is damaged
    assert labels.tolist() == [UNREAD] and clips.shape == (1, *expected.shape[1:]) and not clips.any()
    assert videos.skipped.skipped.videos("train") == sorted([names[1], *names[4:8]])
    parts = [VideoLoader(videos, 4, rank=rank, num_ranks=2) for rank in range(2)]
    assert [len(list(part)) for part in parts] == [3, 3]
    assert [[len(labels) for _, labels in part] for part in parts] == [[2, 1, 2], [1, 1, 2]]


def test_clips_of_a_protocol(folder):
    names = ids(folder / "data", "validation")
    damage(folder / "data", names[:2])
    videos = dataset(folder / "data", "val", protocol="full3x2", on_error="skip")
    videos.skipped = Skipped(folder).part("test", len(videos))
    (clips, labels), (others, _) = list(VideoLoader(videos, 2))[:2]
    assert labels.tolist() == [UNREAD] and clips.shape[1:] == others.shape[1:] == (6, 3, 2, 16, 16)


def test_it_says_so_when_nothing_can_be_read(folder):
    root = folder / "data"
    damage(root, ids(root, "train"))
    videos = dataset(root, on_error="skip")
    videos.skipped = Skipped(folder).part("train", len(videos))
    with pytest.raises(UserError, match="none of the first 12 videos can be read; the last one: .*jpg"):
        list(VideoLoader(videos, 2))
    assert len(listed(folder / "skipped.csv")["train"]) == 12


def test_other_choices_are_refused(folder):
    with pytest.raises(UserError, match="data.on_error: expected one of raise, skip"):
        dataset(folder / "data", on_error="ignore")
