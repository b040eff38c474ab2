"""What message passing costs: ``python train/benchmark.py [--quick] [--out DIR]``.

Times RSTG's space stage, the whole RSTG and networks with it against other ways to the same numbers and
against what one would use instead. Every variant's result is compared with the first one's before it is
timed; variants take turns, and only ratios within one run mean something. Writes ``benchmark.csv``,
``benchmark.md`` and plots.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler counts memory and says so, each time
warnings.filterwarnings("ignore", message=".*torch.jit.script.*")  # PyG's own, on import
warnings.filterwarnings("ignore", message=".*TF32 acceleration.*")

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from rstg_pyg import RSTGBlock, VideoClassifier  # noqa: E402
from rstg_pyg.backbones import SimpleConv, i3d_resnet50  # noqa: E402
from rstg_pyg.train.measuring import (  # noqa: E402
    interleaved,
    machine,
    median_and_spread,
    peak_bytes,
    product_rates,
)
from rstg_pyg.train.results import write_text  # noqa: E402
from rstg_pyg.train.variants import Case, Variant, stage_variants, whole_variants  # noqa: E402

#: Largest difference of variants that compute the same function, relative to the largest number.
TOLERANCE = 1e-5
SECTIONS = ("stage", "scaling", "density", "whole", "network")

_NUMBERS = {"share_of_mm": ".2f", "share_of_onednn": ".2f", "edges_per_s": ".2e", "difference": ".0e"}

#: The cases that the project promises ratios for.
PROMISED = [
    Case((3, 2, 1), frames=64, channels=512),
    Case((3, 2, 1), frames=640, channels=64),
    Case((1, 2, 4, 8), frames=16, channels=256),
]


def cases(section: str, quick: bool) -> list[Case]:
    """What a section measures."""
    if section == "stage":
        more = [
            Case(scales, frames=frames, channels=channels, topology=topology)
            for scales, frames in (
                ((3, 2, 1), 64),
                ((4, 3, 2, 1), 32),
                ((1, 2, 4, 8), 16),
                (range(1, 10), 4),
            )
            for channels in (64, 128, 256, 512)
            for topology in ("grid", "complete")
            if not (len(scales) > 4 and topology == "complete")
        ]
        half = [Case((3, 2, 1), frames=64, channels=512, dtype="bfloat16")]
        return PROMISED if quick else PROMISED + [case for case in more if case not in PROMISED] + half
    if section == "scaling":
        deepest = range(2, 7)
        return [
            Case(tuple(2**k for k in range(n)), frames=4, channels=64 if quick else 256)
            for n in deepest
        ]
    if section == "density":
        shares = (0.25, 0.5, 1.0) if quick else (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
        return [Case((4, 3, 2, 1), frames=32, channels=128, density=share) for share in shares]
    return [Case((3, 2, 1), frames=16, channels=512, batch=4)]


def call_of(variant: Variant, x: Tensor, backward: bool) -> Callable[[], object]:
    """One run of a variant; with ``backward`` also the gradients of input and weights."""
    inputs = x.clone().requires_grad_(backward)

    def call() -> object:
        with variant.context():
            if not backward:
                with torch.no_grad():
                    return variant.forward(inputs)
            out = variant.forward(inputs)
            wanted = [inputs, *variant.parameters]
            return torch.autograd.grad(out, wanted, torch.ones_like(out), allow_unused=True)

    return call


def check_equal(variants: list[Variant], x: Tensor, tolerance: float = TOLERANCE) -> dict[str, float]:
    """The largest difference of each variant from the first, relative to the largest number.

    Raises:
        SystemExit: If one computes another function.
    """
    found, expected = {}, None
    for variant in variants:
        if not variant.same:
            continue
        with torch.no_grad(), variant.context():
            out = variant.forward(x).float()
        expected = out if expected is None else expected
        found[variant.name] = float((out - expected).abs().max() / expected.abs().max())
        if found[variant.name] > tolerance:
            raise SystemExit(
                f"{variant.name} differs from {variants[0].name} by {found[variant.name]:.1e}"
            )
    return found


def measure(section: str, case: Case, rates: dict[str, float], quick: bool) -> list[dict[str, Any]]:
    """The rows of one case."""
    stage = section != "whole"
    edge_index, nodes = case.graph()
    x, variants = stage_variants(case, compiled=not quick) if stage else whole_variants(case)
    if section in ("density", "scaling"):  # few variants, many cases
        keep = ("all pairs", "dense", "textbook M", "RSTGConv, static")
        variants = [v for v in variants if v.name.startswith(keep) and not v.name.endswith("plain")]
    if section == "scaling" and (quick or nodes > 100):  # dense forms: minutes
        variants = [v for v in variants if not v.name.startswith(("all pairs", "dense"))]
    differences = check_equal(variants, x, TOLERANCE if case.dtype == "float32" else 0.05)
    edges = edge_index.size(1) * case.frames * case.batch
    rows = []
    for backward in (False, True):
        calls = {v.name: call_of(v, x, backward) for v in variants}
        times = interleaved(calls, repeats=7 if quick else 11, seconds=4 if quick else 40)
        for variant in variants:
            median, spread = median_and_spread(times[variant.name])
            needed = case.flops(stage) * (3 if backward else 1)
            rows.append(
                {
                    "section": section,
                    "nodes": nodes,
                    "edges": edge_index.size(1),
                    "topology": case.topology if case.density is None else f"density {case.density}",
                    "channels": case.channels,
                    "frames": case.frames,
                    "batch": case.batch,
                    "dtype": case.dtype,
                    "variant": variant.name,
                    "pass": "forward + backward" if backward else "forward",
                    "ms": 1e3 * median,
                    "spread": spread,
                    "peak_mib": peak_bytes(calls[variant.name]) / 2**20,
                    "gflop_least": needed / 1e9 if variant.same else None,
                    "share_of_mm": needed / median / rates["mm"] if variant.same else None,
                    "share_of_onednn": needed / median / rates["oneDNN"] if variant.same else None,
                    "edges_per_s": edges / median,
                    "difference": differences.get(variant.name),
                }
            )
    return rows


def network_rows(quick: bool) -> list[dict[str, Any]]:
    """Training steps (forward, backward, no optimiser) of whole networks."""
    frames, size = (8, 64) if quick else (32, 224)
    clip, digits = torch.randn(1, 3, frames, size, size), torch.randn(4, 1, 10, 64, 64)

    def backbone() -> torch.nn.Module:
        torch.manual_seed(0)
        return i3d_resnet50()

    blocks = {"res3": RSTGBlock(512), "res4": RSTGBlock(1024, hidden_channels=512)}
    filters = (32, 64, 64)
    networks = {
        "SimpleConv + RSTG": (
            VideoClassifier(SimpleConv(1, filters), 46, head=RSTGBlock(filters[-1], to="vec")), digits
        ),
        "I3D": (VideoClassifier(backbone(), 174), clip),
        "I3D + RSTG (res3, res4)": (VideoClassifier(backbone(), 174, blocks=blocks), clip),
    }  # fmt: skip

    def step(model: torch.nn.Module, x: Tensor) -> Callable[[], object]:
        def call() -> None:
            model.zero_grad()
            model(x).sum().backward()

        return call

    calls = {name: step(*pair) for name, pair in networks.items()}
    times = interleaved(calls, repeats=3 if quick else 7, seconds=10 if quick else 120)
    rows = []
    for name, (_, x) in networks.items():
        median, spread = median_and_spread(times[name])
        rows.append(
            {
                "section": "network", "topology": "grid", "frames": x.size(2), "batch": x.size(0),
                "dtype": "float32", "variant": f"{name}, {' x '.join(str(n) for n in x.shape[2:])}",
                "pass": "forward + backward", "ms": 1e3 * median, "spread": spread,
                "peak_mib": peak_bytes(calls[name]) / 2**20,
            }
        )  # fmt: skip
    return rows


def as_csv(rows: list[dict[str, Any]]) -> str:
    """The rows as CSV."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue()


