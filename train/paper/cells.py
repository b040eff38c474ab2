"""Cells of a table: the runs of a row, which differ only in their seeds, and how they were measured."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstg_pyg.train.config import to_dict
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.paper.jobs import experiment_differences
from rstg_pyg.train.report import Run, read_run

NOT_MEASURED = "not measured"


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
