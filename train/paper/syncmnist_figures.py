"""Figures of networks trained on SyncMNIST: attention, learning curves, and where they fail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from rstg_pyg.train.build import build_dataset
from rstg_pyg.train.config import Config
from rstg_pyg.train.data.syncmnist import Videos
from rstg_pyg.train.drawing.overlay import Attention, attention, find_graph
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import write_json
from rstg_pyg.train.plots import legend_below, new_figure, save_png
from rstg_pyg.train.predictor import Predictor
from rstg_pyg.train.run_folder.metrics import MetricsFile
from rstg_pyg.train.training.pretrain import map_cells

_BINS = 6
_BATCH = 50
_ATTENTION_VIDEOS = 300  # evaluated one by one


def write_figures(runs: Sequence[Path], out: Path, count: int = 1000) -> dict[str, Any]:
    """Draws ``curves.png``, ``distance.png`` and ``attention.png``, and writes ``figures.json``.

    ``attention.png`` is only drawn if the first run's network has a graph whose nodes send messages.
    Uses the first ``count`` test videos. Returns the numbers in the figures.

    Raises:
        UserError: If a folder holds no run of SyncMNIST, or a file cannot be written.
    """
    if count < 1:
        raise UserError(f"--videos: expected at least 1 (got {count})")
    numbers: dict[str, Any] = {"curves": {}, "distance": {}, "attention": None}
    for i, run in enumerate(runs):
        name, trained = load_run(run)
        name = f"{name} ({run})" if name in numbers["curves"] else name
        dataset: Any = build_dataset(trained.config, "test")
        videos = dataset.videos(list(range(count)))
        correct = predict(trained, videos) == videos.labels
        numbers["curves"][name] = accuracy_by_videos(run, trained.config)
        numbers["distance"][name] = by_distance(
            pair_distance(videos, trained.config)[videos.synchronous], correct[videos.synchronous]
        )
        if i == 0:
            first, numbers["attention"] = name, attention_over_time(trained, videos)
    figures = {"curves": draw_curves(numbers["curves"]), "distance": draw_distance(numbers["distance"])}
    if numbers["attention"] is not None:
        figures["attention"] = draw_attention(numbers["attention"], first)
    for key, figure in figures.items():
        save_png(figure, out / f"{key}.png")
    write_json(out / "figures.json", numbers)
    return numbers


def load_run(folder: Path) -> tuple[str, Predictor]:
    """A run's title and its network.

    Raises:
        UserError: If there is none, or it was not trained on SyncMNIST.
    """
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder}: expected a run folder (it has no config.yaml)")
    trained = Predictor.load(folder, "cpu")
    config = trained.config
    if config.data.dataset != "syncmnist":
        raise UserError(f"{folder}: expected a run on SyncMNIST (its data are {config.data.dataset})")
    parents = folder.resolve().parts[-2:]
    name = config.name if config.name in parents else parents[-1]
    return f"{name}, seed {config.seed}", trained


def accuracy_by_videos(folder: Path, config: Config) -> dict[str, list[float]]:
    """Validation accuracy by the number of videos seen, from ``metrics.csv``."""
    path = folder / "metrics.csv"
    rows = [row for row in MetricsFile(path).rows() if row["split"] == "val"]
    if not rows:
        raise UserError(f"{path}: not the metrics of a run (there are no validations)")
    return {
        "videos": [int(row["step"]) * config.train.batch_size for row in rows],
        "top1": [float(row["top1"]) for row in rows],
    }


@torch.no_grad()
def predict(trained: Predictor, videos: Videos) -> Tensor:
    """The predicted class of every video, ``[B]``."""
    batches = videos.clips.split(_BATCH)
    return torch.cat([trained.model(trained.normalized(clips)).argmax(-1) for clips in batches])


def pair_distance(videos: Videos, config: Config) -> Tensor:
    """The distance of the pair, mean over the frames, as a fraction of the canvas size, ``[B]``."""
    data: Any = config.data
    pair = videos.corners[:, :, :2].float()  # [B, T, 2, 2]
    return (pair[:, :, 0] - pair[:, :, 1]).norm(dim=-1).mean(dim=1) / data.canvas_size


def by_distance(distance: Tensor, correct: Tensor, bins: int = _BINS) -> list[dict[str, float]]:
    """Accuracy and its standard error, in distance bins with equal numbers of videos."""
    out = []
    for chosen in distance.argsort(stable=True).tensor_split(max(1, min(bins, len(distance)))):
        if len(chosen):
            share = float(correct[chosen].double().mean())
            low, high, mean = (float(f(distance[chosen])) for f in (torch.min, torch.max, torch.mean))
            error = math.sqrt(share * (1 - share) / len(chosen))
            out.append({"low": low, "high": high, "distance": mean, "videos": len(chosen)})
            out[-1] |= {"top1": share, "error": error}
    return out


def attention_over_time(trained: Predictor, videos: Videos) -> dict[str, Any] | None:
    """Attention per frame of regions with a digit of the pair, with another digit, and without digits.

    Regions are those of the finest scale, and the attention is a multiple of uniform attention (see
    :meth:`~rstg_pyg.train.drawing.overlay.Attention.relative`). Regions that contain digits of both
    kinds, and videos without a synchronous pair, are skipped.

    Returns:
        ``pair``, ``others`` and ``empty``, each with ``mean`` and ``error`` (standard error) per frame;
        ``videos``; ``rounds``. None if no node of the network's graph sends messages.
    """
    try:
        find_graph(trained.model)
    except UserError:
        return None
    chosen = videos.synchronous.nonzero().view(-1)[:_ATTENTION_VIDEOS].tolist()
    if not chosen:
        return None
    values = []
    for i in chosen:
        found = attention(trained.model, trained.normalized(videos.clips[i]))
        shares = split_attention(found, places(videos.corners[i], trained.config))
        values.append(torch.stack(shares))
    stacked = torch.stack(values).double()  # [videos, 3, T], NaN if there is no such region
    number = (~stacked.isnan()).sum(0)
    mean = stacked.nanmean(0)
    squares = (stacked - mean).square().nansum(0) / (number - 1).clamp(min=1)
    error = (squares / number.clamp(min=1)).sqrt()
    out: dict[str, Any] = {"videos": len(chosen), "rounds": found.rounds}
    for k, kind in enumerate(("pair", "others", "empty")):
        out[kind] = {"mean": _plain(mean[k]), "error": _plain(error[k]), "counted": number[k].tolist()}
    return out


def _plain(values: Tensor) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]


def places(corners: Tensor, config: Config) -> Tensor:
    """Positions of digits on the backbone's last feature map, from 0 to 1: rows and columns
    ``[T, D, 2]``, from the top-left pixels on the canvas.

    Without padding, the center of the map's first cell is inside the frame, not at its border.
    """
    data: Any = config.data
    backbone = config.model.backbone
    pixels = (corners.float() + data.digit_size / 2) * (data.frame_size / data.canvas_size)
    if backbone.kind != "simple_conv":
        return pixels / data.frame_size
    side, first, stride = map_cells(config)
    return (((pixels - first) / stride + 0.5) / side).clamp(0, 1)


def split_attention(found: Attention, centers: Tensor) -> tuple[Tensor, ...]:
    """Mean attention of the regions with the pair, with other digits, and without digits: three tensors
    ``[T]``, NaN if there is no such region. Centers are those of :func:`places`, the pair first.
    """
    cells = [rows * columns for rows, columns in found.scales]
    nodes = (found.node_type == cells.index(max(cells))).nonzero().view(-1)
    rows, columns = found.scales[cells.index(max(cells))]
    heat = found.relative()[:, nodes]  # [T, rows * columns]
    row = (centers[..., 0] * rows).long().clamp(max=rows - 1)
    column = (centers[..., 1] * columns).long().clamp(max=columns - 1)
    inside = torch.nn.functional.one_hot(row * columns + column, rows * columns).bool()  # [T, D, cells]
    pair, others = inside[:, :2].any(1), inside[:, 2:].any(1)
    kinds = (pair & ~others, others & ~pair, ~(pair | others))
    return tuple((heat * kind).sum(1) / kind.sum(1) for kind in kinds)  # 0 / 0 is NaN


def draw_curves(curves: dict[str, dict[str, list[float]]]) -> Figure:
    """Plots validation accuracy as a function of the number of videos seen."""
    lines = {
        name: (curve["videos"], [100 * x for x in curve["top1"]], None)
        for name, curve in curves.items()
    }
    return _draw("training videos seen", "validation top-1, %", lines, xlim=(0, None), ylim=(0, 101))


def draw_distance(found: dict[str, list[dict[str, float]]]) -> Figure:
    """Plots accuracy as a function of the distance of the pair."""
    lines = {}
    for name, bins in found.items():
        top1, error = ([100 * b[key] for b in bins] for key in ("top1", "error"))
        lines[name] = ([b["distance"] for b in bins], top1, error)
    words = "distance of the pair / canvas size"
    return _draw(words, "test top-1, %", lines, ylim=(0, 101))


def draw_attention(found: dict[str, Any], name: str) -> Figure:
    """Plots the attention on the pair, on other digits and on empty regions, per frame."""
    words = {"pair": "the synchronous pair", "others": "other digits", "empty": "regions without digit"}
    lines = {}
    for kind, label in words.items():
        mean, error = (np.array(found[kind][key], float) for key in ("mean", "error"))  # None is NaN
        lines[label] = (range(1, len(mean) + 1), mean, error)
    title = f"{name}; {found['videos']} test videos, mean of {found['rounds']} rounds"
    figure = _draw("frame", "attention received, multiple of uniform", lines, title=title)
    figure.axes[0].axhline(1, color="#bbbbbb", linewidth=0.8)
    return figure


def _draw(x: str, y: str, lines: dict[str, tuple[Any, Any, Any]], **settings: Any) -> Figure:
    """Plots lines by name: x, y and, optionally, the error."""
    figure, (axes,) = new_figure(6.4, 4.8)
    for name, (at, values, error) in lines.items():
        axes.errorbar(at, values, error, fmt="o-", ms=4, capsize=2, label=name)
    axes.set(xlabel=x, ylabel=y, **settings)
    legend_below(axes)
    return figure
