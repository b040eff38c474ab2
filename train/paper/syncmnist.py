"""The SyncMNIST table: the paper's rows, and what was measured here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from rstg_pyg.train.files import write_text
from rstg_pyg.train.paper.cells import NOT_MEASURED, Cell, read_cell, settings
from rstg_pyg.train.plots import COLORS, new_figure, save_png
from rstg_pyg.train.text_tables import as_markdown


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        name: The name of its config, ``syncmnist/NAME.yaml``; for an ablation ``ours-CHANGE``.
        title: The paper's name for it.
        paper: The paper's top-1 in percent, by number of digits.
        what: A short description.
        overrides: Overrides of the config.
    """

    name: str
    title: str
    paper: dict[int, float]
    what: str
    overrides: tuple[str, ...] = ()

    @property
    def cfg(self) -> str:
        """The config."""
        return f"syncmnist/{self.name.partition('-')[0]}.yaml"


DIGITS = (3, 5)

_ROWS = [
    Row("mean_lstm", "Mean + LSTM", {3: 77.0}, "spatial mean of the features, LSTM over time"),
    Row("conv_lstm", "Conv + LSTM", {3: 95.0, 5: 39.7}, "flattened features, LSTM over time"),
    Row("i3d", "I3D", {5: 90.6}, "3-D convolutions"),
    Row("non_local", "Non-Local", {5: 93.5}, "the same with non-local blocks"),
    Row("space_only", "RSTG: Space-Only", {3: 61.3}, "messages, no time stage"),
    Row("time_only", "RSTG: Time-Only", {3: 89.7}, "time stages, no messages"),
    Row("homogeneous", "RSTG: Homogeneous", {3: 95.7, 5: 58.3}, "time treated like space, no LSTM"),
    Row("one_temporal_stage", "RSTG: 1-temp-stage", {3: 97.0, 5: 74.1}, "one time stage at the end"),
    Row("all_temporal_stages", "RSTG: All-temp-stages", {3: 98.9, 5: 94.5}, "also one in every round"),
    Row("positional", "RSTG: Positional All-temp", {5: 97.2}, "the same, positions in the messages"),
    Row("ours", "Ours", {}, "positional, separate weights for each round; see the config"),
]

#: The rows of the table by name, in the paper's order; ours is the last.
ROWS: dict[str, Row] = {row.name: row for row in _ROWS}

#: Single changes of "Ours": a description and the overrides.
_CHANGES = {
    "no_residual": ("stages replace the nodes", "model.rstg.residual=false model.rstg.out_norm=null"),
    "shared_rounds": ("rounds share their weights", "model.rstg.shared_rounds=true"),
    "one_round": ("one round", "model.rstg.num_rounds=1"),
    "two_rounds": ("two rounds", "model.rstg.num_rounds=2"),
    "three_rounds": ("three rounds", "model.rstg.num_rounds=3"),
    "no_positions": ("no positions in the messages", "model.rstg.positions=false"),
    "padding": ("zero padding in the filters", "model.backbone.padding=1"),
    "residual": ("residual pre-norm stages", "model.rstg.residual=true model.rstg.out_norm=layer"),
    "one_time_stage": ("one time stage, at the end", "model.rstg.time_stages=last"),
    "all_time_stages": ("also a time stage in every round", "model.rstg.time_stages=all"),
    "no_pretraining": ("no pre-training", "pretrain.steps=0"),
    "dot_attention": ("dot attention", "model.rstg.attention=dot"),
    "mean": ("no attention, the mean", "model.rstg.attention=null"),
    "four_heads": ("four heads of attention", "model.rstg.heads=4"),
    "complete": ("messages between all nodes", "model.rstg.topology=complete"),
    "finest_scale": ("only the finest scale", "model.rstg.scales=[3]"),
    "gru": ("GRU cells", "model.rstg.cell=gru"),
    "no_in_norm": ("no batch norm before the graph", "model.rstg.in_norm=null"),
    "no_out_norm": ("no norm of the vector", "model.rstg.out_norm=null"),
    "typed_update": ("separate update weights for each scale", "model.rstg.typed_update=true"),
}

