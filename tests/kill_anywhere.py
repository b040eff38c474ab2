"""Kills trainings and packings with SIGKILL at random moments, goes on, and compares with runs that
were not killed: ``python tests/kill_anywhere.py --kills 50 --json docs/results/kill_anywhere.json``.

A run is killed up to four times in a row, each time going on, and once more after it is done.
Every victim is a fork of this process, which has imported everything, so that a run takes seconds.
Just before the kill it writes where it is (``faulthandler``), which tells what the kill fell in. Some
kills come when the temporary file of a checkpoint appears, so that half-written ones are among them.
Needs Linux. Exits with 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import csv
import faulthandler
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo  # what optimizers import when they are first used, in seconds
from helpers.tiny_run import write_tiny
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rstg_pyg.train import fitting, prepare, run
from rstg_pyg.train.data import packing
from rstg_pyg.train.data.mini import write_mini_something
from rstg_pyg.train.data.sources.packed import STORE, PackedVideos, video_key
from rstg_pyg.train.files import write_json
from rstg_pyg.train.run_folder import confusion
from rstg_pyg.train.run_folder.environment import environment

CONFIG = {
    "model": {"dropout": 0.1},
    "pretrain": {"steps": 8, "batch_size": 16},
    "train": {"epochs": 5, "validate_every": 4, "log_every": 3, "warmup": 0.1},
}
#: Functions on the stack, innermost meaning first, and what a kill there fell in.
PLACES = {
    "save_checkpoint": "checkpoint",
    "write_atomically": "another file",
    "add": "metrics.csv",
    "test of run.py": "test",
    "on_validation_end": "validation",
    "_evaluation_step": "validation",
    "pretrain": "pre-training",
    "validation_step": "validation",
    "test_step": "test",
    "training_step": "step",
    "run_training_batch": "step",
    "optimizer_step": "step",
    "advance": "step",
    "_finish": "end of packing",
    "_commit": "packing, transaction",
    "pack": "packing",
    "fit": "start and end of training",
    "train": "before and after training",
}
_WORKERS = ("num_workers: 1", "num_workers: 0")
_MOST = 4  # kills of one run
TIMES = ("videos_per_second", "data_share")  # what differs from run to run


class Victim:
    """A process that calls a function, in a folder."""

    def __init__(self, function: Callable[[], int], folder: Path):
        self.folder = folder
        self.stack = folder.parent / f"{folder.name}.stack"
        self.log = folder.parent / f"{folder.name}.log"
        self.stack.write_text("")
        self.process = os.fork()
        if self.process == 0:
            os.setsid()
            out = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(out, 1)
            os.dup2(out, 2)
            stack = open(self.stack, "w")  # noqa: SIM115
            # Drawing takes most of a short run's time.
            fitting.write_curves = confusion.draw_confusion = lambda *arguments: None
            confusion.save_png = lambda figure, path: Image.new("RGB", (1, 1)).save(path)
            faulthandler.register(signal.SIGUSR1, stack, all_threads=False)
            code = 1
            try:
                code = function()
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)

    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return os.waitid(os.P_PID, self.process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def computed(self) -> float:
        """The seconds that it has computed; on a busy machine others pass, too."""
        return time.clock_gettime((~self.process << 3) | 2)

    def writes_a_checkpoint(self) -> bool:
        """Whether there is a temporary file of a checkpoint of its."""
        end = f".{self.process}.tmp"
        try:
            names = os.listdir(self.folder / "checkpoints")
        except FileNotFoundError:
            return False
        return any(name.startswith(".step-") and name.endswith(end) for name in names)

    def wait(self) -> int:
        """Its exit code."""
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])

    def kill(self) -> str:
        """Kills it; what that fell in."""
        os.kill(self.process, signal.SIGUSR1)
        deadline, size = time.time() + 5, 0
        while time.time() < deadline and (size == 0 or size != self.stack.stat().st_size):
            size = self.stack.stat().st_size
            time.sleep(0.01)
        os.kill(self.process, signal.SIGKILL)
        self.wait()
        deadline = time.time() + 30
        while time.time() < deadline:  # its own processes follow it
            try:
                os.killpg(self.process, 0)
            except ProcessLookupError:
                break
            time.sleep(0.05)
        else:
            raise AssertionError("processes of a killed one live on")
        names = re.findall(r" in (\w+)$", self.stack.read_text(), re.MULTILINE)
        if "test" in names and "fit" not in names:
            names.append("test of run.py")
        places = (place for name, place in PLACES.items() if name in names)
        return next(places, "its first or last moment")


class Training:
    """Trains ``tiny.yaml``."""

    share = 4  # of five kills

    def __init__(self, work: Path):
        self.whole = work / "training"  # the run that is left alone
        write_tiny(work, **CONFIG)

    def start(self, folder: Path, rng: random.Random) -> Victim:
        """A training, or its continuation; some with a data worker."""
        workers = int(rng.random() < 0.25)
        arguments = ["--cfg", "tiny.yaml", f"data.num_workers={workers}", "--out", folder.name]
        return Victim(lambda: run.main([*arguments, *["--resume"] * folder.is_dir()]), folder)

    def differences(self, other: Path) -> list[str]:
        """What is not the same in a run folder as in the one that was left alone."""
        whole, out = self.whole, []
        for name in ("last.ckpt", "best.ckpt"):
            a, b = (torch.load(f / "checkpoints" / name, weights_only=True) for f in (whole, other))
            out += [f"{name}: {key}" for key in _unequal(a, b) if "seconds" not in key]
        for name, read in (("names", _names), ("metrics.csv", _metrics), ("results.json", _results)):
            out += [] if read(whole) == read(other) else [name]
        for name in ("per_class.csv", "confusion.csv", "config.yaml"):
            a, b = ((f / name).read_text() for f in (whole, other))
            out += [] if a.replace(*_WORKERS) == b.replace(*_WORKERS) else [name]
        out += [] if _events(whole) == _events(other) else ["tensorboard"]
        return out


class Packing:
    """Packs a small mini-something."""

    share = 1

    def __init__(self, work: Path):
        self.whole = work / "packing"
        self.root = write_mini_something(work / "mini", train=60, validation=20, size=48, num_frames=8)

    def start(self, folder: Path, rng: random.Random) -> Victim:
        """A packing, or its continuation; some with two workers, some in many transactions."""
        arguments = ["pack", "--root", str(self.root), "--out", str(folder), "--short-side", "40"]
        arguments += ["--workers", str(rng.randint(1, 2))]
        size = 1 if rng.random() < 0.7 else packing._TRANSACTION

        def pack() -> int:
            packing._TRANSACTION = size
            return 0 if folder.exists() else prepare.main(arguments)

        return Victim(pack, folder)

    def differences(self, other: Path) -> list[str]:
        """What is not the same in a store as in the one that was left alone."""
        whole = self.whole
        a, b = (PackedVideos(folder / STORE) for folder in (whole, other))
        out = [] if a.videos() == b.videos() and a.made == b.made else ["videos"]
        out += [v for v in a.videos() if bytes(a._get(video_key(v))) != bytes(b._get(video_key(v)))]
        files = [sorted(p.relative_to(f) for p in f.rglob("*")) for f in (whole, other)]
        return out if files[0] == files[1] else [*out, "files"]


def _unequal(a, b, key: str = "") -> list[str]:
    """The keys at which two checkpoints differ."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [key]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [key]
        return [x for k in a if k != "num_workers" for x in _unequal(a[k], b[k], f"{key}.{k}")]
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return [key]
        return [x for i, (c, d) in enumerate(zip(a, b)) for x in _unequal(c, d, f"{key}.{i}")]
    return [] if a == b else [key]


