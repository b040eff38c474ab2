"""The style of all plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rstg_pyg.train.files import write_atomically

COLORS = ("#c8553d", "#4a6d8c", "#7a9e5f", "#b08a3e", "#8a6fa0", "#5b5b5b")


def new_figure(
    width: float, height: float, panels: int = 1, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure and its panels, side by side.

    Args:
        width: In inches.
        height: In inches.
        panels: The number of panels.
        **options: Of matplotlib's ``Figure.subplots``.
    """
    figure = Figure((width, height), dpi=130, layout="constrained")
    all_axes = list(figure.subplots(1, panels, squeeze=False, **options)[0])
    for axes in all_axes:
        axes.set_prop_cycle(color=COLORS)
        axes.grid(color="#e8e8e8", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, all_axes


def legend_below(axes: Axes) -> None:
    """A legend below the panel, where it hides nothing."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False, fontsize=8)


def save_png(figure: Figure, path: Path) -> None:
    """Writes a figure atomically.

    Raises:
        UserError: If the file cannot be written.
    """
    write_atomically(path, lambda part: figure.savefig(part, format="png"))
