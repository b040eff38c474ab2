"""What message passing costs: ``python train/benchmark.py [--quick] [--device cuda] [--out DIR]``.

Times networks with RSTG and with other layers in its place, its space stage and the complete RSTG
against other implementations of the same function, and streams. Variants that compute the same are
compared before they are timed. They are timed in alternation; only ratios within one run are
meaningful. Writes ``benchmark.json``, ``benchmark.md`` and plots; keeps sections of earlier calls on
the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rstg_pyg.fast.linear import has_onednn
from rstg_pyg.train.benchmarking.cases import SECTIONS, Case, timed
from rstg_pyg.train.benchmarking.streams import stream_rows
from rstg_pyg.train.benchmarking.tables import Row, page, plots, section_table
from rstg_pyg.train.benchmarking.variants import (
    Variant,
    inception_networks,
    networks,
    published_variants,
    stage_variants,
    whole_variants,
)
from rstg_pyg.train.command import command
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import of_this_command, write_json, write_text
from rstg_pyg.train.run_folder.environment import device_name
from rstg_pyg.train.run_folder.folder import check_writable, named_folder

#: Largest difference of variants that compute the same function, relative to the largest number.
TOLERANCE = 1e-5
_NOTE = (
    "medians ± half the distance of the quartiles; relative time: of forward + backward, each case's "
    "first variant is 1; peak: what PyTorch's allocator holds beyond input and weights; seed 0"
)


def call_of(variant: Variant, x: Tensor, backward: bool) -> Callable[[], object]:
    """Runs a variant once; with ``backward``, also computes the gradients of input and weights."""
    inputs = x.clone().requires_grad_(backward)

    def call() -> object:
        with variant.context(), torch.set_grad_enabled(backward):
            out = variant.forward(inputs)
            if not backward:
                return out
            wanted = [inputs, *variant.module.parameters()]
            return torch.autograd.grad(out, wanted, torch.ones_like(out), allow_unused=True)

    return call


def check_equal(variants: list[Variant], x: Tensor) -> dict[str, float]:
    """The largest difference of each variant from the first, relative to the largest number.

    Raises:
        SystemExit: If a variant computes a different function.
    """
    found: dict[str, float] = {}
    expected: Any = None
    for variant in variants:
        if not variant.same:
            continue
        out: Any = call_of(variant, x, backward=False)()
        expected = out if expected is None else expected
        found[variant.name] = by = float((out - expected).abs().max() / expected.abs().max())
        if by > TOLERANCE:
            raise SystemExit(f"{variant.name} differs from {variants[0].name} by {by:.1e}")
    return found


def variants_of(section: str, case: Case, quick: bool, device: str) -> tuple[Tensor, list[Variant]]:
    """The input of a case, and the variants that its section compares."""
    if section == "published":
        return published_variants(case, device)
    compiled = not quick and case == SECTIONS[section][0]
    if section == "whole":
        return whole_variants(case, compiled, device)
    x, variants = stage_variants(case, compiled and section == "stage", device)
    if section in ("density", "scaling"):  # few variants, many cases
        keep = ("all pairs", "dense", "textbook M", "RSTGConv, static")
        variants = [v for v in variants if v.name.startswith(keep) and not v.name.endswith("plain")]
    if section == "scaling" and x.size(-2) > 100:  # dense forms: minutes
        variants = [v for v in variants if not v.name.startswith(("all pairs", "dense"))]
    return x, variants


def measure(
    section: str, case: Case, rates: dict[str, float], quick: bool, device: str = "cpu"
) -> list[Row]:
    """The rows of one case."""
    edge_index, nodes = case.graph()
    x, variants = variants_of(section, case, quick, device)
    differences = check_equal(variants, x)
    rows = []
    for backward in (False, True):
        calls = {v.name: call_of(v, x, backward) for v in variants}
        needed = case.flops(section != "whole") * (3 if backward else 1)
        for variant, figures in zip(variants, timed(calls, 15, 2 if quick else 4, device)):
            row = {
                **asdict(case),
                "section": section,
                "case": str(case),
                "nodes": nodes,
                "edges": edge_index.size(1),
                "dtype": "float32",
                "threads": torch.get_num_threads(),
                "variant": variant.name,
                "pass": "forward + backward" if backward else "forward",
                **figures,
                "difference": differences.get(variant.name),
            }
            if variant.same and section != "published":  # of a graph alone the least work is known
                row["gflop_least"] = needed / 1e9
                seconds = figures["ms"] / 1e3
                row |= {f"share_of_{name}": needed / seconds / rate for name, rate in rates.items()}
            rows.append(row)
    return rows


def network_rows(quick: bool, device: str, section: str = "network") -> list[Row]:
    """Complete networks: forward, and forward + backward in training; on a GPU in bfloat16. Those of
    ``backbones`` also per floating-point operation.
    """
    half = device == "cuda"

    def run(model: torch.nn.Module, x: Tensor, backward: bool) -> None:
        model.train(backward)
        model.zero_grad()
        with torch.set_grad_enabled(backward), torch.autocast(device, torch.bfloat16, enabled=half):
            loss = model(x).float().sum()
        if backward:
            loss.backward()

    rows = []
    make = networks if section == "network" else inception_networks
    for case, (x, models) in make(quick, device).items():
        work = {n: flops(m, x) if section == "backbones" else None for n, m in models.items()}
        for backward in (False, True):
            calls = {name: partial(run, model, x, backward) for name, model in models.items()}
            found = timed(calls, 15, 4 if quick else 15, device)
            rows += [
                {
                    "section": section, "case": case, "dtype": "bfloat16" if half else "float32",
                    "threads": torch.get_num_threads(), "variant": name,
                    "pass": "forward + backward" if backward else "forward",
                    "parameters": sum(p.numel() for p in model.parameters()), **figures,
                    **per_flop(figures["ms"], work[name], found[0]["ms"], next(iter(work.values()))),
                }
                for (name, model), figures in zip(models.items(), found)
            ]  # fmt: skip
    return rows


def flops(model: torch.nn.Module, x: Tensor) -> int:
    """Floating-point operations of a forward pass, by torch's counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(x)
    return counter.get_total_flops()


