"""The rows of the SyncMNIST table with the paper's results, and the runs that measure them.

Every run is a process of ``run.py`` with its own folder: finished runs are skipped, unfinished ones
resume.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rstg_pyg.train.config import differences, load_config, to_dict
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import cannot_be_written
from rstg_pyg.train.report import read_run
from rstg_pyg.train.run_folder.folder import newest_first

try:
    import fcntl
except ImportError:  # Windows: no way to tell whether another command's run is still active
    fcntl = None  # type: ignore[assignment]


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        name: The name of its config, ``syncmnist/NAME.yaml``; for an ablation ``ours-CHANGE``.
        title: The paper's name for it.
        paper: The paper's top-1 in percent, by number of digits.
        what: A short description.
        overrides: Overrides of the config.
    """

    name: str
    title: str
    paper: dict[int, float]
    what: str
    overrides: tuple[str, ...] = ()

    @property
    def cfg(self) -> str:
        """The config."""
        return f"syncmnist/{self.name.partition('-')[0]}.yaml"


DIGITS = (3, 5)

_ROWS = [
    Row("mean_lstm", "Mean + LSTM", {3: 77.0}, "spatial mean of the features, LSTM over time"),
    Row("conv_lstm", "Conv + LSTM", {3: 95.0, 5: 39.7}, "flattened features, LSTM over time"),
    Row("i3d", "I3D", {5: 90.6}, "3-D convolutions"),
    Row("non_local", "Non-Local", {5: 93.5}, "the same with non-local blocks"),
    Row("space_only", "RSTG: Space-Only", {3: 61.3}, "messages, no time stage"),
    Row("time_only", "RSTG: Time-Only", {3: 89.7}, "time stages, no messages"),
    Row("homogeneous", "RSTG: Homogeneous", {3: 95.7, 5: 58.3}, "time treated like space, no LSTM"),
    Row("one_temporal_stage", "RSTG: 1-temp-stage", {3: 97.0, 5: 74.1}, "one time stage at the end"),
    Row("all_temporal_stages", "RSTG: All-temp-stages", {3: 98.9, 5: 94.5}, "also one in every round"),
    Row("positional", "RSTG: Positional All-temp", {5: 97.2}, "the same, positions in the messages"),
    Row("ours", "Ours", {}, "positional, separate weights for each round; see the config"),
]

#: The rows of the table by name, in the paper's order; ours is the last.
ROWS: dict[str, Row] = {row.name: row for row in _ROWS}

#: Single changes of "Ours": a description and the overrides.
_CHANGES = {
    "no_residual": ("stages replace the nodes", "model.rstg.residual=false model.rstg.out_norm=null"),
    "shared_rounds": ("rounds share their weights", "model.rstg.shared_rounds=true"),
    "one_round": ("one round", "model.rstg.num_rounds=1"),
    "two_rounds": ("two rounds", "model.rstg.num_rounds=2"),
    "three_rounds": ("three rounds", "model.rstg.num_rounds=3"),
    "no_positions": ("no positions in the messages", "model.rstg.positions=false"),
    "padding": ("zero padding in the filters", "model.backbone.padding=1"),
    "residual": ("residual pre-norm stages", "model.rstg.residual=true model.rstg.out_norm=layer"),
    "one_time_stage": ("one time stage, at the end", "model.rstg.time_stages=last"),
    "all_time_stages": ("also a time stage in every round", "model.rstg.time_stages=all"),
    "no_pretraining": ("no pre-training", "pretrain.steps=0"),
    "dot_attention": ("dot attention", "model.rstg.attention=dot"),
    "mean": ("no attention, the mean", "model.rstg.attention=null"),
    "four_heads": ("four heads of attention", "model.rstg.heads=4"),
    "complete": ("messages between all nodes", "model.rstg.topology=complete"),
    "finest_scale": ("only the finest scale", "model.rstg.scales=[3]"),
    "gru": ("GRU cells", "model.rstg.cell=gru"),
    "no_in_norm": ("no batch norm before the graph", "model.rstg.in_norm=null"),
    "no_out_norm": ("no norm of the vector", "model.rstg.out_norm=null"),
    "typed_update": ("separate update weights for each scale", "model.rstg.typed_update=true"),
}

#: "Ours" with one change, by the name of the change.
ABLATIONS: dict[str, Row] = {
    name: Row(f"ours-{name}", what, {}, overrides, tuple(overrides.split()))
    for name, (what, overrides) in _CHANGES.items()
}

