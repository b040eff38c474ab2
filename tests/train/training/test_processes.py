"""Two processes on the CPU (gloo) against one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.tiny_run import write_tiny

RUN = Path(__file__).resolve().parents[3] / "train" / "run.py"
CONFIG = {
    "data": {"val_videos": 25, "test_videos": 33},
    # The gradient of the key's bias is zero with attention=dot: Adam would divide noise by noise.
    "model": {"rstg": {"attention": "additive"}},
    "train": {"epochs": 2, "max_steps": 6, "validate_every": 3, "log_every": 2},
}
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
    write_tiny(folder, **CONFIG)
    for arguments in (["--out", "one"], ["--out", "two", *TWO]):
        done = run(folder, *arguments)
        assert done.returncode == 0, done.stderr
    return folder


def weights(path):
    return torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
def test_two_processes_learn_the_same_weights(folder):
    one, two = weights(folder / "one"), weights(folder / "two")
    names = [name for name in one if name.startswith("model.")]
    assert len(names) > 20
    for name in names:
        assert torch.allclose(one[name], two[name], atol=1e-5), name


@pytest.mark.slow
def test_every_video_counts_once_in_evaluation(folder):
    one, two = (json.loads((folder / n / "results.json").read_text()) for n in ("one", "two"))
    assert one["num_videos"] == two["num_videos"] == 33
    assert two["top1"] == pytest.approx(one["top1"], abs=1e-6)
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
    assert (folder / "two" / "metrics.csv").read_text().count(",val,") == 2
    for name in ("confusion.csv", "per_class.csv"):
        assert (folder / "two" / name).read_text() == (folder / "one" / name).read_text()
    rows = (folder / "two" / "per_class.csv").read_text().splitlines()[1:]
    assert sum(int(row.split(",")[1]) for row in rows) == 33


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="sends a signal to one of two processes")
def test_ctrl_c_for_one_of_two_stops_both(tmp_path):
    write_tiny(tmp_path, **CONFIG)
    endless = ("train.epochs=100000", "train.max_steps=null", "train.validate_every=100000")
    process = subprocess.Popen(
        [sys.executable, str(RUN), "--cfg", "tiny.yaml", *TWO, "--out", "pair", *endless],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        metrics, deadline = tmp_path / "pair" / "metrics.csv", time.time() + 300
        while not (metrics.is_file() and "train" in metrics.read_text()):
            assert process.poll() is None and time.time() < deadline
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=100)[1]
        assert process.returncode == 130 and "Traceback" not in errors, errors
        assert [*(tmp_path / "pair" / "checkpoints").glob("step-*.ckpt")]
        deadline = time.time() + 60
        with pytest.raises(ProcessLookupError):
            while time.time() < deadline:
                os.killpg(process.pid, 0)  # until the other one is gone, too
                time.sleep(0.1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_torchrun(folder):
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2")
    done = run(folder, *TWO, "--out", "torchrun", launcher=launcher)
    assert done.returncode == 0, done.stderr
    one, two = weights(folder / "one"), weights(folder / "torchrun")
    assert all(torch.allclose(one[n], two[n], atol=1e-5) for n in one if n.startswith("model."))
