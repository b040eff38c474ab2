"""The table of runs as a page for the browser: sortable, with curves and links."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path

from rstg_pyg.train.errors import counted
from rstg_pyg.train.plots import COLORS
from rstg_pyg.train.run_folder.metrics import MetricsFile

_FILES = ("results.json", "config.yaml", "per_class.csv", "confusion.png", "curves.png")
_WIDE, _TALL = 640, 240


def report_page(
    rows: Sequence[Mapping[str, str]],
    folders: Sequence[Sequence[Path]],
    right: Sequence[str],
    note: str,
    out: Path,
) -> str:
    """The page.

    Args:
        rows: The rows of the table.
        folders: The run folders of each row.
        right: The columns with numbers.
        note: A text below the table.
        out: Where the page will be; links are relative to it.
    """
    columns = [column for column in rows[0] if column != "protocol"]
    head = "".join(f"<th scope=col><button>{escape(column)}</button></th>" for column in columns)
    body = []
    for k, (row, runs) in enumerate(zip(rows, folders)):
        cells = []
        for column in columns:
            text = escape(row[column])
            if column == "name":
                mark = f'<span style="color: {COLORS[k % len(COLORS)]}">\N{BLACK CIRCLE}</span> '
                text = mark + text + "".join(f"<br>{_links(run, out)}" for run in runs)
            elif column == "videos":
                text = f'<span tabindex=0 title="{escape(row["protocol"])}">{text}</span>'
            cells.append(f"<td{' class=number' if column in right else ''}>{text}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    parts = {"HEAD": head, "BODY": "".join(body), "CURVES": _curves(folders), "NOTE": escape(note)}
    page = ""
    template = (resources.files("rstg_pyg.train") / "report_page.html").read_text("utf-8")
    for line in template.splitlines(keepends=True):  # texts are not looked through for the marks
        for mark, text in parts.items():
            if mark in line:
                before, after = line.split(mark)
                page, line = page + before + text, after
        page += line
    return page


def _links(run: Path, out: Path) -> str:
    found = [run / name for name in _FILES if (run / name).is_file()]
    where = [(path.name, os.path.relpath(path, out.parent)) for path in found]
    return " ".join(f'<a href="{escape(Path(path).as_posix())}">{name}</a>' for name, path in where)


def _curves(folders: Sequence[Sequence[Path]]) -> str:
    """Validation accuracy over the steps: a line for each run, in the color of its row."""
    lines = []
    for k, runs in enumerate(folders):
        for run in runs:
            if (run / "metrics.csv").is_file():
                rows = [r for r in MetricsFile(run / "metrics.csv").rows() if r["split"] == "val"]
                points = [(int(r["step"]), float(r.get("top1") or r.get("mAP") or 0)) for r in rows]
                lines.append((COLORS[k % len(COLORS)], points))
    last = max((step for _, points in lines for step, _ in points), default=0)
    if not last:
        return ""
    drawn = []
    for share in (0.0, 0.5, 1.0):
        y = _TALL - _TALL * share
        drawn.append(f'<path d="M0 {y} H{_WIDE}" stroke="currentColor" opacity=".25"/>')
        drawn.append(f'<text x="{_WIDE + 6}" y="{y + 4}">{share:.0%}</text>')
    for color, points in lines:
        at = " ".join(f"{_WIDE * step / last:.1f},{_TALL - _TALL * y:.1f}" for step, y in points)
        drawn.append(f'<polyline points="{at}" fill="none" stroke="{color}" stroke-width="2"/>')
    steps = counted(last, "step")
    drawn.append(f'<text x="{_WIDE}" y="{_TALL + 18}" text-anchor="end">{steps}</text>')
    size = f'width="{_WIDE + 50}" height="{_TALL + 34}" viewBox="-4 -8 {_WIDE + 50} {_TALL + 34}"'
    return f"<h2>Validation accuracy</h2><svg {size}>{''.join(drawn)}</svg>"
