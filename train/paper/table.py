"""The SyncMNIST table with the paper's numbers, generated only from the ``results.json`` of runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from rstg_pyg.train.config import to_dict
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import write_text
from rstg_pyg.train.paper.runs import ABLATIONS, DIGITS, ROWS, Row, experiment_differences
from rstg_pyg.train.plots import COLORS, new_figure, save_png
from rstg_pyg.train.report import Run, read_run
from rstg_pyg.train.text_tables import as_markdown

NOT_MEASURED = "not measured"
_PAPERS_VIDEOS = {"num_classes": 10, "num_frames": 10, "frame_size": 64, "canvas_size": 100}
_PAPERS_VIDEOS |= {"digit_size": 28, "max_step": 10}


@dataclass(frozen=True)
class Cell:
    """The runs of a row (with one number of digits), which differ only in their seeds."""

    row: Any
    runs: list[Run]

    @property
    def values(self) -> list[float]:
        """Top-1 of every run, in percent."""
        return [100 * run.top1 for run in self.runs if run.top1 is not None]

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

    def __str__(self) -> str:
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
        cell = read_cell(row, run_folder(out, digits, row, 0).parent)
        if cell is not None:
            cells[row.name, digits] = cell
    return cells


def read_cell(row: Any, folder: Path) -> Cell | None:
    """The runs of a row, which are in ``seed*`` in its folder; ``None`` if none has ended.

    Raises:
        UserError: If a file is damaged, or the runs differ in more than the seed.
    """
    runs = [read_run(path.parent) for path in folder.glob("seed*/results.json")]
    runs.sort(key=lambda run: run.seed)
    for run in runs:
        if run.top1 is None:
            raise UserError(f"{folder / run.folder / 'results.json'}: expected a top-1 (got null)")
    for run in runs[1:]:
        changed = experiment_differences(_experiment(runs[0]), _experiment(run))
        if changed:
            raise UserError(
                f"{folder}: the runs of a row must differ only in the seed; they differ in "
                f"{', '.join(changed[:3])}"
            )
    return Cell(row, runs) if runs else None


def _experiment(run: Run) -> dict[str, Any]:
    return to_dict(run.config) | {"seed": 0, "digits": run.data, "steps": run.steps}


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


def settings(runs: list[Run], more: dict[str, list[str]]) -> list[str]:
    """How runs were measured, as lines of Markdown.

    Args:
        runs: The runs.
        more: Further lines: what it is, and its value for every run.
    """
    seen = {"test": [run.protocol for run in runs], "data": [run.data for run in runs]}
    seen |= more | {"machine": [run.device for run in runs]}
    seen["torch"] = [str(run.versions.get("torch", "unknown")) for run in runs]
    lines = [f"- {what}: {'; '.join(dict.fromkeys(values))}" for what, values in seen.items()]
    return ["## How it was measured", "", *lines]


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
