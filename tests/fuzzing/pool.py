"""Runs cases in a process of their own, which may crash, hang or use too much memory."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple


class Outcome(NamedTuple):
    """What became of a case.

    Attributes:
        number: The case.
        kind: What was done to the data.
        result: ``loaded``, ``loaded changed``, ``named``, ..., or what is wrong.
        detail: The message, or what happened.
        seconds: How long it took.
    """

    number: int
    kind: str
    result: str
    detail: str
    seconds: float


#: A case: its number and an empty folder to a kind, a result and a detail.
Case = Callable[[int, Path], tuple[str, str, str]]


def run_cases(
    case: Case, kind_of: Callable[[int], str], count: int, limit: float, memory: int, first: int = 0
) -> Iterator[Outcome]:
    """Yields the outcome of every case, in order.

    Args:
        case: Runs a case.
        kind_of: What a case is called, for those that cannot say it themselves.
        count: How many cases.
        limit: Seconds after which a case hangs.
        memory: Bytes by which a case may raise the most that its process has held.
        first: The number of the first case.
    """
    worker = None
    for number in range(first, first + count):
        worker = worker or _Worker(case, memory)
        begin = time.perf_counter()
        answer = worker.ask(number, limit)
        if len(answer) == 2:
            worker.end()
            worker = None
            answer = (kind_of(number), *answer)
        yield Outcome(number, *answer, time.perf_counter() - begin)
    if worker is not None:
        worker.end()


class _Worker:
    def __init__(self, case: Case, memory: int):
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.folder = tempfile.TemporaryDirectory()
        arguments = (case, theirs, memory, self.folder.name)
        self.process = context.Process(target=_work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, number: int, limit: float) -> tuple[str, ...]:
        """Three strings of the case, or two of what happened to the process."""
        self.pipe.send(number)
        if not self.pipe.poll(limit):
            return "hang", f"no answer in {limit:g} s"
        try:
            return self.pipe.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return "crash", f"the process ended with {name}"

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.folder.cleanup()


def _work(case: Case, pipe, memory: int, folder: str) -> None:
    most = _memory("VmData") + 3 * memory  # no case may take the machine's
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    while True:
        number = pipe.recv()
        before = _memory("VmHWM")
        with tempfile.TemporaryDirectory(dir=folder) as inner:
            answer = case(number, Path(inner))
        grown = _memory("VmHWM") - before
        if grown > memory:
            answer = (answer[0], "memory", f"{grown / 2**20:.0f} MiB more ({answer[2]})")
        pipe.send(answer)


def _memory(what: str) -> int:
    """A line of the process's status, in bytes: ``VmHWM`` is the most that it has held."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024
    raise ValueError(what)
