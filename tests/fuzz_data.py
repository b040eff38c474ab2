"""Damages data sets and reads them: ``python tests/fuzz_data.py --cases 2000 --seed 0 [--out FILE]``.

Every case loads correctly or ends with an error that names the file; else it is printed and the exit
code is 1. Every case has a limit of time and memory and may not end its process.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import av
import fuzzing.label_cases  # noqa: F401  (adds its kinds)
import PIL
import torch
from fuzzing.cases import CLASSES, KINDS, LAYOUTS, Case, Templates
from fuzzing.pool import Outcome, run_cases

from rstg_pyg.train.data.check import check
from rstg_pyg.train.data.something import SomethingSomething
from rstg_pyg.train.data.sources import videos
from rstg_pyg.train.errors import UserError

GOOD = ("loaded", "loaded changed", "named")
SECONDS = 60.0  # for a case
MEMORY = 1 << 30  # bytes
_NAMES = [name for name, (_, share) in KINDS.items() for _ in range(share)]


class Fuzzer:
    """Makes and runs the cases of a seed.

    Args:
        folder: Where whole data sets are put.
        seed: Random seed.
    """

    def __init__(self, folder: Path, seed: int):
        self.seed = seed
        videos.PATIENCE = SECONDS / 30
        self.templates = Templates(folder)
        self.whole = {layout: read(folder / layout.strip("."), "auto") for layout in LAYOUTS}

    def kind(self, number: int) -> str:
        """What is done in a case; every kind has its turn."""
        return _NAMES[number * 7919 % len(_NAMES)]

    def __call__(self, number: int, folder: Path) -> tuple[str, str, str]:
        """Runs a case in a folder."""
        name = self.kind(number)
        rng = random.Random(f"{self.seed} {number}")
        root = folder / "data"
        case = KINDS[name][0](rng, root, self.templates)
        result, detail = self._judge(case, root, rng.random() < 0.3)
        if (folder / "code-was-run").exists() or Path("code-was-run").exists():
            result = "code was run"
        return name, result, detail.replace(str(folder), "")

    def _judge(self, case: Case, root: Path, look: bool) -> tuple[str, str]:
        try:
            if look:
                check(root, case.annotations, deep=True).text().encode()
            found = read(root, case.annotations)
        except UserError as e:
            message = str(e)
            if case.may == "load":
                return "refused", message
            if len(message) > 3000 or message.count("\n") > 3 or "Traceback" in message:
                return "long message", message[:300]
            try:
                message.encode()
            except UnicodeEncodeError:
                return "unprintable message", repr(message)
            return ("named" if any(n in message for n in case.names) else "unnamed"), message
        except BaseException:
            return "traceback", "".join(traceback.format_exc().splitlines(True)[-6:])
        changed = self._changed(found, root)
        if case.may == "not load" or (changed and case.may in ("load", "same")):
            return "silent", changed or "loaded as if nothing was wrong"
        return ("loaded changed" if changed else "loaded"), changed

    def _changed(self, found: dict[str, list[torch.Tensor]], root: Path) -> str:
        """In what the frames differ from those of a whole data set."""
        layout = "frames"
        for path in sorted((root / "videos").iterdir()):
            if path.stem == "1" and path.suffix:
                layout = path.suffix
            elif path.is_dir() and path.name == "1" and any(path.glob("*.png")):
                layout = "png"
        wanted = self.whole[layout]
        if len(found) != len(wanted):
            return f"{len(found)} videos"
        for (name, a), b in zip(found.items(), wanted.values()):
            if len(a) != len(b):
                return f"{name}: {len(a)} of {len(b)} frames"
            if not all(torch.equal(x, y) for x, y in zip(a, b)):
                return f"{name}: other pixels"
        return ""


def read(root: Path, annotations: str) -> dict[str, list[torch.Tensor]]:
    """All frames of all videos, and clips as training and evaluation have them."""
    found = {}
    for split, protocol in (("train", None), ("val", "center1"), ("train", "full3x2")):
        dataset = SomethingSomething(
            root, split, protocol, num_frames=4, short_side=24, crop_size=16, brightness=0.0,
            annotations=annotations, num_classes=len(CLASSES),
        )  # fmt: skip
        for item, video in enumerate(dataset.ids):
            found[f"{split} {item} {protocol}"] = [dataset[item][0]]
            frames = list(dataset.source.frames(video))
            assert len(frames) == dataset.source.num_frames(video)
            found[f"{split} {item} frames"] = frames
    return found


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Read damaged data sets.")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--out", metavar="FILE.json")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    summary = summarize(run(arguments.cases, arguments.seed, arguments.first))
    print(json.dumps({key: summary[key] for key in ("cases", "results", "slowest_seconds")}))
    if arguments.out:
        command = f"python tests/fuzz_data.py --cases {arguments.cases} --seed {arguments.seed}"
        about = {"command": command, "seed": arguments.seed, "versions": versions()}
        Path(arguments.out).write_text(json.dumps({**about, **summary}, indent=1) + "\n")
    return 1 if summary["failures"] else 0


def run(count: int, seed: int, first: int = 0) -> list[Outcome]:
    """Runs cases and prints those that fail."""
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder), seed)
        for outcome in run_cases(fuzzer, fuzzer.kind, count, SECONDS, MEMORY, first):
            outcomes.append(outcome)
            if outcome.result not in GOOD:
                what = f"case {outcome.number} ({outcome.kind}): {outcome.result}"
                print(f"{what}: {outcome.detail}", flush=True)
    return outcomes


def summarize(outcomes: list[Outcome]) -> dict:
    """Counts of results, in all and by kind."""
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
        "changed": dict(Counter(o.detail.split(": ")[-1] for o in outcomes if "changed" in o.result)),
        "kinds": {name: dict(counts.most_common()) for name, counts in sorted(kinds.items())},
    }


def versions() -> dict[str, str]:
    """Versions of what decodes."""
    return {
        "python": platform.python_version(), "torch": torch.__version__, "pillow": PIL.__version__,
        "av": av.__version__, "libavcodec": ".".join(map(str, av.library_versions["libavcodec"])),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
