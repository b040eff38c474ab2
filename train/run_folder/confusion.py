"""Per-class accuracy and confusion (two tables and a picture in the run folder), and curves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rstg_pyg.train.files import write_csv
from rstg_pyg.train.plots import COLORS, legend_below, new_figure, save_png
from rstg_pyg.train.run_folder.metrics import MetricsFile

_MOST_NUMBERS = 60  # with more classes, cells have no numbers
_MOST_NAMES = 400  # with more classes, rows have no names
_MOST_CHARACTERS = 60

Counts = NDArray[np.int64]


def write_confusion(folder: Path, counts: Counts, names: list[str], title: str) -> None:
    """Writes ``per_class.csv``, ``confusion.csv`` and ``confusion.png``, each atomically.

    Args:
        folder: The run folder.
        counts: Number of videos by true class (row) and predicted class (column), ``[n, n]``.
        names: The class names.
        title: The title of the picture.

    Raises:
        UserError: If a file cannot be written.
    """
    rows = [
        {"true class \\ predicted": n, **dict(zip(names, c))} for n, c in zip(names, counts.tolist())
    ]
    write_csv(folder / "per_class.csv", per_class(counts, names))
    write_csv(folder / "confusion.csv", rows)
    save_png(draw_confusion(counts, names, title), folder / "confusion.png")


def per_class(counts: Counts, names: list[str]) -> list[dict[str, Any]]:
    """One row for every class.

    The accuracy is empty for a class without videos; "most confused with" is empty if all its videos
    are classified correctly.
    """
    rows = []
    for i, name in enumerate(names):
        videos, correct = int(counts[i].sum()), int(counts[i, i])
        wrong = counts[i].copy()
        wrong[i] = 0
        rows.append(
            {
                "class": name,
                "videos": videos,
                "correct": correct,
                "accuracy": f"{correct / videos:.4f}" if videos else "",
                "most confused with": names[wrong.argmax()] if wrong.any() else "",
            }
        )
    return rows


def write_precisions(folder: Path, precisions: list[float], names: list[str]) -> None:
    """Writes ``per_class.csv`` where videos have several labels: the average precision of each class,
    empty for a class without videos.

    Raises:
        UserError: If the file cannot be written.
    """
    texts = ["" if math.isnan(x) else f"{x:.4f}" for x in precisions]
    rows = [{"class": name, "average precision": text} for name, text in zip(names, texts)]
    write_csv(folder / "per_class.csv", rows)


def draw_confusion(counts: Counts, names: list[str], title: str) -> Figure:
    """Draws the confusion matrix, for any number of classes.

    Every row is a class; its cells are percentages of its videos: correct ones blue, wrong ones red
    (small values are enhanced). A gray row has no videos.
    """
    count, videos = len(names), counts.sum(axis=1, keepdims=True)
    shares = 100 * counts / np.maximum(videos, 1)
    shown = np.where(np.eye(count, dtype=bool), shares, -10 * np.sqrt(shares))
    numbers, named = count <= _MOST_NUMBERS, count <= _MOST_NAMES
    cell = 0.36 if count <= 30 else 0.28 if numbers else 0.105 if named else 24 / count  # inches
    font = 9.0 if count <= 30 else 7.5 if numbers else 5.6
    short = [n if len(n) <= _MOST_CHARACTERS else f"{n[:_MOST_CHARACTERS]}..." for n in names]
    margin = 0.0079 * font * (max(map(len, short)) + 7) if named else 0  # inches, for the names
    side = max(cell * count + margin + 1, 6)
    figure, (axes,) = new_figure(side, side)
    axes.grid(visible=False)
    empty = np.broadcast_to(videos == 0, counts.shape)
    axes.imshow(np.ma.masked_where(empty, shown), cmap="RdBu", vmin=-100, vmax=100)
    axes.set_facecolor("#e9e9e9")
    axes.set_xticks(range(count) if named else [], short if named else None, fontsize=font, rotation=90)
    labels = [f"{name} ({n})" for name, n in zip(short, videos[:, 0])]
    axes.set_yticks(range(count) if named else [], labels if named else None, fontsize=font)
    for y, x in zip(*counts.nonzero()) if numbers else ():
        color = "white" if abs(shown[y, x]) > 60 else "#333333"
        text = f"{shares[y, x]:.0f}"
        axes.text(x, y, text, ha="center", va="center", fontsize=font - 1.5, color=color)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true class (videos)")
    figure.suptitle(title, weight="bold")
    return figure


def write_curves(metrics: Path) -> None:
    """Draws ``curves.png`` from ``metrics.csv``: loss, accuracy and learning rate over the steps.

    Raises:
        UserError: If the table is damaged, or the picture cannot be written.
    """
    rows = MetricsFile(metrics).rows()
    figure, panels = new_figure(13, 4.3, 3)
    columns = {"loss": (0, 1, "-"), "top1": (1, 100, "-"), "top5": (1, 100, ":"), "mAP": (1, 100, "-")}
    columns["lr"] = (2, 1, "-")
    for split, color in (("train", COLORS[1]), ("val", COLORS[0])):
        for column, (panel, factor, style) in columns.items():
            found = [row for row in rows if row["split"] == split and row.get(column)]
            steps = [int(row["step"]) for row in found]
            values = [factor * float(row[column]) for row in found]
            if found:
                label = f"{split}, {column}"
                panels[panel].plot(steps, values, style, color=color, marker=".", label=label)
    for axes, title in zip(panels, ("loss", "accuracy, %", "learning rate")):
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("step")
        axes.set_ylim(bottom=0)
        axes.ticklabel_format(axis="y", scilimits=(-3, 4))
        if axes.lines:
            legend_below(axes)
    panels[1].set_ylim(0, 101)
    save_png(figure, metrics.with_name("curves.png"))
