"""Forecasts of a real series: weekly chickenpox cases of 20 Hungarian counties, as PyTorch Geometric
Temporal distributes them. ``sensor_network.py --series FILE`` runs this; see docs/sensor_network.md.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rstg_pyg import RSTG
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.peers import GConvGRU
from rstg_pyg.train.run_folder.environment import environment

#: Weeks that a forecast sees; share of the windows for training, and of these for validation.
LAGS, TRAIN, VALIDATION = 4, 0.2, 0.25
CHANNELS, RATE = 32, 1e-2


class Windows(NamedTuple):
    """Windows of the series and the value after each.

    Attributes:
        x: ``[W, 4, N]``
        y: ``[W, N]``
    """

    x: Tensor
    y: Tensor

    def part(self, begin: int, end: int) -> Windows:
        """Some of the windows."""
        return Windows(self.x[begin:end], self.y[begin:end])


def read_series(path: Path) -> tuple[Tensor, Tensor]:
    """Reads ``{"edges": [[from, to], ...], "FX": [[value of each county], ...]}``.

    Returns:
        The edges ``[2, E]`` and the series ``[T, N]``.

    Raises:
        UserError: If the file cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        edges, values = torch.tensor(found["edges"]).T, torch.tensor(found["FX"])
        fits = values.dim() == 2 and edges.size(0) == 2 and int(edges.min()) >= 0
        fits = fits and int(edges.max()) < values.size(1) and len(values) >= 10 * LAGS
    except (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError) as e:
        raise UserError(f"--series: {path} cannot be read ({e})") from e
    if not fits or not values.isfinite().all():
        raise UserError(
            f"--series: expected edges [[from, to], ...] and at least {10 * LAGS} rows FX in {path}"
        )
    return edges, values.float()


def split(values: Tensor) -> tuple[Windows, Windows, Windows]:
    """Training, validation and test windows, in order of time; each test window lies after training."""
    x = values.unfold(0, LAGS, 1)[:-1].transpose(1, 2)
    windows = Windows(x, values[LAGS:])
    end = int(TRAIN * len(x))
    start = end - int(VALIDATION * end)
    return windows.part(0, start), windows.part(start, end), windows.part(end, len(x))


class Lags(torch.nn.Module):
    """GConvGRU as in PyTorch Geometric Temporal's example: one step, whose node features are the last
    values.
    """

    def __init__(self):
        super().__init__()
        self.layer = GConvGRU(LAGS, CHANNELS)
        self.lin = torch.nn.Linear(CHANNELS, 1)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """The forecast ``[W, N]`` for windows ``[W, 4, N]``."""
        h = self.layer(x.transpose(1, 2).unsqueeze(1), edge_index)
        return self.lin(h[:, -1].relu()).squeeze(-1)


class Steps(torch.nn.Module):
    """RSTG, which sees the last values one after the other."""

    def __init__(self, **kwargs):
        super().__init__()
        self.layer = RSTG(1, CHANNELS, residual=True, **kwargs)
        self.lin = torch.nn.Linear(CHANNELS, 1)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """The forecast ``[W, N]`` for windows ``[W, 4, N]``."""
        return self.lin(self.layer(x.unsqueeze(-1), edge_index)[:, -1]).squeeze(-1)


def train(
    model: torch.nn.Module, edges: Tensor, parts: tuple[Windows, Windows, Windows], steps: int
) -> dict[str, float]:
    """Trains on all training windows at once; the weights that are best on the validation windows are
    tested.

    Returns:
        ``validation`` and ``test``, mean squared errors, the best ``step``, and ``without_stopping``,
        the test error of the last weights.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    found = {"validation": float("inf")}
    fit, val, test = parts
    for step in range(1, steps + 1):
        loss = (model(fit.x, edges) - fit.y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            error = float((model(val.x, edges) - val.y).square().mean())
        if error < found["validation"]:
            found |= {"validation": error, "step": step}
            best = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        found["without_stopping"] = float((model(test.x, edges) - test.y).square().mean())
        model.load_state_dict(best)
        found["test"] = float((model(test.x, edges) - test.y).square().mean())
    return found


def autoregression(fit: Windows, test: Windows, each: bool) -> float:
    """The error of a linear forecast from the last four values and a constant, by least squares on the
    training windows: with weights of each county, or the same for all.
    """
    with_one = [
        torch.cat([w.x, torch.ones_like(w.x[:, :1])], dim=1).transpose(1, 2) for w in (fit, test)
    ]
    if each:
        known, asked = (x.transpose(0, 1) for x in with_one)  # [N, W, 5]
        weights = torch.linalg.lstsq(known, fit.y.T.unsqueeze(-1)).solution
        return float(((asked @ weights).squeeze(-1).T - test.y).square().mean())
    weights = torch.linalg.lstsq(with_one[0].flatten(0, 1), fit.y.reshape(-1, 1)).solution
    return float(((with_one[1] @ weights).squeeze(-1) - test.y).square().mean())


def models(edges: Tensor) -> dict[str, tuple[Callable[[], torch.nn.Module], Tensor]]:
    """The compared networks and their edges, by name."""
    none = edges[:, :0]
    return {
        "GConvGRU": (Lags, edges),
        "GConvGRU without edges": (Lags, none),
        "RSTG": (Steps, edges),
        "LSTM of each county": (partial(Steps, space_stages=False), none),
    }


def compare(path: Path, steps: int, seeds: int) -> dict:
    """All forecasts of a series; returns the results."""
    edges, values = read_series(path)
    fit, val, test = split(values)
    both = Windows(torch.cat([fit.x, val.x]), torch.cat([fit.y, val.y]))
    rows: dict[str, dict] = {
        "zero, the mean of the series": {"test": [float(test.y.square().mean())]},
        "last value again": {"test": [float((test.x[:, -1] - test.y).square().mean())]},
        "AR(4), the same for all": {"test": [autoregression(both, test, False)]},
        "AR(4) of each county": {"test": [autoregression(both, test, True)]},
    }
    for name, (make, links) in models(edges).items():
        row: dict = {}
        for seed in range(seeds):
            torch.manual_seed(seed)
            model = make()
            for key, value in train(model, links, (fit, val, test), steps).items():
                row.setdefault(key, []).append(value)
            print(f"{name}, seed {seed}: {row['test'][-1]:.3f}", flush=True)
        rows[name] = {**row, "parameters": sum(p.numel() for p in model.parameters())}
    settings = dict(steps=steps, seeds=seeds, channels=CHANNELS, rate=RATE, lags=LAGS)
    settings |= dict(training=len(fit.x), validation=len(val.x), test=len(test.x))
    return {"settings": settings, "rows": rows, "environment": environment(torch.device("cpu"))}
