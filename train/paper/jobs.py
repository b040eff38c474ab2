"""The runs of a table: each is a process of ``run.py`` with its own folder; finished ones are skipped,
unfinished ones resume.
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
from typing import Any

from rstg_pyg.train.config import differences, load_config, to_dict
from rstg_pyg.train.errors import UserError, counted
from rstg_pyg.train.files import cannot_be_written, lock
from rstg_pyg.train.report import read_run
from rstg_pyg.train.run_folder.folder import check_writable, newest_first

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
        check_writable(self.folder)  # with a full disk the run could not even say so in its log
        try:
            held = open(self.folder / ".lock", "w")  # noqa: SIM115
        except OSError as e:
            raise UserError(f"--out: {cannot_be_written(self.folder, e)}") from e
        with held, open(self.folder / "log.txt", "a", encoding="utf-8") as log:
            try:
                lock(held, inherited=True)
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
                pass_fds=[held.fileno()] if os.name == "posix" else [],
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
    count = counted(len(jobs), "run is", "runs are")
    print(f"{len(jobs) - len(waiting)} of {count} already done", flush=True)
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
