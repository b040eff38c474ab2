"""A network of sensors and models that forecast it: ``python train/sensor_network.py --out FILE``.

A small synthetic spatio-temporal signal: an event at a sensor reaches its neighbors some steps later,
the way congestion moves along roads. See docs/sensor_network.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.data import Data

from rstg_pyg import RSTG
from rstg_pyg.train import chickenpox
from rstg_pyg.train.benchmarking.baselines import GraphLSTM
from rstg_pyg.train.command import command
from rstg_pyg.train.files import output_file, write_json
from rstg_pyg.train.run_folder.environment import environment

#: Fraction of a sensor's level kept for the next step, fraction passed on by neighbors, and the
#: standard deviation of the noise of a reading.
KEPT, SENT, NOISE = 0.2, 0.65, 0.05
#: Readings at the start that are not evaluated, because a model needs some history.
WARM_UP = 8
#: Windows in a training step, and their readings; channels of the models; readings of the signal.
BATCH, WINDOW, CHANNELS, LENGTH = 8, 24, 32, 2000


def sensor_network(num_sensors: int = 20, neighbors: int = 3, seed: int = 0) -> Data:
    """Sensors at random positions, each with edges from its nearest ones.

    Returns:
        ``pos [N, 2]``, ``edge_index [2, E]`` (from, to), ``edge_attr [E, 1]`` (distance) and
        ``delay [E]``, one to four steps, in proportion to the distance.
    """
    generator = torch.Generator().manual_seed(seed)
    pos = torch.rand(num_sensors, 2, generator=generator)
    distance = torch.cdist(pos, pos).fill_diagonal_(float("inf"))
    nearest = distance.topk(neighbors, largest=False).indices
    to = torch.arange(num_sensors).repeat_interleave(neighbors)
    edge_index = torch.stack([nearest.flatten(), to])
    length = distance[edge_index[1], edge_index[0]]
    delay = (2 * length / length.median()).round().clamp(1, 4).long()
    return Data(pos=pos, edge_index=edge_index, edge_attr=length.unsqueeze(-1), delay=delay)


def readings(network: Data, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """The readings of the sensors over time.

    In every step, one sensor in fifty has a random event. A sensor keeps a fraction of its level and
    receives a fraction of the strongest of its neighbors' levels, each delayed by its edge's delay.

    Returns:
        The readings ``[steps, N]``, and the levels without the random events of the current step, which
        cannot be predicted: the best possible forecast.
    """
    generator = torch.Generator().manual_seed(seed)
    sensors, (source, target) = network.num_nodes, network.edge_index
    past = int(network.delay.max())
    events = torch.rand(steps + past, sensors, generator=generator) < 0.02
    strength = 1 + torch.rand(steps + past, sensors, generator=generator)
    level = torch.zeros(steps + past, sensors)
    expected = torch.zeros_like(level)
    for t in range(past, steps + past):
        sent = level[t - network.delay, source]
        strongest = level.new_zeros(sensors).scatter_reduce(0, target, sent, "amax")
        expected[t] = KEPT * level[t - 1] + SENT * strongest
        level[t] = expected[t] + events[t] * strength[t]
    noise = NOISE * torch.randn(steps, sensors, generator=generator)
    return level[past:] + noise, expected[past:]


def snapshots(network: Data, values: Tensor) -> list[Data]:
    """One graph per step, with the reading as ``x`` and the next one as ``y``: the form of a
    ``StaticGraphTemporalSignal``.
    """
    return [
        Data(x=x.unsqueeze(-1), y=y, edge_index=network.edge_index, edge_attr=network.edge_attr)
        for x, y in zip(values, values[1:])
    ]


class Forecaster(torch.nn.Module):
    """Reads the sensors ``[B, T, N, 1]`` and forecasts the next reading of each, ``[B, T, N]``.

    Args:
        layers: Layers on ``[B, T, N, C]``, applied in order.
        edge_attr: Edge features for the layers. (default: none)
    """

    def __init__(self, *layers: torch.nn.Module, edge_attr: Tensor | None = None):
        super().__init__()
        self.encode = torch.nn.Linear(1, CHANNELS)
        self.layers = torch.nn.ModuleList(layers)
        self.decode = torch.nn.Linear(CHANNELS, 1)
        self.extra = () if edge_attr is None else (edge_attr,)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """"""
        x = self.encode(x)
        for layer in self.layers:
            x = layer(x, edge_index, *self.extra)
        return self.decode(x).squeeze(-1)


def models(network: Data) -> dict[str, Callable[[], Forecaster]]:
    """The compared models: functions that build them, by name."""
    rstg = partial(RSTG, CHANNELS, CHANNELS, num_rounds=2, residual=True, form="paper")
    graph_lstm = partial(GraphLSTM, CHANNELS)
    return {
        "LSTM of each sensor": lambda: Forecaster(rstg(space_stages=False)),
        "GConvLSTM-like": lambda: Forecaster(graph_lstm()),
        "GConvLSTM-like, two layers": lambda: Forecaster(graph_lstm(), graph_lstm()),
        "RSTG": lambda: Forecaster(rstg()),
        "RSTG, distances as edge features": lambda: Forecaster(
            rstg(edge_dim=1), edge_attr=network.edge_attr
        ),
    }


def train(model: Forecaster, network: Data, values: Tensor, steps: int, seed: int) -> float:
    """Trains on random windows of the signal; returns milliseconds per step."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    begun = time.perf_counter()
    for _ in range(steps):
        start = torch.randint(len(values) - WINDOW, (BATCH,), generator=generator)
        clips = torch.stack([values[s : s + WINDOW + 1] for s in start.tolist()])  # [B, T + 1, N]
        forecast = model(clips[:, :-1].unsqueeze(-1), network.edge_index)
        loss = (forecast - clips[:, 1:])[:, WARM_UP - 1 :].square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return 1000 * (time.perf_counter() - begun) / steps


