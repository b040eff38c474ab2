"""How commands end: a message and an exit code, whatever the user did; and nothing is lost.

tests/fuzz tries others; here is how commands are stopped, and messages that say what to do.
"""

import csv
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from helpers.commands import fails
from helpers.tiny_run import ONE_FILTER, write_tiny

from rstg_pyg.train import command as commands
from rstg_pyg.train.command import command
from rstg_pyg.train.data.check import check
from rstg_pyg.train.data.mini import write_mini_something
from rstg_pyg.train.errors import Interrupted, UserError
from rstg_pyg.train.files import write_atomically
from rstg_pyg.train.prepare import main as prepare
from rstg_pyg.train.reproduce import main as reproduce
from rstg_pyg.train.run import main as run
from rstg_pyg.train.run_folder.metrics import MetricsFile


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("home")
    often = {"batch_size": 16, "max_steps": 2, "validate_every": 1, "log_every": 1}
    path = write_tiny(folder, model=ONE_FILTER, train=often)
    assert run(["--cfg", str(path), "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def folder(home, tmp_path, monkeypatch):
    """A copy of it."""
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


RAISED = {
    "user": (UserError("x: wrong"), 2, "error: x: wrong\n"),
    "ctrl-c": (KeyboardInterrupt(), 130, "interrupted\n"),
    "saved": (Interrupted("--resume goes on"), 130, "interrupted; --resume goes on\n"),
    "rights": (PermissionError(13, "Permission denied", "a/b"), 2, "error: a/b: Permission denied; "),
    "memory": (MemoryError(), 2, "error: there is not enough memory (MemoryError); use a small"),
    "overflow": (OverflowError("int too big"), 2, "error: there is not enough memory (int too big)"),
    "a float": (RuntimeError("value cannot be converted to type float without overflow"), 2,
                "error: a number is too large to compute with"),
}  # fmt: skip


@pytest.mark.parametrize("name", RAISED)
def test_what_a_command_raises(name, capsys):
    error, code, message = RAISED[name]

    def main():
        raise error

    assert command(main)() == code
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("x"), KeyError("x"), OSError("x")])
def test_our_own_mistakes_keep_their_tracebacks(error):
    def main():
        raise error

    with pytest.raises(type(error)):
        command(main)()


def test_torch_says_what_is_looked_for():
    for ask in (lambda: torch.empty(1 << 50), lambda: torch.empty(1 << 40, 1 << 40)):
        with pytest.raises((RuntimeError, OverflowError)) as caught:
            ask()
        assert commands.is_too_large(caught.value)


def test_lightning_makes_an_exit_code_of_ctrl_c(capsys):
    def main():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    assert command(main)() == 130


def test_sigterm_leaves_no_temporary_file(tmp_path):
    def write(path):
        path.write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(60)

    with pytest.raises(SystemExit) as caught:
        command(lambda: write_atomically(tmp_path / "x", write))()
    assert caught.value.code == 143 and not [*tmp_path.iterdir()]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_log_on_a_full_disk(folder):
    line = [sys.executable, Path(commands.__file__).with_name("report.py"), "run", "--no-flops"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300)
    message = (
        "error: the output or a file cannot be written (No space left on device); free some space\n"
    )
    assert done.returncode == 2 and done.stderr == message
    for name in ("no_run", "run"):  # nor can the error be said
        with open("/dev/full", "w") as full:
            line = [sys.executable, line[1], name, "--no-flops"]
            assert subprocess.run(line, stdout=full, stderr=full, timeout=300).returncode == 2


@pytest.mark.slow
def test_a_reader_that_has_gone(folder):
    script = Path(commands.__file__).with_name("report.py")
    read, write = os.pipe()
    os.close(read)
    line = [sys.executable, script, "run", "--no-flops"]
    done = subprocess.run(line, stdout=write, stderr=subprocess.PIPE, text=True, timeout=300)
    os.close(write)
    assert done.returncode == 141 and "Traceback" not in done.stderr and "Broken" not in done.stderr


