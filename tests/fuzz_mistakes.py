"""Gives every command users' mistakes: ``python tests/fuzz_mistakes.py [--out FILE] [--only TEXT]``.

A mistake must end with exit code 2 (or do what was asked for, where that is possible) and a message of
at most three lines that names the file, key or option; there is no traceback, and every file that was
there is there as it was. Else it is printed and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import hashlib
import importlib
import json
import os
import platform
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from fuzzing.mistake_files import reading_cases, running_cases, writing_cases
from fuzzing.mistake_options import absurd_cases, option_cases
from fuzzing.mistake_values import checkpoint_cases, result_cases
from fuzzing.mistakes import Mistake, make_home
from fuzzing.pool import Outcome, run_cases

GOOD = ("named", "done", "stopped")
SECONDS = 60.0  # for a case
MEMORY = 3 << 30  # bytes: a batch of 100,000 tiny clips, which somebody may want, takes 2.2 GiB
NOBODY = 65534
#: The modules of the commands, and the words before their arguments.
COMMANDS: dict[str, tuple[str, list[str]]] = {
    "run": ("train.run", []),
    "predict": ("train.predict", []),
    "check": ("train.prepare", ["check"]),
    "pack": ("train.prepare", ["pack"]),
    "show": ("train.prepare", ["show"]),
    "bench": ("train.prepare", ["bench-data"]),
    "benchmark": ("train.benchmark", []),
    "reproduce": ("train.reproduce", ["syncmnist"]),
    "figures": ("train.reproduce", ["figures"]),
    "report": ("train.report", []),
    "export": ("train.export", []),
    "replay": ("train.replay", []),
    "footprint": ("train.footprint", []),
    "sensor": ("train.sensor_network", []),
    "official": ("official.__main__", []),
}


def cases() -> list[Mistake]:
    """All of them, in a fixed order."""
    parts = (running_cases, checkpoint_cases, reading_cases, writing_cases, result_cases, option_cases)
    return [case for part in (*parts, absurd_cases) for case in part()]


class Mistakes:
    """Makes and judges the cases.

    Args:
        folder: Where the user's folder is made, of which every case gets a copy.
        chosen: The cases.
    """

    def __init__(self, folder: Path, chosen: list[Mistake]):
        self.home, self.cases = folder / "home", chosen
        self.home.mkdir()
        before = Path.cwd()
        try:
            with _captured(folder / "log"):
                make_home(self.home)
        except BaseException:
            print((folder / "log").read_text()[-3000:])
            raise
        os.chdir(before)
        self.mains = {
            name: importlib.import_module(f"rstg_pyg.{module}").main
            for name, (module, _) in COMMANDS.items()
        }

    def kind(self, number: int) -> str:
        """Which command."""
        return self.cases[number].command

    def __call__(self, number: int, folder: Path) -> tuple[str, str, str]:
        """Runs a case in a folder."""
        case = self.cases[number]
        place = folder / "home"
        shutil.copytree(self.home, place, symlinks=True)
        before = Path.cwd()
        os.chdir(place)
        try:
            try:
                case.make()
            except Exception as e:
                return case.command, "no case", f"{case.what!r}: {e!r}"
            result, detail = self._judge(case, place, folder / "log")
        finally:
            os.chdir(before)
            for path, _, _ in os.walk(folder):
                os.chmod(path, 0o755)
        said = f"{case.what!r}: {detail}".replace(str(folder), "")
        return case.command, result, said.encode(errors="backslashreplace").decode()

    def _judge(self, case: Mistake, place: Path, log: Path) -> tuple[str, str]:
        mine = dict(_files(place))
        _, words = COMMANDS[case.command]
        with _captured(log), _rights(place, case.nobody):
            code = _exit_code(lambda: self.mains[case.command]([*words, *case.arguments]))
        said = log.read_text(errors="replace")
        lines = [line for line in said.splitlines() if "error: " in line]
        tail = " / ".join(said.splitlines()[-4:])[-400:]
        if isinstance(code, str):
            return "traceback", code
        if "Traceback (most recent" in said:
            return "traceback", tail
        now = dict(_files(place))
        for path, content in mine.items():
            free = any(fnmatch.fnmatch(path, pattern) for pattern in case.may_change)
            if now.get(path) != content and not free:
                return (
                    "lost",
                    f"{path} is {'changed' if path in now else 'gone'}; exit code {code}; {tail}",
                )
        left = [path for path in now if path not in mine and path.endswith(".tmp")]
        if left:
            return "leftover", f"{left[0]}; exit code {code}; {tail}"
        if code not in case.codes:
            return ("silent" if code == 0 else f"exit code {code}"), tail
        if code == 0:
            return "done", tail
        if not lines and case.command not in ("check", "replay"):  # they say it in their reports
            return "no message", tail
        message = said[said.index("error: ") :] if lines else said
        if len(message) > 3000 or (lines and message.count("\n") > 4 and code == 2):
            return "long message", message[:300]
        names = [name for name in case.names if name]
        if code == 2 and names and not any(name in message for name in names):
            return "unnamed", message[:400]
        return ("stopped" if code == 1 else "named"), message[:400]


def _exit_code(call: Callable[[], int | None]) -> int | str:
    """The exit code, or the end of a traceback."""
    try:
        return call() or 0
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else 0 if e.code is None else "".join(str(e.code))
    except BaseException:
        return " / ".join(traceback.format_exc().splitlines()[-5:])[-500:]


@contextlib.contextmanager
def _captured(log: Path) -> Iterator[None]:
    """Everything that is printed, also by libraries, goes into a file."""
    sys.stdout.flush(), sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with open(log, "a", encoding="utf-8", buffering=1, errors="backslashreplace") as file:
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):  # pytest's
                yield
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os.dup2(kept[0], 1), os.dup2(kept[1], 2)
            os.close(kept[0]), os.close(kept[1])


@contextlib.contextmanager
def _rights(place: Path, nobody: bool) -> Iterator[None]:
    """For the super-user nothing is unreadable, so such cases are run as somebody else."""
    if not nobody or os.geteuid() != 0:
        yield
        return
    for folder in (place, *place.parents):
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(0o755)
    for path, folders, files in os.walk(place):
        for name in (".", *folders, *files):
            with contextlib.suppress(OSError):
                os.chown(Path(path) / name, NOBODY, -1, follow_symlinks=False)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    """Names below a folder with what they are."""
    for path, folders, files in os.walk(folder):
        for name in (*folders, *files):
            one = Path(path) / name
            text = "folder"
            if one.is_symlink():
                text = f"link to {os.readlink(one)}"
            elif one.is_file():
                text = hashlib.sha256(one.read_bytes()).hexdigest()
            elif not one.is_dir():
                text = "special"
            yield str(one.relative_to(folder)), text


def run(chosen: list[Mistake]) -> list[Outcome]:
    """Runs cases and prints those that fail."""
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        mistakes = Mistakes(Path(folder), chosen)
        for outcome in run_cases(mistakes, mistakes.kind, len(chosen), SECONDS, MEMORY):
            if outcome.result in ("hang", "crash"):
                outcome = outcome._replace(detail=f"{chosen[outcome.number].what!r}: {outcome.detail}")
            outcomes.append(outcome)
            if outcome.result not in GOOD:
                print(
                    f"{outcome.number} ({outcome.kind}): {outcome.result}: {outcome.detail}", flush=True
                )
    return outcomes


def summarize(outcomes: list[Outcome]) -> dict:
    """Counts of results, in all and by command."""
    kinds: dict[str, Counter] = {}
    for outcome in outcomes:
        kinds.setdefault(outcome.kind, Counter())[outcome.result] += 1
    return {
        "cases": len(outcomes),
        "limit_seconds": SECONDS,
        "limit_bytes": MEMORY,
        "slowest_seconds": round(max(o.seconds for o in outcomes), 2),
        "results": dict(Counter(o.result for o in outcomes).most_common()),
        "failures": sum(o.result not in GOOD for o in outcomes),
        "kinds": {name: dict(counts.most_common()) for name, counts in sorted(kinds.items())},
    }


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Make users' mistakes.")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each N-th case")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases with this in 'command: what'")
    parser.add_argument("--show", action="store_true", help="print all messages")
    parser.add_argument("--out", metavar="FILE.json")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    chosen = [c for c in cases() if arguments.only in f"{c.command}: {c.what}"]
    outcomes = run(chosen[:: arguments.every])
    for outcome in outcomes if arguments.show else ():
        print(f"{outcome.kind}: {outcome.result}: {outcome.detail}")
    summary = summarize(outcomes)
    print(json.dumps({key: summary[key] for key in ("cases", "results", "slowest_seconds")}))
    if arguments.out:
        command = f"python tests/fuzz_mistakes.py --every {arguments.every}"
        about = {"command": command, "python": platform.python_version(),
                 "torch": torch.__version__}  # fmt: skip
        Path(arguments.out).write_text(json.dumps({**about, **summary}, indent=1) + "\n")
    return 1 if summary["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
