"""The benchmark's rows as tables and as plots."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rstg_pyg.train.plots import legend_below, new_figure, save_png
from rstg_pyg.train.text_tables import as_markdown

Row = dict[str, Any]

#: Columns of a table: title, key, format, pass (by default the last). Empty columns are omitted.
_COLUMNS = [
    ("parameters", "parameters", ",", None),
    ("forward, ms", "time", "", "forward"),
    ("forward + backward, ms", "time", "", "forward + backward"),
    ("one frame, ms", "time", "", "one frame"),
    ("99 % below, ms", "p99_ms", ".2f", "one frame"),
    ("frames/s", "frames_per_s", ".0f", "one frame"),
    ("relative time", "relative", ".2f", None),
    ("GFLOP", "gflop", ".1f", None),
    ("per FLOP, forward", "relative_per_flop", ".2f", "forward"),
    ("per FLOP, forward + backward", "relative_per_flop", ".2f", "forward + backward"),
    ("peak MiB", "peak_mib", ".0f", "forward + backward"),
    ("share of oneDNN's rate", "share_of_onednn", ".2f", None),
]
#: The plots: section, which is the file's name, and the key on the x axis.
_PLOTS = [("scaling", "nodes"), ("density", "density")]


def section_table(rows: list[Row], section: str) -> str:
    """The rows of a section in Markdown, one line for each case and variant.

    The relative time is that of the last pass (forward + backward where there is one), divided by the
    time of the case's first variant.
    """
    cases: dict[str, dict[str, dict[str, Row]]] = {}
    for row in rows:
        if row["section"] == section:
            variants = cases.setdefault(row["case"], {})
            variants.setdefault(row["variant"], {})[row["pass"]] = row
    table = []
    for case, variants in cases.items():
        first = list(next(iter(variants.values())).values())[-1]
        for variant, passes in variants.items():
            last = list(passes.values())[-1]
            line: Row = {"case": case, "variant": variant}
            for title, key, form, name in _COLUMNS:
                row = last if name is None else passes.get(name, {})
                if row and key == "time":
                    digits = sum(row["ms"] < limit for limit in (10, 100))
                    line[title] = f"{row['ms']:,.{digits}f} ± {row['spread'] / 2:.0%}"
                elif key == "relative":
                    line[title] = format(last["ms"] / first["ms"], form)
                elif row.get(key) is not None:
                    line[title] = format(row[key], form)
            table.append(line)
            case = ""  # named once
    titles = [title for title, *_ in _COLUMNS if any(title in line for line in table)]
    return as_markdown(
        [{"case": x["case"], "variant": x["variant"], **{t: x.get(t) for t in titles}} for x in table],
        titles,
    )


def page(rows: list[Row], header: Iterable[str]) -> str:
    """The tables of all sections, in Markdown."""
    lines = ["# Benchmark", "", *(f"- {line}" for line in header), ""]
    for section in dict.fromkeys(row["section"] for row in rows):
        lines += [f"## {section}", "", section_table(rows, section), ""]
    return "\n".join(lines)


def plots(rows: list[Row], folder: Path) -> None:
    """Plots cost by nodes and by density, where there are at least two cases."""
    for section, x in _PLOTS:
        chosen = [r for r in rows if r["section"] == section and r["pass"] == "forward + backward"]
        if len({r[x] for r in chosen}) < 2:  # as with --quick
            continue
        figure, (axes,) = new_figure(6.4, 5)
        for variant in dict.fromkeys(r["variant"] for r in chosen):
            points = sorted((r[x], r["ms"]) for r in chosen if r["variant"] == variant)
            axes.plot(*zip(*points), marker="o", label=variant)
        if section == "scaling":
            axes.set(xscale="log", yscale="log")
        axes.set(xlabel=x, ylabel="forward + backward, ms")
        legend_below(axes)
        save_png(figure, folder / f"{section}.png")
