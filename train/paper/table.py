"""The SyncMNIST table with the paper's numbers, generated only from the ``results.json`` of runs."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from rstg_pyg.train.config import to_dict
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import write_atomically, write_text
from rstg_pyg.train.paper.many_runs import experiment_differences
from rstg_pyg.train.paper.rows import ABLATIONS, DIGITS, ROWS, Row
from rstg_pyg.train.report import Run, read_run

NOT_MEASURED = "not measured"
_PAPERS_VIDEOS = {"num_classes": 10, "num_frames": 10, "frame_size": 64, "canvas_size": 100}
_PAPERS_VIDEOS |= {"digit_size": 28, "max_step": 10}
_COLORS = {"here": "#c8553d", "paper": "#4a6d8c"}


@dataclass(frozen=True)
class Cell:
    """The runs of a row with one number of digits, which differ only in their seeds."""

    row: Row
    runs: list[Run]

    @property
    def values(self) -> list[float]:
        """Top-1 of every run, in percent."""
        return [100 * run.top1 for run in self.runs]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds, if there are several."""
        return statistics.stdev(self.values) if len(self.runs) > 1 else None

    @property
    def seconds(self) -> float:
        """Mean time of a run."""
        return statistics.fmean(run.seconds for run in self.runs)

    def text(self) -> str:
        """``94.1``, or ``94.1 ± 0.6 (2 seeds)``."""
        if self.spread is None:
            return f"{self.mean:.1f}"
        return f"{self.mean:.1f} ± {self.spread:.1f} ({len(self.runs)} seeds)"

    def standard_error(self, spread: float | None) -> float:
        r"""The standard error of the mean, in points, from :math:`n` test videos and the seeds.

        .. math:: \sqrt{p (1 - p) / n + s^2 / k}

        with :math:`s` the standard deviation over seeds, pooled over the table, and :math:`k` seeds.
        (All seeds use the same test videos.)
        """
        share = self.mean / 100
        squared = 1e4 * share * (1 - share) / self.runs[0].num_videos
        return math.sqrt(squared + (0.0 if spread is None else spread**2 / len(self.runs)))


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
        folder = run_folder(out, digits, row, 0).parent
        runs = [read_run(path.parent) for path in sorted(folder.glob("seed*/results.json"))]
        runs.sort(key=lambda run: run.seed)
        for run in runs[1:]:
            changed = experiment_differences(*(_experiment(r) for r in (runs[0], run)))
            if changed:
                raise UserError(
                    f"{folder}: the runs of a row must differ only in the seed; they differ in "
                    f"{', '.join(changed[:3])}"
                )
        if runs:
            cells[row.name, digits] = Cell(row, runs)
    return cells


def _experiment(run: Run) -> dict[str, Any]:
    return to_dict(run.config) | {"seed": 0, "digits": run.data, "steps": run.steps}


def write_table(out: Path, size: str) -> str:
    """Writes ``table.md``, ``table.csv`` and ``table.png``; returns the Markdown.

    Raises:
        UserError: See :func:`read_cells`; or if a file cannot be written.
    """
    cells = read_cells(out)
    text = markdown(cells, size)
    write_text(out / "table.csv", as_csv(cells))
    figure = draw(cells, size)
    write_atomically(out / "table.png", lambda path: figure.savefig(path, format="png"))
    write_text(out / "table.md", text)
    return text


def markdown(cells: Cells, size: str) -> str:
    """The table, the comparison of its order with the paper's, the ablation, and the settings."""
    head = ["model"]
    for digits in DIGITS:
        head += [f"{digits} digits, paper", f"{digits} digits, here"]
    lines = [
        f"# SyncMNIST, size {size}",
        "",
        f"| {' | '.join([*head, 'parameters', 'minutes', 'what it is'])} |",
        f"|---|{'---:|' * (len(head) + 1)}---|",
    ]
    for row in ROWS.values():
        texts, mine = [row.title], []
        for digits in DIGITS:
            cell = cells.get((row.name, digits))
            mine += [] if cell is None else [cell]
            texts += [f"{row.paper[digits]:.1f}" if digits in row.paper else "-"]
            texts += [NOT_MEASURED if cell is None else cell.text()]
        counts = dict.fromkeys(f"{cell.runs[0].parameters:,}" for cell in mine)
        minutes = " / ".join(f"{cell.seconds / 60:.1f}" for cell in mine)
        lines.append(f"| {' | '.join([*texts, ' / '.join(counts), minutes, row.what])} |")
    lines += ["", "Top-1 in percent, ± standard deviation over seeds.", *_comparable(cells), ""]
    for digits in DIGITS:
        found = order(cells, digits)
        if found:
            lines += [f"## The order, {digits} digits", "", *(f"- {line}" for line in found), ""]
        lines += ablation(cells, digits)
    return "\n".join([*lines, *_measured(cells)]).rstrip() + "\n"


def _comparable(cells: Cells) -> list[str]:
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


def pooled_spread(cells: Sequence[Cell]) -> float | None:
    """The standard deviation over seeds, pooled over the cells with several."""
    squares = [statistics.variance(c.values) * (len(c.runs) - 1) for c in cells if len(c.runs) > 1]
    freedom = sum(len(cell.runs) - 1 for cell in cells)
    return math.sqrt(sum(squares) / freedom) if freedom else None


