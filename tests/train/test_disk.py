"""Disk full, read-only, or the folder gone: one line of error, exit code 2, earlier files intact."""

import contextlib
import json
import os
import re
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from helpers.commands import fails
from helpers.results import rows_of
from helpers.tiny_run import write_tiny

from rstg_pyg.train import prepare
from rstg_pyg.train.data import packing
from rstg_pyg.train.data.mini import write_mini_something
from rstg_pyg.train.data.sources.packed import STORE, PackedVideos
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.reproduce import main as reproduce
from rstg_pyg.train.run import main
from rstg_pyg.train.run_folder.metrics import MetricsFile
from rstg_pyg.train.run_folder.weights import read_checkpoint
from rstg_pyg.train.training import callbacks
from rstg_pyg.train.training.checkpoints import Checkpoints

TRAIN = {"epochs": 3, "validate_every": 4, "log_every": 3}
SIZE = 4 << 20


def mount(*arguments):
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here ({done.stderr.strip()})")


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A disk of 4 MB."""
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path, train=TRAIN)
    path = tmp_path / "disk"
    path.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command here")
    mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(path))
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk, leave=0):
    """Leaves so many bytes."""
    with open(disk / "ballast", "wb", buffering=0) as file:
        size = max(shutil.disk_usage(disk).free - leave, 0)
        while size > 0:
            try:
                size -= file.write(bytes(min(size, 1 << 16)))
            except OSError:
                break


def rows(folder):
    keys = ("step", "split", "loss", "top1", "lr")
    return [[row[key] for key in keys] for row in rows_of(folder / "metrics.csv")]


def train(out, *arguments):
    return ["--cfg", "tiny.yaml", "--out", out, *arguments]


def read_only(disk, trainer):
    trainer.logger.experiment.close()  # files that are open for writing keep the disk from that
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the folder that is listed
            if os.readlink(f"/proc/self/fd/{number}") == str(disk / "run/.training"):
                os.dup2(os.open(os.devnull, os.O_WRONLY), int(number))
    mount("-o", "remount,ro", str(disk))


MOMENTS = {
    # What is done at step 7, with a checkpoint of step 4 there: where it is noticed.
    "no room at all": (lambda disk, trainer: fill(disk), "metrics.csv|tensorboard|step-8.ckpt"),
    "no room for a checkpoint": (lambda disk, trainer: fill(disk, 60_000), "step-8.ckpt"),
    "read-only": (read_only, "metrics.csv|tensorboard"),
    "folder gone": (
        lambda disk, trainer: shutil.rmtree(disk / "run"),
        "metrics.csv|tensorboard|step-8.ckpt",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_while_training(disk, capsys, monkeypatch, moment):
    act, noticed = MOMENTS[moment]
    original = callbacks.Meter.on_train_batch_end

    def at_step_7(self, trainer, *args):
        if trainer.global_step == 7:
            act(disk, trainer)
        original(self, trainer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Meter, "on_train_batch_end", at_step_7)
        error = fails(capsys, main, *train(disk / "run"))
    assert re.search(rf"{disk}/run/\S*({noticed})", error), error
    if moment == "folder gone":
        assert "was removed" in error and not (disk / "run/results.json").exists()
        return
    assert "; choose another place" in error if moment == "read-only" else "free some space" in error

    folder = disk / "run"
    checkpoints = {p.name for p in (folder / "checkpoints").iterdir()}
    assert checkpoints == {"step-4.ckpt", "last.ckpt", "best.ckpt"}
    assert read_checkpoint(folder / "checkpoints/last.ckpt")["global_step"] == 4
    before = rows(folder)
    assert [row[0] for row in before[:3]] == ["3", "4", "6"] and None not in before[-1]
    if moment == "read-only":
        assert "Read-only file system" in fails(capsys, main, *train(disk / "run", "--resume"))
        mount("-o", "remount,rw", str(disk))
    else:
        assert "No space left" in error
        os.unlink(disk / "ballast")
    assert main(train(str(disk / "run"), "--resume")) == 0
    assert main(train("whole")) == 0
    whole, parts = (
        torch.load(f / "checkpoints/last.ckpt", weights_only=True) for f in (Path("whole"), folder)
    )
    assert all(torch.equal(v, parts["state_dict"][k]) for k, v in whole["state_dict"].items())
    assert rows(Path("whole")) == rows(folder)


@pytest.mark.slow
def test_while_writing_results(disk, capsys, monkeypatch):
    original = Checkpoints.on_train_end

    def then_full(self, trainer, task):
        original(self, trainer, task)
        fill(disk)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_end", then_full)
        error = fails(capsys, main, *train(disk / "run"))
    assert "run/" in error and "No space left on device" in error and "free some space" in error
    assert not (disk / "run/results.json").exists()
    os.unlink(disk / "ballast")
    assert main(train(str(disk / "run"), "--resume")) == 0
    assert json.loads((disk / "run/results.json").read_text())["steps"] == 12


def test_at_the_start(disk, capsys):
    fill(disk)
    assert "No space left on device" in fails(capsys, main, *train(disk / "run"))
    assert not list((disk / "run").iterdir())
    table = ("syncmnist", "--size", "mini", "--rows", "time_only", "--out", disk / "table")
    said = fails(capsys, reproduce, *table)
    assert "seed0: cannot be written (No space left on device" in said
    assert not list(disk.glob("table/**/log.txt"))  # nothing was started
    os.unlink(disk / "ballast")
    mount("-o", "remount,ro", str(disk))
    assert "Read-only file system" in fails(capsys, main, *train(disk / "run2"))
    assert "was removed" not in fails(capsys, main, *train(disk / "deep/run"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mini") / "videos"
    return write_mini_something(folder, train=40, validation=20, size=64, num_frames=8)


@pytest.mark.parametrize("moment", ["full", "folder gone"])
def test_while_packing(disk, videos, capsys, monkeypatch, moment):
    monkeypatch.setattr(packing, "_TRANSACTION", 1)
    out, put, count = disk / "store", packing._Writer.put, []
    pack = ("pack", "--root", videos, "--out", out, "--short-side", "64", "--workers", "1")

    def at_video_20(self, *args):
        count.append(1)
        if len(count) == 20:
            fill(disk) if moment == "full" else shutil.rmtree(self.folder)
        put(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(packing._Writer, "put", at_video_20)
        error = fails(capsys, prepare.main, *pack)
    assert str(out) in error and not out.exists()
    if moment == "full":
        assert "19 whole videos are in it" in error and "free some space" in error
        os.unlink(disk / "ballast")
    else:
        assert "was removed" in error
    assert prepare.main([str(a) for a in pack]) == 0
    assert len(PackedVideos(out / STORE).videos()) == 60
    assert {p.name for p in disk.iterdir()} == {"store"}


@contextlib.contextmanager
def no_file_beyond(size):
    """A full disk where mounting is not permitted."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_row_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"step,split\r\n1,val\r\n")
    with no_file_beyond(path.stat().st_size + 3), pytest.raises(UserError, match="cannot be written"):
        MetricsFile(path).add(2, "val", {})
    assert path.read_bytes() == b"step,split\r\n1,val\r\n"


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path, train=TRAIN)
    with no_file_beyond(50_000):
        error = fails(capsys, main, *train("run"))
    assert "run/checkpoints/step-4.ckpt: cannot be written" in error
    assert not [*Path("run/checkpoints").iterdir()]
    assert main(train("run", "--resume")) == 0