def per_flop(ms: float, work: int | None, first_ms: float, first_work: int | None) -> dict[str, float]:
    """Operations, and the time for one of them relative to that of the first network."""
    if work is None or first_work is None:
        return {}
    return {"gflop": work / 1e9, "relative_per_flop": (ms / work) / (first_ms / first_work)}


def product_rates(device: str) -> dict[str, float]:
    """FLOP/s of a large matrix product: by ``torch.mm``, and on a CPU by oneDNN."""
    size = 8192 if device == "cuda" else 2048
    a, b = torch.randn(2, size, size, device=device)
    calls: dict[str, Callable[[], object]] = {"mm": lambda: a @ b}
    if has_onednn(a):
        calls["onednn"] = lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    found = timed(calls, 5, 60, device)
    return {name: 2 * size**3 / (row["ms"] / 1e3) for name, row in zip(calls, found)}


def machine(device: str) -> str:
    """Processor, threads and versions in one line."""
    name = f"{device_name(torch.device('cpu'))} ({torch.backends.cpu.get_cpu_capability()})"
    if device == "cuda":
        name = f"{torch.cuda.get_device_name()}, cuDNN {torch.backends.cudnn.version()}, {name}"
    return f"{name}, torch {torch.__version__}, Python {platform.python_version()}"


@command
def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # silences the profiler
    warnings.filterwarnings("ignore", message=".*TF32 acceleration.*")
    parser = argparse.ArgumentParser(
        prog="benchmark.py", description="What message passing costs.", allow_abbrev=False
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="the first case of each section, small: two minutes")
    add("--out", metavar="DIR", help="where to write JSON, Markdown and plots")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
    add("--threads", type=int, default=2, help="CPU threads (default: 2)")
    add("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.threads <= 4096:
        parser.error(f"--threads: expected 1 to 4096 (got {arguments.threads})")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: PyTorch sees no CUDA device here; leave it out to measure the CPU")
    out = None if arguments.out is None else named_folder(arguments.out)
    device, quick = arguments.device, arguments.quick
    torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32
    rows: list[Row] = []
    if out is not None:
        check_writable(out)
        rows = earlier_rows(out, machine(device))

    rates = product_rates(device)
    shown = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items())
    header = [machine(device), f"large matrix product in float32: {shown}", _NOTE]
    print("\n".join(header), flush=True)
    for section in arguments.sections:
        rows = [row for row in rows if row["section"] != section]  # it is measured again
        if section in ("network", "backbones"):
            rows += network_rows(quick, device, section)
        elif section == "streams":
            rows += stream_rows(quick)
        cases = SECTIONS[section]
        for case in [replace(case, channels=64) for case in cases[:1]] if quick else cases:
            rows += measure(section, case, rates, quick, device)
            write(rows, header, out)  # an interrupted run keeps its results so far
        write(rows, header, out)
        print(f"{section}\n\n{section_table(rows, section)}\n", flush=True)
    if out is not None:
        plots(rows, out)
    return 0


def earlier_rows(out: Path, machine: str) -> list[Row]:
    """The rows that are already in a folder.

    Raises:
        UserError: If they cannot be read, or were measured on another machine.
    """
    path = out / "benchmark.json"
    if not path.is_file():
        return []
    with of_this_command(path):
        found = json.loads(path.read_text(encoding="utf-8"))
        measured, rows = found["machine"], list(found["rows"])
        page(rows, [])
    if measured != machine:
        raise UserError(f"--out: {path} was measured elsewhere, not on {machine}; choose another one")
    return rows


def write(rows: list[Row], header: list[str], out: Path | None) -> None:
    """Writes the rows as JSON and Markdown to a folder, if one is given."""
    if out is not None:
        write_json(out / "benchmark.json", {"machine": header[0], "notes": header[1:], "rows": rows})
        write_text(out / "benchmark.md", page(rows, header))


if __name__ == "__main__":
    sys.exit(main())
