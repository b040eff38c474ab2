"""What a predictor gives: classes with probabilities, of a video or over time; tables and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import write_csv, write_json

_MOST_LINES = 6  # classes in a picture, as there are colors
COLUMNS = ("video", "start", "end", "rank", "class", "name", "probability", "error")


class Prediction(NamedTuple):
    """A class and its probability.

    Attributes:
        label: The class index.
        name: The class name.
        probability: Its probability: softmax over all classes, or sigmoid if videos have several.
    """

    label: int
    name: str
    probability: float


class Window(NamedTuple):
    """The classes of a part of a video.

    Attributes:
        start: Where it begins, in seconds.
        end: Where it ends, in seconds.
        predictions: The classes, most likely first.
    """

    start: float
    end: float
    predictions: list[Prediction]


class Windows(list[Window]):
    """The windows of a video, in order."""

    def save(self, path: str | Path, top: int | None = None) -> None:
        """Writes the classes over time.

        Args:
            path: A file: ``.csv`` (a row for every window and class), ``.json``, or ``.png`` (the
                probabilities of the likeliest classes over time).
            top: Classes of a window in a table. (default: all)

        Raises:
            UserError: If the file cannot be written, or its name ends otherwise.
        """
        path = Path(path)
        if path.suffix == ".png":
            draw_windows(self, path)
        elif path.suffix == ".json":
            write_json(path, {"windows": self.entries(top)})
        elif path.suffix == ".csv":
            write_table(path, [{"windows": self.entries(top)}])
        else:
            raise UserError(f"{path}: expected a name ending in .csv, .json or .png")

    def entries(self, top: int | None = None) -> list[dict[str, Any]]:
        """The windows as JSON holds them."""
        return [
            {"start": start, "end": end, "predictions": entries(found[:top])}
            for start, end, found in self
        ]


def entries(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Predictions as JSON holds them."""
    return [{"class": i, "name": name, "probability": p} for i, name, p in predictions]


def write_table(path: Path, answers: Sequence[dict[str, Any]]) -> None:
    """Writes a row for every class of every video or window.

    Args:
        path: The file.
        answers: Videos with ``predictions``, ``windows`` or an ``error``.
    """
    rows: list[dict[str, Any]] = []
    for answer in answers:
        for part in answer.get("windows", [answer]):
            for rank, entry in enumerate(part.get("predictions", []), 1):
                rows.append({**answer, **part, **entry, "rank": rank})
        if "error" in answer:
            rows.append(answer)
    write_csv(path, rows, COLUMNS)


def draw_windows(windows: Sequence[Window], path: Path) -> None:
    """Draws the probabilities over time of the likeliest classes."""
    from rstg_pyg.train.plots import new_figure, save_png

    series = [{p.name: p.probability for p in window.predictions} for window in windows]
    highest = {name: max(values[name] for values in series) for name in series[0]}
    middle = [(window.start + window.end) / 2 for window in windows]
    figure, [axes] = new_figure(11, 4.4)
    for name in sorted(highest, key=highest.__getitem__, reverse=True)[:_MOST_LINES]:
        line = [100 * values[name] for values in series]
        axes.plot(middle, line, marker="o", markersize=3, label=name[:60])
    axes.set_ylim(0, 101)
    axes.set_xlabel("seconds (middle of the window)")
    axes.set_ylabel("probability, %")
    figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    save_png(figure, path)