def as_markdown(rows: list[dict[str, Any]], header: list[str]) -> str:
    """The rows as a page: one table per case, with how much faster the last of ours is."""
    lines = ["# Benchmark", "", *(f"- {line}" for line in header), ""]
    title = None
    for row in rows:
        key = [row["section"], row["pass"]]
        if "nodes" in row:
            key += [f"{row['nodes']} nodes", f"{row['edges']} edges ({row['topology']})"]
            key += [f"D = {row['channels']}", f"{row['batch']} x {row['frames']} frames", row["dtype"]]
        if key != title:
            title = key
            lines += ["", f"## {', '.join(key)}", ""]
            lines += [
                "| variant | ms | spread | peak MiB | share of mm | of oneDNN | edges/s | difference |"
            ]
            lines += ["|---|---|---|---|---|---|---|---|"]
        cells = [row["variant"], f"{row['ms']:.1f}", f"{row['spread']:.0%}", f"{row['peak_mib']:.0f}"]
        for name, form in _NUMBERS.items():
            value = row.get(name)
            cells.append("" if value is None else format(value, form))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plots(rows: list[dict[str, Any]], folder: Path) -> None:
    """Cost against nodes, share of the rate, cost against density."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    def draw(name: str, section: str, x: Callable, y: str, labels: tuple[str, str], log: bool) -> None:
        chosen = [r for r in rows if r["section"] == section and r["pass"] == "forward + backward"]
        if not chosen:
            return
        figure = Figure(figsize=(6, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for variant in dict.fromkeys(r["variant"] for r in chosen):
            points = sorted(
                (x(r), r[y]) for r in chosen if r["variant"] == variant and r[y] is not None
            )
            if points:
                axes.plot(*zip(*points), marker="o", label=variant)
        if log:
            axes.set(xscale="log", yscale="log")
        axes.set(xlabel=labels[0], ylabel=labels[1])
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
        figure.savefig(folder / name, dpi=120)

    ms = "forward + backward, ms"
    draw("nodes.png", "scaling", lambda r: r["nodes"], "ms", ("nodes", ms), True)
    draw(
        "density.png",
        "density",
        lambda r: float(r["topology"].split()[1]),
        "ms",
        ("density", ms),
        False,
    )
    share = "share of torch.mm's rate"
    draw("share.png", "stage", lambda r: r["channels"], "share_of_mm", ("channels", share), False)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="benchmark.py", description="What message passing costs.", allow_abbrev=False
    )
    parser.add_argument("--quick", action="store_true", help="the promised cases, within two minutes")
    parser.add_argument("--out", metavar="DIR", help="where to write CSV, Markdown and plots")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION")
    arguments = parser.parse_args(argv)
    if arguments.threads < 1:
        parser.error("--threads must be at least 1")
    torch.set_num_threads(arguments.threads)

    rates = product_rates()
    header = [
        machine(),
        f"float32 matrix product of 2048 x 2048: torch.mm {rates['mm'] / 1e9:.0f} GFLOP/s, "
        f"oneDNN {rates['oneDNN'] / 1e9:.0f} GFLOP/s",
        "spread: distance of the quartiles over the median; peak: what PyTorch's allocator holds "
        "beyond input and weights; difference: from the first variant, relative to the largest number",
    ]
    print("\n".join(header), flush=True)
    rows: list[dict[str, Any]] = []
    for section in arguments.sections:
        if section == "network":
            rows += network_rows(arguments.quick)
            continue
        for case in cases(section, arguments.quick):
            rows += measure(section, case, rates, arguments.quick)
            last = rows[-1]
            print(
                f"{section}: {last['nodes']} nodes, D = {last['channels']}, {last['topology']}",
                flush=True,
            )
    page = as_markdown(rows, header)
    print(page)
    if arguments.out is not None:
        folder = Path(arguments.out)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "benchmark.csv", as_csv([{**row, "machine": header[0]} for row in rows]))
        write_text(folder / "benchmark.md", page)
        plots(rows, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