CHANGES = {
    "it has 0 steps, not 1": lambda checkpoint: checkpoint.pop("loops"),
    "param_groups": lambda checkpoint: checkpoint.update(optimizer_states=[{}, {}]),
    "RNG": lambda checkpoint: checkpoint["callbacks"]["Checkpoints"].update(rng=torch.ones(3)),
    "size mismatch": lambda checkpoint: checkpoint["state_dict"].update(
        {"model.lin.weight": torch.ones(9, 8)}),
    "Unexpected key": lambda checkpoint: checkpoint["state_dict"].update(more=torch.ones(3)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("message", CHANGES)
def test_a_checkpoint_that_does_not_fit_ends_with_a_line(folder, capsys, message):
    path = Path("run/checkpoints/step-1.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    CHANGES[message](checkpoint)
    torch.save(checkpoint, "a.ckpt")
    before = {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()}
    error = fails(capsys, run, "--cfg", "tiny.yaml", "--resume", "a.ckpt", "--out", "other")
    assert error.startswith("error: a.ckpt: cannot resume from it (") and message in error
    assert all(path.read_bytes() == content for path, content in before.items())


def test_metrics_that_somebody_changed(folder, capsys):
    metrics = Path("run/metrics.csv")
    rows = metrics.read_text()
    for line in ("²,val\n", "1,train,not a number\n", "9" * 5000 + ",val\n"):
        metrics.write_text(rows + line)
        error = fails(capsys, run, "--cfg", "tiny.yaml", "--resume", "--out", "run")
        assert error.startswith("error: run/metrics.csv: not the metrics of a run (")
        assert metrics.read_text() == rows + line
    metrics.write_text(rows + "1,train")  # a row that was being written
    assert MetricsFile(metrics).rows() == list(csv.DictReader(rows.splitlines()))


def test_a_link_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "x").symlink_to("disk/x")
    write_atomically(tmp_path / "x", lambda path: path.write_text("new"))
    assert (tmp_path / "x").is_symlink() and (tmp_path / "disk/x").read_text() == "new"


LINES = {
    "--workers: expected at least 1": (prepare, "pack", "--root", "d", "--out", "p", "--workers", "0"),
    "--root: expected a folder (got nothing)": (prepare, "bench-data", "--root", ""),
    "trainer.strategy: ddp_notebook": (run, "--cfg", "tiny.yaml", "trainer.strategy=ddp_notebook"),
    "model.rstg: Expected at least one kind of stage": (
        run,
        "--cfg",
        "tiny.yaml",
        "model.rstg={time_stages: none, space_stages: false}",
    ),
    "run/metrics.csv: not the metrics": (reproduce, "figures", "run"),
    "run already holds a run": (reproduce, "figures", "run", "--out", "run"),
}


@pytest.mark.parametrize("message", LINES)
def test_other_mistakes(folder, capsys, message):
    os.mkfifo("pipe")
    Path("run/metrics.csv").write_text("")
    assert message in fails(capsys, *LINES[message])


def test_frames_that_a_list_counts(tmp_path):
    root = write_mini_something(tmp_path / "data", train=2, validation=1, size=16, num_frames=4)
    for path in root.glob("*.csv"):
        path.unlink()
    (root / "category.txt").write_text("A\n")
    (root / "train_videofolder.txt").write_text("1 4 0\n2 4 0\n")
    (root / "val_videofolder.txt").write_text("3 3 0\n")  # more frames than it says are no mistake
    assert check(root, "tsm", deep=True).ok
    (root / "20bn-something-something-v1/2/00004.jpg").unlink()
    (problem,) = check(root, "tsm", deep=True).problems
    assert "1 of 2 videos have fewer frames than train_videofolder.txt says" in problem
    assert "2 has 3 of 4" in problem


def test_a_list_that_is_no_file_is_not_a_list_that_is_missing(tmp_path, capsys):
    root = write_mini_something(tmp_path / "data", train=1, validation=1, size=16, num_frames=2)
    path = root / "something-something-v1-train.csv"
    path.unlink()
    path.symlink_to("nowhere")
    error = fails(capsys, prepare, "pack", "--root", root, "--out", tmp_path / "p")
    assert f"{path}: expected a file" in error and not (tmp_path / "p").exists()