def _names(folder: Path) -> list[str]:
    files = (str(p.relative_to(folder)) for p in folder.rglob("*"))
    return sorted(name for name in files if "events.out" not in name)


def _metrics(folder: Path) -> list[dict]:
    with open(folder / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def _results(folder: Path) -> dict:
    found = json.loads((folder / "results.json").read_text())
    found["pretraining"].pop("seconds")
    keys = ("top1", "top5", "loss", "num_videos", "data", "steps", "parameters", "pretraining")
    return {key: found[key] for key in keys}


def _events(folder: Path) -> dict:
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    tags = [t for t in events.Tags()["scalars"] if not t.endswith(TIMES) and "/" in t]
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}
    # A run that is killed before results.json is there logs its test again.
    return {tag: values[-1:] if tag.startswith("test/") else values for tag, values in found.items()}


def kill_once(task: Training | Packing, folder: Path, seconds: float, rng) -> dict | None:
    """Starts, and kills at a random moment; which, and what that fell in. None if it ended before."""
    targeted = isinstance(task, Training) and rng.random() < 0.25
    moment, at = rng.uniform(0, seconds), rng.randrange(2)
    seen, there = 0, False
    victim = task.start(folder, rng)
    while not victim.ended():
        if targeted:  # at the first or second checkpoint, within some milliseconds
            now = victim.writes_a_checkpoint()
            seen += now and not there
            there = now
            if seen > at:
                time.sleep(rng.uniform(0, 0.004))
                break
        elif victim.computed() >= moment:
            time.sleep(rng.uniform(0, 0.004))  # or nothing would fall in waiting for the disk
            break
        time.sleep(0.0003)
    if victim.ended():
        assert victim.wait() == 0, victim.log.read_text()
        return None
    found = {"of": type(task).__name__.lower(), "computed_seconds": round(victim.computed(), 3)}
    found["fell_in"] = victim.kill()
    return {**found, "half_written": victim.writes_a_checkpoint()}


