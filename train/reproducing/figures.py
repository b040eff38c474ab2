"""What networks trained on SyncMNIST look at, how fast they learn, and where they fail."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from rstg_pyg import VideoClassifier
from rstg_pyg.train.build import build_dataset, build_model, normalize
from rstg_pyg.train.config import Config, load_config
from rstg_pyg.train.data.syncmnist import Videos
from rstg_pyg.train.drawing.overlay import Attention, attention, find_graph
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import write_atomically, write_json
from rstg_pyg.train.run_folder.weights import load_weights, read_weights

_BINS = 6
_BATCH = 50
_ATTENTION_VIDEOS = 300  # seen one by one
_COLORS = ("#c8553d", "#4a6d8c", "#7a9e5f", "#b08a3e", "#8a6fa0", "#5b5b5b")


@dataclass(frozen=True)
class Trained:
    """A network of a run, in evaluation mode."""

    name: str
    config: Config
    model: VideoClassifier


def write_figures(runs: Sequence[Path], out: Path, count: int = 1000) -> dict[str, Any]:
    """Draws ``curves.png``, ``distance.png`` and ``attention.png``, and writes ``figures.json``.

    ``attention.png`` is there if the first run's network has a graph whose nodes send messages.

    Args:
        runs: Run folders of SyncMNIST.
        out: Where to write.
        count: Test videos to look at.

    Returns:
        The numbers behind the pictures, as in ``figures.json``.

    Raises:
        UserError: If a folder holds no run of SyncMNIST, or a file cannot be written.
    """
    if count < 1:
        raise UserError(f"--videos: expected at least 1 (got {count})")
    trained = [load_run(run) for run in runs]
    curves = {one.name: accuracy_by_videos(run, one.config) for one, run in zip(trained, runs)}
    numbers: dict[str, Any] = {"curves": curves, "distance": {}, "attention": None}
    for one in trained:
        videos = build_dataset(one.config, "test").videos(list(range(count)))
        correct = predict(one, videos) == videos.labels
        numbers["distance"][one.name] = by_distance(
            pair_distance(videos, one.config)[videos.synchronous], correct[videos.synchronous]
        )
        if one is trained[0]:
            numbers["attention"] = attention_over_time(one, videos)
    _write(out / "curves.png", draw_curves(curves))
    _write(out / "distance.png", draw_distance(numbers["distance"]))
    if numbers["attention"] is not None:
        _write(out / "attention.png", draw_attention(numbers["attention"], trained[0].name))
    write_json(out / "figures.json", numbers)
    return numbers


def load_run(folder: Path) -> Trained:
    """The network of a run, from its best checkpoint.

    Raises:
        UserError: If there is none, or it was not trained on SyncMNIST.
    """
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder}: expected a run folder (it has no config.yaml)")
    config = load_config(str(folder / "config.yaml"))
    if config.data.dataset != "syncmnist":
        raise UserError(f"{folder}: expected a run on SyncMNIST (its data are {config.data.dataset})")
    path = folder / "checkpoints" / "best.ckpt"
    model = build_model(config, config.data.num_classes * (config.data.num_classes - 1) // 2 + 1)
    load_weights(model, read_weights(path, config)["state_dict"], path)
    parts = folder.resolve().parts[-2:]
    name = config.name if config.name in parts else parts[-1]
    return Trained(f"{name}, seed {config.seed}", config, model.eval())


def accuracy_by_videos(folder: Path, config: Config) -> dict[str, list[float]]:
    """Validation accuracy by the number of videos seen, from ``metrics.csv``."""
    try:
        if not (folder / "metrics.csv").is_file():
            raise ValueError("there is no such file")
        with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == "val"]
        if not rows:
            raise ValueError("it has no row of a validation")
        return {
            "videos": [int(row["step"]) * config.train.batch_size for row in rows],
            "top1": [float(row["top1"]) for row in rows],
        }
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as e:
        raise UserError(f"{folder / 'metrics.csv'}: not the metrics of a run ({e})") from e


@torch.no_grad()
def predict(trained: Trained, videos: Videos) -> Tensor:
    """The predicted class of every video, ``[B]``."""
    parts = videos.clips.split(_BATCH)
    return torch.cat([trained.model(normalize(part, trained.config)).argmax(-1) for part in parts])


def pair_distance(videos: Videos, config: Config) -> Tensor:
    """The distance of the pair, mean over the frames, as a share of the canvas' side, ``[B]``."""
    pair = videos.corners[:, :, :2].float()  # [B, T, 2, 2]
    return (pair[:, :, 0] - pair[:, :, 1]).norm(dim=-1).mean(dim=1) / config.data.canvas_size


def by_distance(distance: Tensor, correct: Tensor, bins: int = _BINS) -> list[dict[str, float]]:
    """Accuracy in bins of the distance with as many videos each as can be.

    Returns:
        For each bin ``low``, ``high``, ``distance`` (mean), ``videos``, ``top1``, ``error`` (standard
        error).
    """
    ranked = distance.argsort(stable=True)
    out = []
    for part in ranked.tensor_split(min(bins, len(ranked))) if len(ranked) else ():
        share = float(correct[part].double().mean())
        out.append(
            {
                "low": float(distance[part].min()),
                "high": float(distance[part].max()),
                "distance": float(distance[part].mean()),
                "videos": len(part),
                "top1": share,
                "error": math.sqrt(share * (1 - share) / len(part)),
            }
        )
    return out