def error(forecast: Tensor, values: Tensor) -> float:
    """Squared error of forecasts ``[T, N]`` of ``values [T + 1, N]``, relative to the variance."""
    wanted = values[WARM_UP:]
    return float((forecast[WARM_UP - 1 :] - wanted).square().mean() / wanted.var())


def least_squares(network: Data, values: Tensor, test: Tensor) -> float:
    """The error of a linear forecast from the last readings of a sensor and its neighbors, with
    separate weights for each sensor.
    """
    squares = []
    for sensor in range(network.num_nodes):
        source, target = network.edge_index
        heard = [sensor, *source[target == sensor].tolist()]

        def past(v: Tensor, heard: list[int] = heard) -> Tensor:
            return v[:-1, heard].unfold(0, WARM_UP, 1).flatten(1)

        weights = torch.linalg.lstsq(past(values), values[WARM_UP:, sensor, None]).solution
        squares.append((past(test) @ weights - test[WARM_UP:, sensor, None]).square())
    return float(torch.cat(squares).mean() / test[WARM_UP:].var())


def compare(steps: int, seeds: int) -> dict:
    """Trains all models; returns the results."""
    network = sensor_network()
    values, _ = readings(network, LENGTH, seed=1)
    test, expected = readings(network, LENGTH // 2, seed=2)
    rows: dict[str, dict] = {
        "last reading again": {"errors": [error(test[:-1], test)]},
        "least squares for each sensor": {"errors": [least_squares(network, values, test)]},
        "the rule itself": {"errors": [error(expected[1:], test)]},
    }
    for name, make in models(network).items():
        errors, times = [], []
        for seed in range(seeds):
            torch.manual_seed(seed)
            model = make()
            times.append(train(model, network, values, steps, seed))
            with torch.no_grad():
                forecast = model.eval()(test[None, :-1, :, None], network.edge_index)[0]
            errors.append(error(forecast, test))
            print(f"{name}, seed {seed}: {errors[-1]:.3f}, {times[-1]:.0f} ms per step", flush=True)
        parameters = sum(p.numel() for p in model.parameters())
        rows[name] = {"errors": errors, "ms_per_step": times, "parameters": parameters}
    settings = dict(steps=steps, seeds=seeds, channels=CHANNELS, length=LENGTH)
    settings |= dict(batch=BATCH, window=WINDOW)
    return {"settings": settings, "rows": rows, "environment": environment(torch.device("cpu"))}


@command
def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="sensor_network.py", description=__doc__.partition("\n")[0], allow_abbrev=False
    )
    add = parser.add_argument
    add("--out", required=True, metavar="FILE", help="where results go (JSON)")
    add("--steps", type=int, default=1000, help="training steps (default: 1000)")
    add("--seeds", type=int, default=3, help="runs of each model (default: 3)")
    add("--series", metavar="FILE", help="forecast this real series (chickenpox.json) instead")
    arguments = parser.parse_args(argv)
    for name, least in (("steps", 2), ("seeds", 1)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name}: expected at least {least} (got {getattr(arguments, name)})")
    out = output_file("--out", arguments.out, (".json",))
    if arguments.series is None:
        found = compare(arguments.steps, arguments.seeds)
    else:
        found = chickenpox.compare(Path(arguments.series), arguments.steps, arguments.seeds)
    write_json(out, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