def kill_some(task: Training | Packing, seconds: float, most: int, rng) -> dict:
    """Kills a run so many times, or until it is done, each time going on; then compares."""
    folder = task.whole.with_name(f"{task.whole.name}-killed")
    kills: list[dict] = []
    while len(kills) < most:
        kill = kill_once(task, folder, seconds, rng)
        if kill is None:
            break
        kills.append(kill)
    last = task.start(folder, rng)  # of a run that is done, too
    code = last.wait()
    problems = [f"exit code {code}"] if code else task.differences(folder)
    log = last.log.read_text()[-3000:] if problems else ""
    shutil.rmtree(folder)
    last.log.unlink()
    return {"kills": kills, "problems": problems, "log": log}


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Kills runs at random moments and compares.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    rng = random.Random(arguments.seed)
    out = arguments.json and arguments.json.absolute()
    torch.set_num_threads(1)
    runs: list[dict] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        os.chdir(work)
        packings = max(1, arguments.kills // 5)
        left = {Training(work): arguments.kills - packings, Packing(work): packings}
        seconds = {}
        for task in left:
            for folder in (task.whole, task.whole.with_name("again")):
                victim = task.start(folder, rng)
                while not victim.ended():
                    seconds[task] = victim.computed()
                    time.sleep(0.001)
                assert victim.wait() == 0, victim.log.read_text()
            assert not task.differences(folder), "two runs that nobody kills differ"
            shutil.rmtree(folder)
        while any(left.values()):
            task = max(left, key=lambda task: left[task] / task.share)
            runs.append(kill_some(task, seconds[task], min(left[task], _MOST), rng))
            left[task] -= len(runs[-1]["kills"])
            print(json.dumps(runs[-1]), flush=True)
            if out is not None:
                write_json(out, {**summary(runs), **environment(torch.device("cpu"))})
    found = summary(runs)
    print({key: value for key, value in found.items() if key != "each"})
    return int(found["runs_with_problems"] > 0)


def summary(runs: list[dict]) -> dict:
    """The figures."""
    kills = [kill for one in runs for kill in one["kills"]]
    return {
        "kills": len(kills),
        "runs": len(runs),
        "runs_with_problems": sum(bool(one["problems"]) for one in runs),
        "half_written": sum(kill["half_written"] for kill in kills),
        "fell_in": dict(Counter(kill["fell_in"] for kill in kills).most_common()),
        "each": runs,
    }


if __name__ == "__main__":
    sys.exit(main())
