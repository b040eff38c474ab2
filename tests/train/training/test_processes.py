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
    "train": {"epochs": 2, "max_steps": 6, "validate_every": 3, "log_every": 2},
}
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
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


def test_two_processes_learn_the_same_weights(folder):
    one, two = weights(folder / "one"), weights(folder / "two")
    names = [name for name in one if name.startswith("model.")]
    assert len(names) > 20
    for name in names:
        assert torch.allclose(one[name], two[name], atol=1e-5), name


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


class Pair:
    """Two processes that train for ever, started by Lightning or by torchrun."""

    def __init__(self, folder, launcher, *arguments):
        command = [*launcher, str(RUN), "--cfg", "tiny.yaml", *TWO, "--out", "pair", *arguments]
        self.folder = folder
        self.errors = open(folder / "errors.txt", "w")  # noqa: SIM115
        self.process = subprocess.Popen(
            [*command, "train.epochs=100000", "train.max_steps=null", "train.validate_every=100000"],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=self.errors,
            start_new_session=True,
        )

    def wait_until_it_learns(self):
        deadline = time.time() + 300
        metrics = self.folder / "pair" / "metrics.csv"
        while not (metrics.is_file() and "train" in metrics.read_text()):
            assert self.process.poll() is None and time.time() < deadline, self.text()
            time.sleep(0.2)

    def text(self):
        return (self.folder / "errors.txt").read_text()

    def pid(self, rank):
        """The process of a rank."""
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                mine = os.getsid(int(path.parent.name)) == self.process.pid
                command = (path.parent / "cmdline").read_text()
                if mine and "run.py" in command and "torch.distributed.run" not in command:
                    found = b"LOCAL_RANK=%d" % rank in path.read_bytes().split(b"\0")
                    started_by_lightning = int(path.parent.name) == self.process.pid
                    if found or (rank == 0 and started_by_lightning):
                        return int(path.parent.name)
        raise AssertionError(f"there is no rank {rank}")

    def end(self):
        """Waits for all of it; the exit code."""
        code = self.process.wait(timeout=100)
        deadline = time.time() + 60
        while time.time() < deadline:
            try:
                os.killpg(self.process.pid, 0)
            except ProcessLookupError:
                self.errors.close()
                return code
            time.sleep(0.1)
        raise AssertionError("a process lives on")


@pytest.fixture
def pair(tmp_path):
    started = []

    def start(launcher, *arguments):
        write_tiny(tmp_path, **CONFIG)
        started.append(Pair(tmp_path, launcher, *arguments))
        started[0].wait_until_it_learns()
        return started[0]

    yield start
    for one in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)


@linux
def test_ctrl_c_for_one_of_two_stops_both(pair):
    two = pair((sys.executable,))
    os.kill(two.pid(0), signal.SIGTERM)
    assert two.end() == 130, two.text()
    assert [*(two.folder / "pair" / "checkpoints").glob("step-*.ckpt")]


def test_torchrun(folder):
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2")
    done = run(folder, *TWO, "--out", "torchrun", launcher=launcher)
    assert done.returncode == 0, done.stderr
    one, two = weights(folder / "one"), weights(folder / "torchrun")
    assert all(torch.allclose(one[n], two[n], atol=1e-5) for n in one if n.startswith("model."))
