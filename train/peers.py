"""RSTG and other layers of PyG on four small tasks: ``python train/peers.py --out FOLDER``.

Every layer is built with its own defaults, put into the same network and trained in the same way, once
for each of three learning rates. The best rate on the validation part counts, and what is reported is
its score on the test part, over five seeds (of data and weights). See docs/results/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch_geometric import seed_everything

from rstg_pyg.train.command import command
from rstg_pyg.train.comparing.models import CELLS, CONVS, OURS, WIDTH, make_model
from rstg_pyg.train.comparing.tasks import TASKS, Task
from rstg_pyg.train.files import write_atomically, write_json, write_text
from rstg_pyg.train.run_folder.results import environment

RATES = (0.001, 0.003, 0.01)
#: The first seed; the layers' defaults were chosen on others (0 to 7, 10 to 12).
FIRST_SEED = 100


def train(task: Task, layer: Callable, rate: float, seed: int) -> tuple[float, float]:
    """Trains a model with a layer; returns its scores on the validation and on the test part."""
    seed_everything(seed)
    model = make_model(task.kind, layer, task.in_channels, task.out_channels)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(task.epochs):
        model.train()
        for loss in task.losses(model):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        return task.score(model, "val"), task.score(model, "test")


def compare(task: Any, seeds: range) -> dict:
    """All layers on a task (a class of ``tasks``): what was measured, and in words how."""
    layers: dict[str, Any] = CELLS if task.kind == "sequence" else CONVS
    rows: dict[str, Any] = {name: {"scores": [], "rates": [], "seconds": 0.0} for name in layers}
    for seed in seeds:
        data = task(seed)
        for name, layer in layers.items():
            begun = time.perf_counter()
            runs = [train(data, layer, rate, seed) for rate in RATES]
            best = max(range(len(RATES)), key=lambda i: data.better * runs[i][0])
            row = rows[name]
            row["scores"].append(runs[best][1])
            row["rates"].append(RATES[best])
            row["seconds"] += time.perf_counter() - begun
            print(f"{data.title}, seed {seed}, {name}: {runs[best][1]:.3f}", flush=True)
    for row in rows.values():
        scores = torch.tensor(row["scores"], dtype=torch.double)
        row["mean"] = float(scores.mean())
        row["error"] = float(scores.std() / len(scores) ** 0.5) if len(scores) > 1 else None
    return {"metric": task.metric, "better": task.better, "epochs": task.epochs, "rows": rows}


def table(tasks: dict[str, dict]) -> str:
    """Mean and standard error of all layers on all tasks, in Markdown."""
    names = list(dict.fromkeys(name for task in tasks.values() for name in task["rows"]))
    lines = ["| layer | " + " | ".join(f"{title} ({t['metric']})" for title, t in tasks.items()) + " |"]
    lines.append("|---" * (len(tasks) + 1) + "|")
    for name in names:
        cells = []
        for task in tasks.values():
            row = task["rows"].get(name)
            error = "" if row is None or row["error"] is None else f" ± {row['error']:.3f}"
            cells.append("" if row is None else f"{row['mean']:.3f}{error}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(tasks: dict[str, dict], path: Path) -> None:
    """A picture of the same: one panel per task, bars from the worst to the best."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(tasks), 2.8), layout="constrained")
    for axes, (title, task) in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks.items()):
        rows = sorted(task["rows"].items(), key=lambda row: task["better"] * row[1]["mean"])
        means = [row["mean"] for _, row in rows]
        colors = ["tab:blue" if name.startswith(OURS) else "lightgray" for name, _ in rows]
        errors = [row["error"] or 0.0 for _, row in rows]
        axes.barh([name for name, _ in rows], means, xerr=errors, color=colors)
        axes.set_xlim(left=max(0.0, min(means) - 0.5 * (max(means) - min(means))))
        axes.set_title(f"{title}\n({task['metric']})", fontsize=9)
        axes.tick_params(labelsize=8)
    write_atomically(path, lambda part: figure.savefig(part, format="png", dpi=110))


def _measured_before(path: Path, protocol: dict) -> dict[str, dict]:
    """Other tasks that were measured in the same way in the same folder."""
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return found["tasks"] if found["protocol"] == protocol else {}


@command
def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="peers.py", description=__doc__.partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where results go")
    parser.add_argument("--quick", action="store_true", help="one seed and one epoch: does it run?")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each model (default: 5)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="which tasks")
    arguments = parser.parse_args(argv)
    if arguments.seeds < 1:
        parser.error(f"--seeds: expected at least 1 (got {arguments.seeds})")
    torch.set_num_threads(1)
    seeds = range(FIRST_SEED, FIRST_SEED + (1 if arguments.quick else arguments.seeds))
    folder = Path(arguments.out)
    folder.mkdir(parents=True, exist_ok=True)
    protocol = dict(rates=list(RATES), seeds=list(seeds), width=WIDTH, optimizer="Adam")
    protocol["quick"] = arguments.quick
    tasks = {}
    for name in arguments.tasks:
        task: Any = TASKS[name]
        if arguments.quick:
            task = type(task.__name__, (task,), {"epochs": 1})
        measured = compare(task, seeds)
        tasks[task.title] = {**measured, "environment": environment(torch.device("cpu"))}
    tasks = {**_measured_before(folder / "peers.json", protocol), **tasks}
    write_json(folder / "peers.json", dict(protocol=protocol, tasks=tasks))
    write_text(folder / "peers.md", table(tasks))
    draw(tasks, folder / "peers.png")
    print(table(tasks), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
