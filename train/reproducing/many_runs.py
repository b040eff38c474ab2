"""Several runs of ``run.py``, one folder each: what is done is left alone, what was begun goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rstg_pyg.train.config import differences, load_config, parse_config, to_dict
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import cannot_be_written
from rstg_pyg.train.run_folder.folder import newest_first

try:
    import fcntl
except ImportError:  # Windows: nothing tells whether a run of another command is still going on
    fcntl = None

#: What does not make another experiment.
_FREE = ("name ", "data.root ", "data.num_workers ", "trainer.", "train.log_every ")

_POLL = 0.2  # seconds


@dataclass(frozen=True)
class Job:
    """A run: its folder, its config, and what is changed in it."""

    title: str
    folder: Path
    cfg: str
    overrides: tuple[str, ...]

    def begun(self) -> bool:
        """Whether there is a checkpoint from which it goes on."""
        return bool(newest_first(self.folder / "checkpoints"))

    def done(self) -> bool:
        """Whether its results are there.

        Raises:
            UserError: If they are those of another experiment.
        """
        path = self.folder / "results.json"
        if not path.is_file():
            return False
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["config"]
        except (ValueError, KeyError, TypeError) as e:
            raise UserError(f"{path}: not the results of a run; remove the file to run again") from e
        changed = experiment_differences(
            to_dict(parse_config(found, str(path))),
            to_dict(load_config(self.cfg, list(self.overrides))),
        )
        if changed:
            raise UserError(
                f"--out: {self.folder} holds another experiment; there against here: "
                f"{', '.join(changed[:4])}; choose another --out"
            )
        return True

    def command(self) -> list[str]:
        """The command that goes on with it, or begins if there is no checkpoint."""
        return [
            *(sys.executable, "-m", "rstg_pyg.train.run", "--cfg", self.cfg, *self.overrides),
            *("--out", str(self.folder), "--resume"),
        ]


def experiment_differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """What makes two configs different experiments: keys with both values."""
    return [line for line in differences(a, b) if not line.startswith(_FREE)]


def run_jobs(jobs: Sequence[Job], parallel: int = 1, after: Callable[[], None] = lambda: None) -> bool:
    """Runs what is not done yet, in the given order, so many at once.

    Every run is a process of its own, which writes what it says to ``log.txt`` in its folder. Ctrl-C
    or SIGTERM ends the runs after their step, with a checkpoint from which the next call goes on. If
    this process is killed, its runs go on alone; the next call waits for them. Without a checkpoint a
    run begins again.

    Args:
        jobs: The runs.
        parallel: How many at once.
        after: Called after every run that ended well.

    Returns:
        Whether all are done now.

    Raises:
        UserError: If a run ends with a mistake of the user's, since the others would, too.
        KeyboardInterrupt: After Ctrl-C or SIGTERM, when all runs have ended.
    """
    waiting = [job for job in jobs if not job.done()]
    for job in jobs:
        if job not in waiting:
            print(f"{job.title}: done before", flush=True)
    running: dict[Job, _Run] = {}
    failed = []
    said = set()
    with _signals():
        try:
            while waiting or running:
                for job in list(waiting):
                    if len(running) == parallel:
                        break
                    lock = _lock(job.folder)
                    if lock is None:
                        if job not in said:
                            print(f"{job.title}: going on in another process", flush=True)
                            said.add(job)
                        continue
                    waiting.remove(job)
                    if job.done():  # by the other process
                        lock.close()
                        after()
                        continue
                    running[job] = _Run(job, lock)
                for job, run in list(running.items()):
                    code = run.process.poll()
                    if code is None:
                        continue
                    del running[job]
                    run.lock.close()
                    if code == 2:
                        raise UserError(run.last_line().removeprefix("error: "))
                    minutes = (time.monotonic() - run.begin) / 60
                    if code == 0 and job.done():
                        print(f"{job.title}: done in {minutes:.1f} minutes", flush=True)
                        after()
                    else:
                        failed.append(job)
                        print(
                            f"{job.title}: ended with code {code} ({run.last_line()}); see {run.log}",
                            flush=True,
                        )
                time.sleep(_POLL)
        except BaseException:
            _stop(running)
            raise
    return not failed


class _Run:
    """A run that is going on."""

    def __init__(self, job: Job, lock: IO[str]):
        self.lock = lock
        self.begin = time.monotonic()
        self.log = job.folder / "log.txt"
        goes_on = job.begun()
        with open(self.log, "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                job.command(),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is passed on here, once
                pass_fds=[lock.fileno()] if os.name == "posix" else [],  # the run holds it, too
            )
        print(f"{job.title}: {'goes on' if goes_on else 'begins'} in {job.folder}", flush=True)

    def last_line(self) -> str:
        """What the run said last."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        return (errors or lines or ["it said nothing"])[-1]


def _lock(folder: Path) -> IO[str] | None:
    """An open file that nobody else has locked, or None. The lock ends with the last process that
    has it open: this one, or the run itself.

    Raises:
        UserError: If the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w", encoding="utf-8")  # noqa: SIM115
    except OSError as e:
        raise UserError(f"--out: {cannot_be_written(folder, e)}") from e
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
    return file


def _stop(running: dict[Job, _Run]) -> None:
    """Asks the runs to save and end, and waits; a second Ctrl-C does not wait."""
    if running:
        print("stopping after this step; press Ctrl-C again to stop at once", flush=True)
    for run in running.values():
        run.process.terminate()
    try:
        for run in running.values():
            run.process.wait()
    except KeyboardInterrupt:
        for run in running.values():
            run.process.kill()
            run.process.wait()
    for run in running.values():
        run.lock.close()


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Inside, SIGTERM is Ctrl-C."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