#: Differences that do not make a different experiment.
_FREE = ("name ", "data.root ", "data.num_workers ", "trainer.", "train.log_every ", "pretrain.file ")


def experiment_differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """The differences that make two configs different experiments: keys with both values."""
    return [line for line in differences(a, b) if not line.startswith(_FREE)]


@dataclass(frozen=True)
class Job:
    """A run: its folder, its config, and the overrides."""

    title: str
    folder: Path
    cfg: str
    overrides: tuple[str, ...]

    def done(self) -> bool:
        """Whether it has results.

        Raises:
            UserError: If the results are damaged or of another experiment.
        """
        if not (self.folder / "results.json").is_file():
            return False
        here = to_dict(load_config(self.cfg, list(self.overrides)))
        changed = experiment_differences(to_dict(read_run(self.folder).config), here)
        if changed:
            raise UserError(
                f"--out: {self.folder} holds another experiment; there and here: "
                f"{', '.join(changed[:4])}; choose another --out"
            )
        return True

    def command(self) -> list[str]:
        """The command that resumes it, or starts it if there is no checkpoint."""
        return [
            *(sys.executable, "-m", "rstg_pyg.train.run", "--cfg", self.cfg, *self.overrides),
            *("--out", str(self.folder), "--resume"),
        ]

    def start(self) -> subprocess.Popen | None:
        """Starts the run, which writes its output to ``log.txt``. The process inherits a lock on the
        folder, so that a run that outlives this command is not started twice.

        Returns:
            The process; None if a process of another command runs it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open(self.folder / ".lock", "w")  # noqa: SIM115
        except OSError as e:
            raise UserError(f"--out: {cannot_be_written(self.folder, e)}") from e
        with lock, open(self.folder / "log.txt", "a", encoding="utf-8") as log:
            try:
                if fcntl is not None:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return None
            begun = newest_first(self.folder / "checkpoints")
            print(f"{self.title}: {'resumes' if begun else 'starts'} in {self.folder}", flush=True)
            return subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is passed on once, by _stop
                pass_fds=[lock.fileno()] if os.name == "posix" else [],
            )

    def ended(self, code: int) -> bool:
        """Prints how the run ended; returns whether it is finished.

        Raises:
            UserError: If it ended with a user error.
        """
        log = self.folder / "log.txt"
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        last = (errors or lines or ["no output"])[-1]
        if code == 2:
            raise UserError(last.removeprefix("error: "))
        done = code == 0 and self.done()
        words = "done" if done else f"ended with code {code} ({last}); see {log}"
        print(f"{self.title}: {words}", flush=True)
        return done


def run_jobs(
    jobs: Sequence[Job], parallel: int = 1, after: Callable[[], object] = lambda: None
) -> bool:
    """Runs all unfinished runs, in the given order and up to a number of them in parallel.

    Ctrl-C or SIGTERM ends the runs after their step, with a checkpoint from which the next call
    resumes. If this process is killed, its runs continue; the next call waits for them. Without a
    checkpoint a run restarts.

    Calls ``after`` after every successful run; returns whether all runs are finished.

    Raises:
        UserError: If a run ends with a user error, since the others probably would too.
        KeyboardInterrupt: After Ctrl-C or SIGTERM, when all runs have ended.
    """
    waiting = [job for job in jobs if not job.done()]
    print(f"{len(jobs) - len(waiting)} of {len(jobs)} runs are already done", flush=True)
    running: dict[Job, subprocess.Popen] = {}
    all_done, before = True, signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while waiting or running:
            for job in [job for job, process in running.items() if process.poll() is not None]:
                if job.ended(running.pop(job).returncode):
                    after()
                else:
                    all_done = False
            for job in waiting[: parallel - len(running)]:
                if job.done():  # by a process of another command
                    waiting.remove(job)
                elif process := job.start():
                    running[job] = process
                    waiting.remove(job)
            time.sleep(0.1)
    except BaseException:
        _stop(running.values())
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    return all_done


def _stop(processes: Iterable[subprocess.Popen]) -> None:
    """Asks the runs to save and stop, and waits for them; a second Ctrl-C stops at once."""
    running = [process for process in processes if process.poll() is None]
    if running:
        print("stopping after this step; press Ctrl-C again to stop at once", flush=True)
    try:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    except KeyboardInterrupt:
        for process in running:
            process.kill()
