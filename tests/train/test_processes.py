"""Two processes on the CPU (gloo) against one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

RUN = Path(__file__).resolve().parents[2] / "train" / "run.py"
CONFIG = """
name: tiny
data: {digits: builtin, num_digits: 2, num_classes: 3, num_frames: 3, frame_size: 16, canvas_size: 16,
  digit_size: 8, max_step: 3, none_probability: 0.0, train_videos: 64, val_videos: 25, test_videos: 31,
  mean: 20.0, std: 50.0}
model:
  backbone: {filters: [8, 16], padding: 1}
  rstg: {hidden_channels: 16, scales: [2, 1], num_rounds: 2, residual: true}
train: {epochs: 2, max_steps: 6, batch_size: 16, lr: 0.003, validate_every: 3, log_every: 2}
trainer: {accelerator: cpu, threads: 1, progress_bar: false}
"""
TWO = ("trainer.devices=2", "trainer.strategy=ddp")


def run(folder, *arguments, launcher=(sys.executable,)):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launcher, str(RUN), "--cfg", "tiny.yaml", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    (folder / "tiny.yaml").write_text(CONFIG)
    for arguments in (["--out", "one"], ["--out", "two", *TWO]):
        done = run(folder, *arguments)
        assert done.returncode == 0, done.stderr
    return folder


def weights(path):
    return torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_two_processes_learn_the_same_weights(folder):
    one, two = weights(folder / "one"), weights(folder / "two")
    names = [name for name in one if name.startswith("model.")]
    assert len(names) > 20
    for name in names:
        assert torch.allclose(one[name], two[name], atol=1e-5), name


def test_every_video_counts_once_in_evaluation(folder):
    one, two = (json.loads((folder / n / "results.json").read_text()) for n in ("one", "two"))
    assert one["num_videos"] == two["num_videos"] == 31
    assert two["top1"] == pytest.approx(one["top1"], abs=1e-6)
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
    assert (folder / "two" / "metrics.csv").read_text().count(",val,") == 2
    for name in ("confusion.csv", "per_class.csv"):
        assert (folder / "two" / name).read_text() == (folder / "one" / name).read_text()
    rows = (folder / "two" / "per_class.csv").read_text().splitlines()[1:]
    assert sum(int(row.split(",")[1]) for row in rows) == 31


def test_torchrun(folder):
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2")
    done = run(folder, *TWO, "--out", "torchrun", launcher=launcher)
    assert done.returncode == 0, done.stderr
    one, two = weights(folder / "one"), weights(folder / "torchrun")
    assert all(torch.allclose(one[n], two[n], atol=1e-5) for n in one if n.startswith("model."))
