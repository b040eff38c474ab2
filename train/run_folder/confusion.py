"""Per-class accuracy and confusion (two tables and a picture in the run folder), and curves."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rstg_pyg.train.files import write_atomically, write_text

_DPI = 130
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
    header = ["true class \\ predicted", *names]
    rows = [[name, *row] for name, row in zip(names, counts.tolist())]
    write_text(folder / "per_class.csv", _csv(per_class(counts, names)))
    write_text(folder / "confusion.csv", _csv([header, *rows]))
    figure = draw_confusion(counts, names, title)
    write_atomically(folder / "confusion.png", lambda path: _save(figure, path))


def per_class(counts: Counts, names: list[str]) -> list[list[str | int]]:
    """A header and one row for every class.

    The accuracy is empty for a class without videos; "most confused with" is empty if all its videos
    are classified correctly.
    """
    rows: list[list[str | int]] = [["class", "videos", "correct", "accuracy", "most confused with"]]
    for i, name in enumerate(names):
        videos, correct = int(counts[i].sum()), int(counts[i, i])
        wrong = counts[i].copy()
        wrong[i] = 0
        accuracy = f"{correct / videos:.4f}" if videos else ""
        rows.append([name, videos, correct, accuracy, names[wrong.argmax()] if wrong.any() else ""])
    return rows


def _csv(rows: list[list]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def draw_confusion(counts: Counts, names: list[str], title: str) -> Figure:
    """Draws the confusion matrix, for any number of classes.

    Every row is a class; its cells are percentages of its videos: correct ones blue, wrong ones red
    (small values are enhanced). A gray row has no videos.
    """
    count = len(names)
    videos = counts.sum(axis=1)
    shares = 100 * counts / np.maximum(videos, 1)[:, None]
    numbers, named = count <= _MOST_NUMBERS, count <= _MOST_NAMES
    cell = 0.36 if count <= 30 else 0.28 if numbers else 0.105 if named else 24 / count  # inches
    font = 9.0 if count <= 30 else 7.5 if numbers else 5.6
    short = [n if len(n) <= _MOST_CHARACTERS else f"{n[:_MOST_CHARACTERS]}..." for n in names]
    longest = max(map(len, short)) + 7 if named else 0
    side = max(cell * count, 2.2)
    left = 0.45 + longest * font * 0.0079  # inches: a character is about 0.55 of the font's height wide
    width, height = left + side + 1.0, left + side + 0.8
    figure = Figure((width, height), dpi=_DPI, facecolor="white")
    axes = figure.add_axes((left / width, left / height, side / width, side / height))
    right = np.eye(count, dtype=bool)
    wrong = np.ma.masked_where(right | (counts == 0), shares)
    axes.imshow(np.ma.masked_where(~right, shares), cmap="Blues", vmin=0, vmax=100)
    image = axes.imshow(wrong, cmap="Reds", norm=PowerNorm(0.5, 0, 100))
    for row in np.flatnonzero(videos == 0):
        axes.axhspan(row - 0.5, row + 0.5, color="#e9e9e9")
    if named:
        axes.set_xticks(range(count), short, fontsize=font, rotation=90)
        axes.set_yticks(
            range(count), [f"{n} ({k})" for n, k in zip(short, videos.tolist())], fontsize=font
        )
        axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="#e3e7ec", linewidth=0.6 if numbers else 0.25)
        axes.tick_params(which="both", length=0, pad=3)
    for spine in axes.spines.values():
        spine.set_color("#9aa3ad")
    for y, x in zip(*counts.nonzero()) if numbers else ():
        dark = shares[y, x] > (60 if y == x else 40)
        axes.text(
            x, y, f"{shares[y, x]:.0f}", ha="center", va="center", fontsize=font - 1.5,
            color="white" if dark else "#333333",
        )  # fmt: skip
    axes.set_xlabel("predicted", fontsize=font + 3)
    axes.set_ylabel("true class (videos)", fontsize=font + 3)
    large = max(10.0, min(20.0, width))
    figure.text(0.5, 1 - 0.35 / height, title, ha="center", va="center", fontsize=large, weight="bold")
    length = min(side, 5.0)
    bar = figure.add_axes(
        (1 - 0.85 / width, (left + side - length) / height, 0.15 / width, length / height)
    )
    figure.colorbar(image, cax=bar, label="wrong, % of the class", ticks=[1, 5, 10, 25, 50, 100])
    bar.tick_params(labelsize=8)
    return figure


def write_curves(metrics: Path) -> None:
    """Draws ``curves.png`` from ``metrics.csv``: loss, accuracy and learning rate over the steps.

    Raises:
        UserError: If the picture cannot be written.
    """
    with open(metrics, newline="") as file:
        rows = list(csv.DictReader(file))
    figure = Figure((13, 3.9), dpi=_DPI, facecolor="white", layout="constrained")
    loss, accuracy, rate = figure.subplots(1, 3)
    colors = {"train": "#7aa6c2", "val": "#c8553d"}
    words = {"train": "training", "val": "validation"}
    for split, color in colors.items():
        mine = [row for row in rows if row["split"] == split]
        steps = [int(row["step"]) for row in mine]
        style = {"color": color, "marker": "o" if len(steps) < 40 else None, "markersize": 3}
        loss.plot(steps, _numbers(mine, "loss"), label=words[split], **style)
        accuracy.plot(steps, _numbers(mine, "top1", 100), label=f"{words[split]}, top-1", **style)
        style["linestyle"] = ":"
        accuracy.plot(steps, _numbers(mine, "top5", 100), label=f"{words[split]}, top-5", **style)
        if split == "train":
            rate.plot(steps, _numbers(mine, "lr"), color="#4a4a4a")
    loss.set_ylim(bottom=0)
    accuracy.set_ylim(0, 101)
    rate.set_ylim(bottom=0)
    for axes, title in ((loss, "loss"), (accuracy, "accuracy, %"), (rate, "learning rate")):
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("step")
        axes.grid(color="#e8e8e8", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.ticklabel_format(axis="y", scilimits=(-3, 4))
    loss.legend(frameon=False)
    accuracy.legend(frameon=False, fontsize=8, loc="lower right")
    write_atomically(metrics.with_name("curves.png"), lambda path: _save(figure, path))


def _numbers(rows: list[dict[str, str]], key: str, factor: float = 1.0) -> list[float]:
    return [factor * float(row[key]) if row.get(key) else float("nan") for row in rows]


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure).print_png(str(path))
