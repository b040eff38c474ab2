"""The benchmark's rows as a page and as plots."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rstg_pyg.train.benchmarking.variants import ALL_PAIRS, LOOP, OURS, TEXTBOOK, WHOLE
from rstg_pyg.train.plots import new_figure, save_png
from rstg_pyg.train.text_tables import as_markdown

Row = dict[str, Any]

#: Whose speed is 1.
_REFERENCES = (TEXTBOOK, "I3D, ")
#: Columns of the page: title, key, format. Empty columns are omitted.
_COLUMNS = [
    ("ms", "ms", ".1f"), ("spread", "spread", ".0%"), ("speed", "speed", ".2f"),
    ("peak MiB", "peak_mib", ".0f"), ("GFLOP at least", "gflop_least", ".1f"),
    ("share of mm", "share_of_mm", ".2f"), ("of oneDNN", "share_of_onednn", ".2f"),
    ("edges/s", "edges_per_s", ".2e"), ("difference", "difference", ".0e"),
]  # fmt: skip
#: The plots: file, section, key on the x axis and its name, key on the y axis and its name.
_PLOTS = [
    ("nodes.png", "scaling", "nodes", "nodes", "ms", "forward + backward, ms"),
    ("density.png", "density", "density", "density", "ms", "forward + backward, ms"),
    ("share.png", "stage", "channels", "channels", "share_of_mm", "share of torch.mm's rate"),
]


def page(rows: list[Row], header: Iterable[str]) -> str:
    """The rows in Markdown: a summary, then one table per case.

    Speed is relative to textbook message passing, or to I3D, or to the first variant.
    """
    groups: dict[str, list[Row]] = {}  # of a case and pass; networks of all clips in one group
    for row in rows:
        groups.setdefault(_title(row), []).append(row)
    lines = ["# Benchmark", "", *(f"- {line}" for line in header), ""]
    found = summary(groups)
    if found:
        lines += ["## RSTG against other forms of the same function", "", as_markdown(found), ""]
    columns = [c for c in _COLUMNS if c[1] == "speed" or any(r.get(c[1]) is not None for r in rows)]
    for title, group in groups.items():
        first = next((row for row in group if row["variant"].startswith(_REFERENCES)), group[0])
        table = []
        for row in group:
            full = {**row, "speed": first["ms"] / row["ms"]}
            cells = {t: format(full[k], f) for t, k, f in columns if full.get(k) is not None}
            table.append({"variant": row["variant"], **{t: cells.get(t) for t, _, _ in columns}})
        lines += [f"## {title}", "", as_markdown(table), ""]
    return "\n".join(lines)


def _title(row: Row) -> str:
    title = [row["section"], row["pass"]]
    if row.get("nodes") is not None:
        title += [f"{row['nodes']} nodes", f"{row['edges']} edges ({row['topology']})"]
        title += [f"D = {row['channels']}", f"{row['batch']} x {row['frames']} frames"]
    return ", ".join([*title, row["dtype"], f"{row['threads']} threads"])


def summary(groups: dict[str, list[Row]]) -> list[Row]:
    """How much faster RSTG is than what it replaces, and the share of the memory that it needs.

    Args:
        groups: The rows of each case, by its title.
    """
    found = []
    for title, group in groups.items():
        rows = {row["variant"]: row for row in group}
        ours = rows.get(OURS) or rows.get(WHOLE)
        for name in (ALL_PAIRS, TEXTBOOK, LOOP):
            if ours is not None and name in rows:
                speed = rows[name]["ms"] / ours["ms"]
                memory = ours["peak_mib"] / rows[name]["peak_mib"]
                found.append(
                    {
                        "case": title,
                        "compared with": name,
                        "times as fast": f"{speed:.2f}",
                        "share of the memory": f"{memory:.2f}",
                    }
                )
    return found


def plots(rows: list[Row], folder: Path) -> None:
    """Plots cost by nodes and by density, and the share of the rate by width (14 nodes)."""
    for name, section, x, x_title, y, y_title in _PLOTS:
        chosen = [r for r in rows if r["section"] == section and r["pass"] == "forward + backward"]
        if section == "stage":
            chosen = [r for r in chosen if (r["topology"], r["nodes"], r["frames"]) == ("grid", 14, 64)]
        chosen = [r for r in chosen if r.get(y) is not None]
        if not chosen:
            continue
        figure, (axes,) = new_figure(6.4, 4.2)
        for variant in dict.fromkeys(r["variant"] for r in chosen):
            points = sorted((r[x], r[y]) for r in chosen if r["variant"] == variant)
            axes.plot(*zip(*points), marker="o", label=variant)
        if section == "scaling":
            axes.set(xscale="log", yscale="log")
        axes.set(xlabel=x_title, ylabel=y_title)
        axes.legend(frameon=False, fontsize=7)
        save_png(figure, folder / name)