def order(cells: Cells, digits: int) -> list[str]:
    """Whether adjacent rows in the paper's order have the same order here: one sentence per pair.

    A difference counts if it is more than two standard errors.
    """
    here = [cell for (name, d), cell in cells.items() if d == digits and name in ROWS]
    spread = pooled_spread(here)
    ranked = sorted((c for c in here if digits in c.row.paper), key=lambda c: c.row.paper[digits])
    pairs = list(zip(ranked, ranked[1:]))
    ours = cells.get(("ours", digits))
    best = cells.get(("positional", digits))
    if ours is not None and best is not None:
        pairs.append((best, ours))
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


def ablation(cells: Cells, digits: int) -> list[str]:
    """The model "Ours" with one change each, as lines of Markdown; empty if none is measured."""
    ours = cells.get(("ours", digits))
    found = [c for row in ABLATIONS.values() if (c := cells.get((row.name, digits))) is not None]
    if not found:
        return []
    lines = [f"## Ours with one change, {digits} digits", ""]
    lines += ["| change | top-1 | difference | minutes | override |", "|---|---:|---:|---:|---|"]
    if ours is not None:
        lines.append(f"| none | {ours.text()} | | {ours.seconds / 60:.1f} | |")
    for cell in found:
        difference = NOT_MEASURED if ours is None else f"{cell.mean - ours.mean:+.1f}"
        lines.append(
            f"| {cell.row.title} | {cell.text()} | {difference} | {cell.seconds / 60:.1f} | "
            f"`{cell.row.what}` |"
        )
    return [*lines, ""]


def _measured(cells: Cells) -> list[str]:
    """The settings of the runs, as lines of Markdown."""
    runs = [run for cell in cells.values() for run in cell.runs]
    if not runs:
        return [f"Nothing is measured yet: every cell is '{NOT_MEASURED}'."]
    seen: dict[str, list[str]] = {
        "test": [run.protocol for run in runs],
        "data": [run.data for run in runs],
        "training videos": [_seen(run.config) for run in runs],
        "machine": [run.device for run in runs],
        "torch": [str(run.versions.get("torch", "unknown")) for run in runs],
    }
    lines = [f"- {what}: {'; '.join(dict.fromkeys(values))}" for what, values in seen.items()]
    return ["## How it was measured", "", *lines]


def _seen(config: Any) -> str:
    times = f", {config.train.epochs} times" if config.train.epochs > 1 else ""
    return f"{config.data.train_videos:,}{times}"


def as_csv(cells: Cells) -> str:
    """One line for every row and number of digits, including those not measured."""
    columns = ["row", "digits", "paper", "mean", "std", "seeds", "values", "test_videos"]
    columns += ["training_videos", "parameters", "steps", "seconds", "data", "device"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for digits, row in product(DIGITS, [*ROWS.values(), *ABLATIONS.values()]):
        cell = cells.get((row.name, digits))
        line: list[Any] = [row.name, digits, row.paper.get(digits, "")]
        if cell is not None:
            first = cell.runs[0]
            line += [f"{cell.mean:.3f}", "" if cell.spread is None else f"{cell.spread:.3f}"]
            line += [" ".join(str(run.seed) for run in cell.runs)]
            line += [" ".join(f"{value:.3f}" for value in cell.values), first.num_videos]
            line += [first.config.data.train_videos * first.config.train.epochs, first.parameters]
            line += [first.steps, f"{cell.seconds:.1f}", first.data, first.device]
        elif row.name not in ROWS:
            continue
        writer.writerow(line + [""] * (len(columns) - len(line)))
    return text.getvalue()


def draw(cells: Cells, size: str) -> Figure:
    """Plots every run as a dot, means as bars, the paper's numbers as diamonds."""
    figure = Figure((11, 4.6), dpi=130, facecolor="white", layout="constrained")
    rows = list(ROWS.values())
    for axes, digits in zip(figure.subplots(1, len(DIGITS), sharey=True), DIGITS):
        for y, row in enumerate(rows):
            cell = cells.get((row.name, digits))
            paper = row.paper.get(digits)
            if cell is not None:
                axes.barh(y, cell.mean, height=0.62, color="#f1d5cd")
                axes.plot(cell.values, [y] * len(cell.values), "o", color=_COLORS["here"], ms=5)
                axes.text(1.5, y, cell.text(), va="center", fontsize=8)
            else:
                axes.text(1.5, y, NOT_MEASURED, va="center", fontsize=8, color="#999999")
            if paper is not None:
                axes.plot(paper, y, "D", mfc="white", mec=_COLORS["paper"], ms=6)
        axes.set_yticks(range(len(rows)), [row.title for row in rows])
        axes.set_xlim(0, 102)
        axes.set_xlabel("top-1, %")
        axes.set_title(f"{digits} digits (size {size})", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#e8e8e8", linewidth=0.8)
        axes.set_axisbelow(True)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.plot([], [], "o", color=_COLORS["here"], label="a run")
    axes.plot([], [], "D", mfc="white", mec=_COLORS["paper"], label="paper")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure
