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
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric import seed_everything
from torch_geometric.nn import (
    ChebConv,
    GATv2Conv,
    GCNConv,
    GPSConv,
    TransformerConv,
    global_mean_pool,
)

from rstg_pyg import RSTG, RSTGConv
from rstg_pyg.train.command import command
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import of_this_command, write_json, write_text
from rstg_pyg.train.peer_tasks import TASKS, Task
from rstg_pyg.train.plots import COLORS, new_figure, save_png
from rstg_pyg.train.run_folder.environment import environment
from rstg_pyg.train.text_tables import as_markdown

RATES = (0.001, 0.003, 0.01)
#: The first seed; the layers' defaults were chosen on others (0 to 7, 10 to 12).
FIRST_SEED = 100
WIDTH = 32


class TwoLayers(torch.nn.Module):
    """Two layers, with a ReLU between.

    Args:
        layer: Makes a layer from numbers of channels.
        in_channels: Channels of the nodes.
        out_channels: Channels of the result.
        pooled: Whether the result is one of the whole graph: a linear map of the mean of the nodes.
    """

    def __init__(self, layer: Callable, in_channels: int, out_channels: int, pooled: bool):
        super().__init__()
        self.first = layer(in_channels, WIDTH)
        self.second = layer(WIDTH, WIDTH if pooled else out_channels)
        self.lin = torch.nn.Linear(WIDTH, out_channels) if pooled else None

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor | None = None) -> Tensor:
        """"""
        # Attention over all nodes has to know which ones are one graph.
        graphs = {"batch": batch} if isinstance(self.first, GPS) else {}
        x = self.second(self.first(x, edge_index, **graphs).relu(), edge_index, **graphs)
        return x if self.lin is None else self.lin(global_mean_pool(x.relu(), batch))


class WithoutEdges(torch.nn.Module):
    """A linear layer in a layer's place."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.lin = torch.nn.Linear(in_channels, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """"""
        return self.lin(x)


class GPS(torch.nn.Module):
    """GPSConv around a GCNConv; it keeps its channels, so linear layers change them."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.lin_in = torch.nn.Linear(in_channels, WIDTH)
        self.conv = GPSConv(WIDTH, GCNConv(WIDTH, WIDTH), heads=4)
        self.lin_out = torch.nn.Linear(WIDTH, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor | None = None) -> Tensor:
        """"""
        return self.lin_out(self.conv(self.lin_in(x), edge_index, batch))


class GConvGRU(torch.nn.Module):
    """The cell of `"Structured Sequence Modeling with Graph Convolutional Recurrent Networks"
    <https://arxiv.org/abs/1612.07659>`_ as a GRU: Chebyshev convolutions (K = 2) for its gates.

    Shapes:
        - **input:** ``[B, T, N, C]``
        - **output:** ``[B, T, N, D]``
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.out_channels = out_channels
        self.conv_x = ChebConv(in_channels, 3 * out_channels, K=2)
        self.conv_h = ChebConv(out_channels, 2 * out_channels, K=2)
        self.conv_n = ChebConv(out_channels, out_channels, K=2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """"""
        inputs, out = self.conv_x(x, edge_index), []
        h = x.new_zeros(x.size(0), x.size(2), self.out_channels)
        for step in inputs.unbind(1):
            gates, new = step.split([2 * self.out_channels, self.out_channels], dim=-1)
            z, r = (gates + self.conv_h(h, edge_index)).sigmoid().chunk(2, dim=-1)
            h = z * h + (1 - z) * (new + self.conv_n(h * r, edge_index)).tanh()
            out.append(h)
        return torch.stack(out, dim=1)


class GConvLSTM(torch.nn.Module):
    """The same as an LSTM (without peepholes)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.out_channels = out_channels
        self.conv_x = ChebConv(in_channels, 4 * out_channels, K=2)
        self.conv_h = ChebConv(out_channels, 4 * out_channels, K=2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """"""
        inputs, out = self.conv_x(x, edge_index), []
        h = c = x.new_zeros(x.size(0), x.size(2), self.out_channels)
        for step in inputs.unbind(1):
            i, f, o, new = (step + self.conv_h(h, edge_index)).chunk(4, dim=-1)
            c = f.sigmoid() * c + i.sigmoid() * new.tanh()
            h = o.sigmoid() * c.tanh()
            out.append(h)
        return torch.stack(out, dim=1)


class NodeLSTM(torch.nn.Module):
    """An LSTM over every node's own history."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.lstm = torch.nn.LSTM(in_channels, out_channels, batch_first=True)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """"""
        clips, steps, nodes, channels = x.shape
        out = self.lstm(x.transpose(1, 2).reshape(-1, steps, channels))[0]
        return out.view(clips, nodes, steps, -1).transpose(1, 2)


class Forecaster(torch.nn.Module):
    """A recurrent layer on ``[B, T, N, C]``, a ReLU, and a linear map to the forecast.

    Args:
        layer: Makes the layer from numbers of channels.
        in_channels: Channels of the nodes.
        out_channels: Channels of the forecast.
    """

    def __init__(self, layer: Callable, in_channels: int, out_channels: int):
        super().__init__()
        self.layer = layer(in_channels, WIDTH)
        self.lin = torch.nn.Linear(WIDTH, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """"""
        return self.lin(self.layer(x, edge_index).relu())


OURS, PAPER, ADDS = "RSTG", "RSTG, the paper's form", "RSTG, residual=all_time"
#: The layers by the name that tables have.
CONVS = {
    OURS: RSTGConv,
    PAPER: partial(RSTGConv, form="paper"),
    "GCN": GCNConv,
    "GATv2": GATv2Conv,
    "TransformerConv": TransformerConv,
    "GPSConv": GPS,
    "no edges": WithoutEdges,
}
CELLS = {
    OURS: RSTG,
    ADDS: partial(RSTG, residual="all_time"),
    PAPER: partial(RSTG, form="paper"),
    "GConvGRU": GConvGRU,
    "GConvLSTM": GConvLSTM,
    "no edges": NodeLSTM,
}


def make_model(kind: str, layer: Callable, in_channels: int, out_channels: int) -> torch.nn.Module:
    """The network of a kind of task with a layer."""
    if kind == "sequence":
        return Forecaster(layer, in_channels, out_channels)
    return TwoLayers(layer, in_channels, out_channels, pooled=kind == "pooled")


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
    rows = []
    for name in dict.fromkeys(name for task in tasks.values() for name in task["rows"]):
        line = {"layer": name}
        for title, task in tasks.items():
            row = task["rows"].get(name)
            error = f" ± {row['error']:.3f}" if row and row["error"] is not None else ""
            line[f"{title} ({task['metric']})"] = f"{row['mean']:.3f}{error}" if row else ""
        rows.append(line)
    return as_markdown(rows) + "\n"


def draw(tasks: dict[str, dict], path: Path) -> None:
    """A picture of the same: one panel per task, bars from the worst to the best."""
    figure, panels = new_figure(3.2 * len(tasks), 2.8, len(tasks))
    for axes, (title, task) in zip(panels, tasks.items()):
        rows = sorted(task["rows"].items(), key=lambda row: task["better"] * row[1]["mean"])
        means = [row["mean"] for _, row in rows]
        colors = [COLORS[0] if name.startswith(OURS) else "lightgray" for name, _ in rows]
        errors = [row["error"] or 0.0 for _, row in rows]
        axes.barh([name for name, _ in rows], means, xerr=errors, color=colors)
        axes.set_xlim(left=max(0.0, min(means) - 0.5 * (max(means) - min(means))))
        axes.set_title(f"{title}\n({task['metric']})", fontsize=9)
        axes.tick_params(labelsize=8)
    save_png(figure, path)


def _measured_before(path: Path, protocol: dict) -> dict[str, dict]:
    """Tasks that were measured in the same way in the same folder.

    Raises:
        UserError: If they cannot be read, or were measured in another way.
    """
    if not path.is_file():
        return {}
    with of_this_command(path):
        found = json.loads(path.read_text(encoding="utf-8"))
        settings, tasks = found["protocol"], dict(found["tasks"])
        table(tasks)
    if settings != protocol:
        raise UserError(f"--out: {path} has other seeds or settings; choose another folder")
    return tasks


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
    tasks = _measured_before(folder / "peers.json", protocol)
    for name in arguments.tasks:
        task: Any = TASKS[name]
        if arguments.quick:
            task = type(task.__name__, (task,), {"epochs": 1})
        measured = compare(task, seeds)
        tasks[task.title] = {**measured, "environment": environment(torch.device("cpu"))}
        write_json(folder / "peers.json", dict(protocol=protocol, tasks=tasks))
        write_text(folder / "peers.md", table(tasks))
        draw(tasks, folder / "peers.png")
    print(table(tasks), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