#: "Ours" with one change, by the name of the change.
ABLATIONS: dict[str, Row] = {
    name: Row(f"ours-{name}", what, {}, overrides, tuple(overrides.split()))
    for name, (what, overrides) in _CHANGES.items()
}

_PAPERS_VIDEOS = {"num_classes": 10, "num_frames": 10, "frame_size": 64, "canvas_size": 100}
_PAPERS_VIDEOS |= {"digit_size": 28, "max_step": 10}

#: By name of the row and number of digits.
Cells = dict[tuple[str, int], Cell]


def run_folder(out: Path, digits: int, row: Row, seed: int) -> Path:
    """The folder of a run of the table."""
    return out / f"{digits}digits" / row.name / f"seed{seed}"


def read_cells(out: Path) -> Cells:
    """The cells that have results.

    Raises:
        UserError: If a file is damaged, or runs of a cell differ in more than the seed.
    """
    cells = {}
    for digits, row in product(DIGITS, [*ROWS.values(), *ABLATIONS.values()]):
        cell = read_cell(row, run_folder(out, digits, row, 0).parent)
        if cell is not None:
            cells[row.name, digits] = cell
    return cells


def write_table(out: Path, size: str) -> str:
    """Writes ``table.md`` and ``table.png``; returns the Markdown.

    Raises:
        UserError: See :func:`read_cells`; or if a file cannot be written.
    """
    cells = read_cells(out)
    text = page(cells, size)
    save_png(draw(cells, size), out / "table.png")
    write_text(out / "table.md", text)
    return text


def page(cells: Cells, size: str) -> str:
    """The table, the comparison of its order with the paper's, the ablation, and the settings."""
    rows = []
    for row in ROWS.values():
        mine = [cells[row.name, digits] for digits in DIGITS if (row.name, digits) in cells]
        line: dict[str, Any] = {"model": row.title}
        for digits in DIGITS:
            line[f"{digits} digits, paper"] = row.paper.get(digits, "-")
            line[f"{digits} digits, here"] = cells.get((row.name, digits), NOT_MEASURED)
        counts = dict.fromkeys(f"{cell.runs[0].parameters:,}" for cell in mine)
        line["parameters"] = " / ".join(counts)
        line["minutes"] = " / ".join(f"{cell.seconds / 60:.1f}" for cell in mine)
        rows.append({**line, "what it is": row.what})
    lines = [f"# SyncMNIST, size {size}", "", as_markdown(rows, right=list(rows[0])[1:-1]), ""]
    lines += ["Top-1 in percent, ± standard deviation over seeds.", *_other_videos(cells), ""]
    for digits in DIGITS:
        found = order(cells, digits)
        if found:
            lines += [f"## The order, {digits} digits", "", *(f"- {line}" for line in found), ""]
        rows = ablation(cells, digits)
        if rows:
            table = as_markdown(rows, right=("top-1", "difference", "minutes"))
            lines += [f"## Ours with one change, {digits} digits", "", table, ""]
    return "\n".join([*lines, *_settings(cells), ""])


def _other_videos(cells: Cells) -> list[str]:
    """A note if the videos differ from the paper's."""
    for cell in cells.values():
        data = cell.runs[0].config.data
        changed = [
            f"{k}={getattr(data, k)}" for k, v in _PAPERS_VIDEOS.items() if getattr(data, k) != v
        ]
        if changed:
            return [
                f"The videos differ from the paper's ({', '.join(changed)}): compare the order of the "
                f"rows, not the numbers."
            ]
    return []


