"""The tables of all committed runs."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1]
_LEAST_VIDEOS = 100  # a run on fewer is no measurement of accuracy


def committed_runs() -> dict[str, dict[str, Any]]:
    """The ``results.json`` of runs under ``docs/results``, by their path in ``docs``."""
    found = {}
    for path in sorted((DOCS / "results").rglob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        is_run = isinstance(run, dict) and {"top1", "config"} <= set(run)
        if is_run and run["num_videos"] >= _LEAST_VIDEOS:
            found[path.relative_to(DOCS).as_posix()] = run
    return found


def results_table() -> str:
    """A table of runs for every data set and protocol, the most accurate first, as Markdown."""
    tables = defaultdict(list)
    for path, run in committed_runs().items():
        data = run.get("data") or f"SyncMNIST, {run['digits']} digits"
        tables[data, run["protocol"]].append((-run["top1"], path, run))
    out = []
    for (data, protocol), runs in sorted(tables.items(), key=lambda item: item[0]):
        rows = [
            "| config | run | top-1 % | standard error | top-5 % | steps | seconds | machine |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for _, path, run in sorted(runs, key=lambda row: row[:2]):
            share, count = run["top1"], run["num_videos"]
            error = (share * (1 - share) / count) ** 0.5
            seconds = f"{run['seconds']:,.0f}" if "seconds" in run else ""
            file = Path(path)
            cells = (
                f"[{run['config']['name']}, seed {run['seed']}](../{path})",
                f"`{file.parent.parent.name if file.stem == 'results' else file.stem}`",
                f"{100 * share:.1f}",
                f"{100 * error:.1f}",
                f"{100 * run['top5']:.1f}",
                str(run.get("steps", "")),
                seconds,
                run["device"].replace("(R)", "").replace(" Processor", ""),
            )
            rows.append(f"| {' | '.join(cells)} |")
        out.append(f"## {data}\n\n{protocol}\n\n" + "\n".join(rows))
    return "\n\n".join(out)