def attention_over_time(trained: Trained, videos: Videos) -> dict[str, Any] | None:
    """Attention that regions with a digit of the pair get, and regions with another digit, by frame.

    Regions are those of the finest scale, and the attention is a multiple of an even share (see
    :meth:`~rstg_pyg.train.drawing.overlay.Attention.relative`). Regions that hold digits of both
    kinds do not count. Synchronous videos only.

    Returns:
        ``pair``, ``others`` and ``empty``, each with ``mean`` and ``error`` (standard error) by frame;
        ``videos``; ``rounds``. None if no node of the network's graph sends messages.
    """
    try:
        find_graph(trained.model)
    except UserError:
        return None
    chosen = videos.synchronous.nonzero().view(-1)[:_ATTENTION_VIDEOS]
    kinds: dict[str, list[Tensor]] = {"pair": [], "others": [], "empty": []}
    for i in chosen.tolist():
        clip = normalize(videos.clips[i], trained.config)
        found = attention(trained.model, clip)
        parts = split_attention(found, places(videos.corners[i], trained.config))
        for kind, values in zip(kinds, parts):
            kinds[kind].append(values)
    if not len(chosen):
        return None
    out: dict[str, Any] = {"videos": len(chosen), "rounds": found.rounds}
    for kind, values in kinds.items():
        stacked = torch.stack(values).double()  # [videos, T], NaN where nothing counts
        number = (~stacked.isnan()).sum(0)
        mean = stacked.nanmean(0)
        squares = (stacked - mean).square().nansum(0) / (number - 1).clamp(min=1)
        error = (squares / number.clamp(min=1)).sqrt()
        out[kind] = {"mean": _plain(mean), "error": _plain(error), "counted": number.tolist()}
    return out


def _plain(values: Tensor) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]


def places(corners: Tensor, config: Config) -> Tensor:
    """Where digits are on the last map of the filters, as shares of its side from 0 to 1.

    Args:
        corners: Row and column of their top-left pixels on the canvas, ``[T, D, 2]``.
        config: The experiment. Without padding, a map's first cell looks at the inside of the frame.

    Returns:
        ``[T, D, 2]``, row and column
    """
    data, backbone = config.data, config.model.backbone
    pixels = (corners.float() + data.digit_size / 2) * (data.frame_size / data.canvas_size)
    if backbone.kind != "simple_conv":
        return pixels / data.frame_size
    side, first, stride = backbone.maps(data.frame_size)[-1]
    return (((pixels - first) / stride + 0.5) / side).clamp(0, 1)


def split_attention(found: Attention, centers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean attention of the regions with the pair, with other digits, and with none, by frame.

    Args:
        found: The attention of a clip with ``T`` frames.
        centers: Where digits are, the pair first, ``[T, D, 2]`` (row, column) in 0..1.

    Returns:
        Three tensors ``[T]``, NaN where there is no such region.
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
    """Validation accuracy against the number of videos seen."""
    figure, axes = _figure("training videos seen", "validation top-1, %")
    for color, (name, curve) in zip(_colors(len(curves)), curves.items()):
        axes.plot(curve["videos"], [100 * x for x in curve["top1"]], ".-", color=color, label=name)
    axes.set_ylim(0, 101)
    axes.set_xlim(left=0)
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    return figure


def draw_distance(found: dict[str, list[dict[str, float]]]) -> Figure:
    """Accuracy against the distance of the pair."""
    figure, axes = _figure("distance of the pair, share of the canvas' side", "test top-1, %")
    for color, (name, bins) in zip(_colors(len(found)), found.items()):
        axes.errorbar(
            [b["distance"] for b in bins],
            [100 * b["top1"] for b in bins],
            [100 * b["error"] for b in bins],
            fmt="o-",
            ms=4,
            capsize=2,
            color=color,
            label=name,
        )
    axes.set_ylim(0, 101)
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    return figure


def draw_attention(found: dict[str, Any], name: str) -> Figure:
    """Attention on the pair, on the other digits and on empty regions, by frame."""
    figure, axes = _figure("frame", "attention received, multiple of an even share")
    words = {"pair": "the synchronous pair", "others": "other digits", "empty": "regions without digit"}
    for color, (kind, label) in zip(_COLORS, words.items()):
        mean, error = (
            [math.nan if value is None else value for value in found[kind][key]]
            for key in ("mean", "error")
        )
        frames = range(1, len(mean) + 1)
        axes.errorbar(frames, mean, error, fmt="o-", ms=4, capsize=2, color=color, label=label)
    axes.axhline(1, color="#bbbbbb", linewidth=0.8)
    axes.set_title(
        f"{name}; {found['videos']} test videos, mean of {found['rounds']} rounds", fontsize=10
    )
    axes.legend(frameon=False, fontsize=9)
    return figure


def _figure(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure((6.4, 4.2), dpi=130, facecolor="white", layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#e8e8e8", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _colors(count: int) -> list[str]:
    return [_COLORS[i % len(_COLORS)] for i in range(count)]


def _write(path: Path, figure: Figure) -> None:
    write_atomically(path, lambda temporary: FigureCanvasAgg(figure).print_png(str(temporary)))