def pooled_spread(cells: Iterable[Cell]) -> float | None:
    """The standard deviation over seeds, pooled over the cells with several."""
    several = [cell.values for cell in cells if len(cell.runs) > 1]
    squares = sum(statistics.variance(values) * (len(values) - 1) for values in several)
    freedom = sum(len(values) - 1 for values in several)
    return math.sqrt(squares / freedom) if freedom else None


def order(cells: Cells, digits: int) -> list[str]:
    """Whether adjacent rows in the paper's order have the same order here: one sentence per pair.

    A difference counts if it is more than two standard errors.
    """
    here = [cell for (name, d), cell in cells.items() if d == digits and name in ROWS]
    spread = pooled_spread(here)
    ranked = sorted((c for c in here if digits in c.row.paper), key=lambda c: c.row.paper[digits])
    pairs = list(zip(ranked, ranked[1:]))
    if {("positional", digits), ("ours", digits)} <= cells.keys():
        pairs.append((cells["positional", digits], cells["ours", digits]))
    lines = []
    for low, high in pairs:
        difference = high.mean - low.mean
        error = math.hypot(low.standard_error(spread), high.standard_error(spread))
        verdict = "within the noise" if abs(difference) <= 2 * error else "holds"
        verdict = "reversed" if difference < -2 * error else verdict
        lines.append(
            f"{high.row.title} above {low.row.title}: {verdict} ({difference:+.1f} points, standard "
            f"error {error:.1f})"
        )
    if lines and spread is None:
        lines.append("One seed each: the standard errors only account for the test videos.")
    return lines


def ablation(cells: Cells, digits: int) -> list[dict[str, Any]]:
    """The model "Ours" with one change each, as rows of a table; empty if none is measured."""
    ours = cells.get(("ours", digits))
    found = [cells[r.name, digits] for r in ABLATIONS.values() if (r.name, digits) in cells]
    rows = []
    for cell in [*([] if ours is None else [ours]), *found] if found else []:
        difference = NOT_MEASURED if ours is None else f"{cell.mean - ours.mean:+.1f}"
        rows.append(
            {
                "change": "none" if cell is ours else cell.row.title,
                "top-1": cell,
                "difference": "" if cell is ours else difference,
                "minutes": f"{cell.seconds / 60:.1f}",
                "override": "" if cell is ours else f"`{cell.row.what}`",
            }
        )
    return rows


def _settings(cells: Cells) -> list[str]:
    """The settings of the runs, as lines of Markdown."""
    runs = [run for cell in cells.values() for run in cell.runs]
    if not runs:
        return [f"Nothing is measured yet: every cell is '{NOT_MEASURED}'."]
    return settings(runs, {"training videos": [_training_videos(run.config) for run in runs]})


def _training_videos(config: Any) -> str:
    times = f", {config.train.epochs} times" if config.train.epochs > 1 else ""
    return f"{config.data.train_videos:,}{times}"


def draw(cells: Cells, size: str) -> Figure:
    """Plots every run as a dot, means as bars, the paper's numbers as diamonds."""
    rows = list(ROWS.values())
    figure, panels = new_figure(11, 4.6, len(DIGITS), sharey=True)
    here, papers = COLORS[:2]
    for axes, digits in zip(panels, DIGITS):
        for y, row in enumerate(rows):
            cell = cells.get((row.name, digits))
            if cell is not None:
                axes.barh(y, cell.mean, height=0.62, color="#f1d5cd")
                axes.plot(cell.values, [y] * len(cell.values), "o", color=here, ms=5)
            axes.text(1.5, y, str(cell or NOT_MEASURED), va="center", fontsize=8)
            if digits in row.paper:
                axes.plot(row.paper[digits], y, "D", mfc="white", mec=papers, ms=6)
        axes.set_yticks(range(len(rows)), [row.title for row in rows])
        axes.set(xlim=(0, 102), xlabel="top-1, %", title=f"{digits} digits (size {size})")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.plot([], [], "o", color=here, label="a run")
    axes.plot([], [], "D", mfc="white", mec=papers, label="paper")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure
