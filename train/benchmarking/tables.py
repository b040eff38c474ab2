"""The benchmark's rows as CSV, as a page and as plots, and the target ratios."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from rstg_pyg.train.benchmarking.variants import ALL_PAIRS, LOOP, OURS, OURS_MM, TEXTBOOK, WHOLE

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
#: The plots: file, section, key on the x axis and its name, key on the y axis, logarithmic axes.
_PLOTS = [
    ("nodes.png", "scaling", "nodes", "nodes", "ms", True),
    ("density.png", "density", "density", "density", "ms", False),
    ("share.png", "stage", "channels", "channels (14 nodes, 64 frames)", "share_of_mm", False),
]
_WORDS = {"ms": "forward + backward, ms", "share_of_mm": "share of torch.mm's rate"}


def as_csv(rows: list[Row]) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue()


def from_csv(text: str) -> list[Row]:
    """The rows that :func:`as_csv` wrote."""
    return [{k: _value(v) for k, v in row.items()} for row in csv.DictReader(text.splitlines())]


def _value(cell: str) -> int | float | str | bool | None:
    if cell in ("", "True", "False"):
        return {"": None, "True": True, "False": False}[cell]
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell


def as_markdown(rows: list[Row], header: list[str]) -> str:
    """The rows as a page: the target ratios, then one table per case.

    Speed is relative to textbook message passing, or to I3D, or to the first variant.
    """
    lines = ["# Benchmark", "", *(f"- {line}" for line in header), ""]
    met = promises(rows)
    if met:
        lines += ["## Promised", "", "| ratio | promised | measured | with `torch.mm` only |"]
        lines += ["|---|---|---|---|"]
        for name, bound, value, by_mm in met:
            last = "" if by_mm is None else f"{by_mm:.2f}"
            lines.append(f"| {name} | {bound} | {value:.2f} | {last} |")
    columns = [c for c in _COLUMNS if c[1] == "speed" or any(r.get(c[1]) is not None for r in rows)]
    groups: dict[str, list[Row]] = {}  # of a case and pass; networks of all clips in one group
    for row in rows:
        groups.setdefault(_title(row), []).append(row)
    for title, group in groups.items():
        first = next((row for row in group if row["variant"].startswith(_REFERENCES)), group[0])
        lines += ["", f"## {title}", ""]
        lines.append(f"| variant | {' | '.join(title for title, _, _ in columns)} |")
        lines.append("|---" * (len(columns) + 1) + "|")
        for row in group:
            full = {**row, "speed": first["ms"] / row["ms"]}
            values = [(full.get(key), form) for _, key, form in columns]
            cells = ["" if v is None else format(v, form) for v, form in values]
            lines.append(f"| {row['variant']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _title(row: Row) -> str:
    title = [row["section"], row["pass"]]
    if row.get("nodes") is not None:
        title += [f"{row['nodes']} nodes", f"{row['edges']} edges ({row['topology']})"]
        title += [f"D = {row['channels']}", f"{row['batch']} x {row['frames']} frames"]
    return ", ".join([*title, row["dtype"], f"{row['threads']} threads"])


def promises(rows: list[Row]) -> list[tuple[str, str, float, float | None]]:
    """The target ratios in these rows: name, bound, value, value with ``torch.mm`` only."""
    found: list[tuple[str, str, float, float | None]] = []

    def of(variant: str | None, which: str = "forward + backward", **wanted: Any) -> Row | None:
        wanted = {"variant": variant, "pass": which, "dtype": "float32", **wanted}
        return next((r for r in rows if all(r.get(k) == v for k, v in wanted.items())), None)

    def faster(name: str, bound: float, base: str, ours: str, mm: str | None, **wanted: Any) -> None:
        slow, fast, by_mm = of(base, **wanted), of(ours, **wanted), of(mm, **wanted)
        if slow is not None and fast is not None:
            ratio = None if by_mm is None else slow["ms"] / by_mm["ms"]
            found.append((name, f"at least {bound}", slow["ms"] / fast["ms"], ratio))

    case: Row = {"section": "stage", "nodes": 14, "channels": 512, "frames": 64, "topology": "grid"}
    faster("14 nodes, D = 512: all pairs", 3.6, ALL_PAIRS, OURS, OURS_MM, **case)
    faster("14 nodes, D = 512: textbook", 2, TEXTBOOK, OURS, OURS_MM, **case)
    for which, bound in (("forward", 0.82), ("forward + backward", 0.78)):
        row, by_mm = of(OURS, which, **case), of(OURS_MM, which, **case)
        if row is not None:
            shares = row["share_of_mm"], None if by_mm is None else by_mm["share_of_mm"]
            found.append((f"share of torch.mm's rate, {which}", f"at least {bound}", *shares))
    slow, fast = of(TEXTBOOK, **case), of(OURS, **case)
    if slow is not None and fast is not None:
        share = fast["peak_mib"] / slow["peak_mib"]
        found.append(("peak memory: textbook", "at most 0.5", share, None))
    case |= {"channels": 64, "frames": 640}
    faster("14 nodes, D = 64: textbook", 2.5, TEXTBOOK, OURS, OURS_MM, **case)
    case |= {"nodes": 85, "channels": 256, "frames": 16}
    faster("85 nodes, D = 256: all pairs", 18, ALL_PAIRS, OURS, OURS_MM, **case)
    faster("85 nodes, D = 256: textbook", 2.2, TEXTBOOK, OURS, OURS_MM, **case)
    faster("whole RSTG: published loop", 3, LOOP, WHOLE, None, section="whole", batch=4)
    clips = [r for r in rows if r["section"] == "network" and r["frames"] == 32]
    plain = next((r for r in clips if r["variant"].startswith("I3D,")), None)
    ours = next((r for r in clips if r["variant"].startswith("I3D + RSTG")), None)
    if plain is not None and ours is not None:
        most = "at most 1.15" if ours["dtype"] == "float32" else "at most 1.08"
        found.append(("I3D + RSTG: time of I3D", most, ours["ms"] / plain["ms"], None))
    return found


def plots(rows: list[Row], folder: Path) -> None:
    """Plots cost by nodes and by density, and the share of the rate by width."""
    from matplotlib.figure import Figure

    for name, section, x, words, y, log in _PLOTS:
        chosen = [r for r in rows if r["section"] == section and r["pass"] == "forward + backward"]
        if section == "stage":
            chosen = [r for r in chosen if (r["topology"], r["nodes"], r["frames"]) == ("grid", 14, 64)]
        if section == "density":
            chosen = [{**r, "density": float(r["topology"].split()[1])} for r in chosen]
        chosen = [r for r in chosen if r.get(y) is not None]
        if not chosen:
            continue
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        for variant in dict.fromkeys(r["variant"] for r in chosen):
            points = sorted((r[x], r[y]) for r in chosen if r["variant"] == variant)
            axes.plot(*zip(*points), marker="o", label=variant)
        if log:
            axes.set(xscale="log", yscale="log")
        axes.set(xlabel=words, ylabel=_WORDS[y])
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
        figure.savefig(folder / name, dpi=120)
