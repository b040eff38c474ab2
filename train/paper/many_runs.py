"""Several runs of ``run.py``, one folder each: what is done is left alone, what was begun goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
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
    fcntl = None  # type: ignore[assignment]

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


def run_jobs(
    jobs: Sequence[Job], parallel: int = 1, after: Callable[[], object] = lambda: None
) -> bool:
    """Runs what is not done yet, in the given order, so many at once.

    Every run is a process of its own, which writes what it says to ``log.txt`` in its folder. Ctrl-C
    or SIGTERM ends the runs after their step, with a checkpoint from which the next call goes on. If
    this process is killed, its runs go on alone; the next call waits for them. Without a checkpoint a
    run begins again.

    Calls ``after`` after every run that ended well; returns whether all are done now.

    Raises:
        UserError: If a run ends with a mistake of the user's, since the others would, too.
        KeyboardInterrupt: After Ctrl-C or SIGTERM, when all runs have ended.
    """
    waiting = [job for job in jobs if not job.done()]
    for job in jobs:
        if job not in waiting:
            print(f"{job.title}: done before", flush=True)
    runs, before = _Runs(), signal.signal(signal.SIGTERM, signal.default_int_handler)
    pool = ThreadPoolExecutor(parallel)
    try:
        futures = [pool.submit(runs.run, job) for job in waiting]
        for future in as_completed(futures):
            if future.result():
                after()
        return all(future.result() for future in futures)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        runs.stop()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        pool.shutdown()


class _Runs:
    """The processes that are going on; :meth:`run` is called from threads."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen] = []
        self.starting, self.stopped = threading.Lock(), threading.Event()

    def run(self, job: Job) -> bool:
        """Waits until nobody else runs the job, and runs it; returns whether it is done."""
        with _lock_file(job.folder) as lock:
            if not self._locked(lock, job):
                return False
            if job.done():  # by another process
                return True
            with self.starting:
                if self.stopped.is_set():
                    return False
                process = self._start(job, lock)
            begin, log = time.monotonic(), job.folder / "log.txt"
            code = process.wait()
        self.processes.remove(process)
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        last = (errors or lines or ["it said nothing"])[-1]
        if code == 2:
            self.stopped.set()  # before another thread starts the next run
            raise UserError(last.removeprefix("error: "))
        done = code == 0 and job.done()
        words = f"ended with code {code} ({last}); see {log}"
        if done:
            words = f"done in {(time.monotonic() - begin) / 60:.1f} minutes"
        print(f"{job.title}: {words}", flush=True)
        return done

    def _locked(self, lock: IO[str], job: Job) -> bool:
        """Locks a job's file. The lock ends with the last process that has it open: this one, or the
        run itself.
        """
        said = False
        while fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError:
                if not said:
                    print(f"{job.title}: going on in another process", flush=True)
                said = True
            if self.stopped.wait(_POLL):
                return False
        return True

    def _start(self, job: Job, lock: IO[str]) -> subprocess.Popen:
        print(f"{job.title}: {'goes on' if job.begun() else 'begins'} in {job.folder}", flush=True)
        with open(job.folder / "log.txt", "a", encoding="utf-8") as log:
            process = subprocess.Popen(
                job.command(),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is passed on by stop, once
                pass_fds=[lock.fileno()] if os.name == "posix" else [],  # the run holds it, too
            )
        self.processes.append(process)
        return process

    def stop(self) -> None:
        """Asks the runs to save and end, and waits; a second Ctrl-C does not wait."""
        with self.starting:
            self.stopped.set()
        running = list(self.processes)
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


def _lock_file(folder: Path) -> IO[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return open(folder / ".lock", "w", encoding="utf-8")
    except OSError as e:
        raise UserError(f"--out: {cannot_be_written(folder, e)}") from e
