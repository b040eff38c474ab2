"""What message passing costs: ``python train/benchmark.py [--quick] [--device cuda] [--out DIR]``.

Times RSTG's space stage, the whole RSTG and networks with it against other ways to the same numbers and
against what one would use instead. Every variant's result is compared with the first one's before it is
timed; variants take turns, and only ratios within one run mean something. Writes ``benchmark.csv``,
``benchmark.md`` and plots; sections that a folder has from an earlier call on the same machine stay.
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler counts memory and says so, each time
warnings.filterwarnings("ignore", message=".*TF32 acceleration.*")

import torch
from torch import Tensor

from rstg_pyg.train.benchmarking.cases import PROMISED, SECTIONS, Case, cases
from rstg_pyg.train.benchmarking.measuring import (
    CPU,
    host_waits,
    interleaved,
    machine,
    median_and_spread,
    peak_bytes,
    product_rates,
    waiter,
)
from rstg_pyg.train.benchmarking.tables import as_csv, as_markdown, from_csv, plots
from rstg_pyg.train.benchmarking.variants import (
    Variant,
    networks,
    stage_variants,
    switch_variants,
    whole_variants,
)
from rstg_pyg.train.command import command
from rstg_pyg.train.files import write_text
from rstg_pyg.train.run_folder.folder import check_writable, named_folder

#: Largest difference of variants that compute the same function, relative to the largest number; of
#: half precision, between two orders of rounding.
TOLERANCE, HALF_TOLERANCE = 1e-5, 0.05


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


def measure(
    section: str, case: Case, rates: dict[str, float], quick: bool, device: torch.device = CPU
) -> list[dict[str, Any]]:
    """The rows of one case."""
    if case.threads is not None:
        before = torch.get_num_threads()
        torch.set_num_threads(case.threads)
        try:
            return _measure(section, case, product_rates(device), quick, device)
        finally:
            torch.set_num_threads(before)
    return _measure(section, case, rates, quick, device)


def _measure(
    section: str, case: Case, rates: dict[str, float], quick: bool, device: torch.device
) -> list[dict[str, Any]]:
    stage = section != "whole"
    edge_index, nodes = case.graph()
    compiled = not quick and (case in PROMISED or section in ("dtypes", "whole"))
    if section == "switches":
        x, variants = switch_variants(case, device)
    else:
        x, variants = (stage_variants if stage else whole_variants)(case, compiled, device)
    if section in ("density", "scaling", "frames", "threads"):  # few variants, many cases
        keep = ("all pairs", "dense", "textbook M", "RSTGConv, static")
        variants = [v for v in variants if v.name.startswith(keep) and not v.name.endswith("plain")]
    if section == "scaling" and (quick or nodes > 100):  # dense forms: minutes
        variants = [v for v in variants if not v.name.startswith(("all pairs", "dense"))]
    half = case.dtype == "bfloat16"
    differences = check_equal(variants, x, HALF_TOLERANCE if half else TOLERANCE)
    edges = edge_index.size(1) * case.frames * case.batch
    rows = []
    for backward in (False, True):
        calls = {v.name: call_of(v, x, backward) for v in variants}
        times = interleaved(calls, 7 if quick else 15, 4 if quick else 8, waiter(device))
        for variant in variants:
            call = calls[variant.name]
            median, spread = median_and_spread(times[variant.name])
            needed = case.flops(stage) * (3 if backward else 1)
            row = {
                "section": section,
                "nodes": nodes,
                "edges": edge_index.size(1),
                "topology": case.topology if case.density is None else f"density {case.density}",
                "channels": case.channels,
                "frames": case.frames,
                "batch": case.batch,
                "dtype": case.dtype,
                "threads": torch.get_num_threads(),
                "variant": variant.name,
                "pass": "forward + backward" if backward else "forward",
                "ms": 1e3 * median,
                "spread": spread,
                "peak_mib": peak_bytes(call, device) / 2**20,
                "gflop_least": needed / 1e9 if variant.same else None,
                "edges_per_s": edges / median,
                "difference": differences.get(variant.name),
            }
            for name, rate in rates.items():
                # A rate of another number type says nothing.
                fits = variant.same and (name == "bfloat16") == half and case.dtype != "float64"
                row[f"share_of_{name.lower()}"] = needed / median / rate if fits else None
            if device.type == "cuda":
                row["host_waits"] = host_waits(call)
            rows.append(row)
    return rows


def network_rows(quick: bool, device: torch.device = CPU) -> list[dict[str, Any]]:
    """Training steps (forward, backward, no optimizer) of whole networks; on a GPU in bfloat16."""
    pairs = networks(quick, device)
    kind = "bfloat16" if device.type == "cuda" else "float32"

    def step(model: torch.nn.Module, x: Tensor) -> Callable[[], object]:
        def call() -> None:
            model.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=kind == "bfloat16"):
                loss = model(x).float().sum()
            loss.backward()

        return call

    calls = {name: step(*pair) for name, pair in pairs.items()}
    times = interleaved(calls, 3 if quick else 15, 10 if quick else 180, waiter(device))
    rows = []
    for name, (_, x) in pairs.items():
        median, spread = median_and_spread(times[name])
        row = {
            "section": "network", "topology": "grid", "frames": x.size(2), "batch": x.size(0),
            "dtype": kind, "threads": torch.get_num_threads(),
            "variant": f"{name}, {' x '.join(str(n) for n in x.shape[2:])}",
            "pass": "forward + backward", "ms": 1e3 * median, "spread": spread,
            "peak_mib": peak_bytes(calls[name], device) / 2**20,
        }  # fmt: skip
        if device.type == "cuda":
            row["host_waits"] = host_waits(calls[name])
        rows.append(row)
    return rows


@command
def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="benchmark.py", description="What message passing costs.", allow_abbrev=False
    )
    parser.add_argument("--quick", action="store_true", help="the promised cases, within two minutes")
    parser.add_argument("--out", metavar="DIR", help="where to write CSV, Markdown and plots")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.threads <= 4096:
        parser.error(f"--threads: expected 1 to 4096 (got {arguments.threads})")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: PyTorch sees no CUDA device here; leave it out to measure the CPU")
    if arguments.out is not None:
        check_writable(named_folder(arguments.out))
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    try:
        kept = earlier_rows(arguments.out, arguments.sections, machine(device))
    except (OSError, ValueError) as e:
        parser.error(f"--out: {e}")

    rates = product_rates(device)
    header = [
        machine(device),
        "large matrix product: "
        + ", ".join(
            f"{'torch.mm, float32' if name == 'mm' else name} {rate / 1e9:.0f} GFLOP/s"
            for name, rate in rates.items()
        ),
        "speed: textbook message passing, I3D or the first variant is 1; "
        "spread: distance of the quartiles over the median; peak: what PyTorch's allocator holds "
        "beyond input and weights; difference: from the first variant, relative to the largest number",
    ]
    print("\n".join(header), flush=True)
    rows: list[dict[str, Any]] = []
    for section in arguments.sections:
        if section == "network":
            rows += network_rows(arguments.quick, device)
            write(kept + rows, header, arguments.out)
            continue
        for case in cases(section, arguments.quick):
            rows += measure(section, case, rates, arguments.quick, device)
            last = rows[-1]
            write(kept + rows, header, arguments.out)  # an interrupted run leaves what it has
            print(
                f"{section}: {last['nodes']} nodes, D = {last['channels']}, {last['topology']}",
                flush=True,
            )
    if arguments.out is not None:
        plots(kept + rows, Path(arguments.out))
    print(as_markdown(kept + rows, header))
    return 0


def earlier_rows(out: str | None, sections: Sequence[str], machine: str) -> list[dict[str, Any]]:
    """The rows of other sections that a folder holds already.

    Raises:
        ValueError: If they were measured elsewhere.
    """
    path = None if out is None else Path(out) / "benchmark.csv"
    if path is None or not path.is_file():
        return []
    rows = from_csv(path.read_text(encoding="utf-8"))
    if not all({"section", "variant", "ms"} <= row.keys() for row in rows):
        raise ValueError(f"{path} was not written by this command; choose another folder")
    others = {row.get("machine") for row in rows} - {machine}
    if others:
        raise ValueError(
            f"{path} was measured on {' and '.join(map(str, others))}, this is {machine}; "
            "choose another folder"
        )
    return [row for row in rows if row["section"] not in sections]


def write(rows: list[dict[str, Any]], header: list[str], out: str | None) -> None:
    """Writes the rows and their page into a folder, if there is one."""
    if out is None:
        return
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "benchmark.csv", as_csv([{**row, "machine": header[0]} for row in rows]))
    write_text(folder / "benchmark.md", as_markdown(rows, header))


if __name__ == "__main__":
    sys.exit(main())
