"""The cases of the benchmark (graphs, widths and frames of each section), and how they are timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from rstg_pyg.graphs import complete_graph, multiscale_grid


@dataclass(frozen=True)
class Case:
    """A graph, its copies (frames of all clips), and the width."""

    scales: tuple[int, ...]
    frames: int
    channels: int
    topology: str = "grid"
    batch: int = 1  # clips, for the complete RSTG
    density: float | None = None  # fraction of all pairs, for random graphs

    def graph(self) -> tuple[Tensor, int]:
        """Edges (sorted by target) and the number of nodes."""
        grid = multiscale_grid(self.scales)
        n = grid.num_nodes
        if self.density is not None:
            generator = torch.Generator().manual_seed(0)
            order = torch.randperm(n * n, generator=generator)[: round(self.density * n * n)]
            order = order.sort()[0]
            return torch.stack([order % n, order // n]), n
        if self.topology == "complete":
            grid = complete_graph(grid)
        return grid.edge_index, n

    def __str__(self) -> str:
        edge_index, nodes = self.graph()
        graph = self.topology if self.density is None else f"{self.density:.0%} of all pairs"
        edges = f"{edge_index.size(1):,} edges ({graph})"
        return f"{nodes:,} nodes, {edges}, D = {self.channels}, {self.batch} x {self.frames} frames"

    def flops(self, stage: bool) -> float:
        """Minimum floating-point operations of the matrix products in one forward pass.

        A space stage: per node four projections and an update of three, per edge one product (all of
        ``C x C``). The complete RSTG: 3 rounds, and 4 time stages of eight products per node.
        """
        edge_index, nodes = self.graph()
        space = 7 * nodes + edge_index.size(1)
        per_frame = space if stage else 3 * space + 4 * 8 * nodes
        return 2.0 * per_frame * self.frames * self.batch * self.channels**2


_14, _30, _85 = (3, 2, 1), (4, 3, 2, 1), (1, 2, 4, 8)
_STAGE = [
    Case(_14, frames=64, channels=512),
    Case(_14, frames=640, channels=64),
    Case(_85, frames=16, channels=256),
]
_WHOLE = Case(_14, frames=16, channels=512, batch=4)
_PUBLISHED = Case(_14, frames=10, channels=512, batch=2)

#: The cases of each section; ``network``, ``backbones`` and ``streams`` time complete networks instead.
#: ``--quick`` takes the first case, with a width of 64.
SECTIONS: dict[str, list[Case]] = {
    "network": [],
    "stage": _STAGE,
    "whole": [_WHOLE],
    "published": [_PUBLISHED, replace(_PUBLISHED, batch=8), replace(_WHOLE, topology="complete")],
    "scaling": [Case(tuple(2**k for k in range(n)), frames=4, channels=256) for n in range(2, 7)],
    "density": [Case(_30, 32, 128, density=share) for share in (0.1, 0.25, 0.5, 1.0)],
    "backbones": [],
    "streams": [],
}


def timed(
    calls: Mapping[str, Callable[[], object]], repeats: int, seconds: float, device: str
) -> list[dict[str, float]]:
    """Times calls in alternation (A B C A B C ...), so that all run under the same conditions.

    Every call is warmed up once. No new round starts after the given number of seconds, but at least
    three are run.

    Returns:
        For every call the median time ``ms``, ``spread`` (the interquartile range divided by the
        median), the peak memory ``peak_mib``, and of 100 calls or more ``p99_ms``, which 99 % of them
        do not exceed.
    """
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in calls}
    peaks = {name: peak_bytes(call, device) for name, call in calls.items()}  # and warms up
    start = time.perf_counter()
    for n in range(repeats):
        if n >= 3 and time.perf_counter() - start > seconds:
            break
        for name, call in calls.items():
            wait()
            before = time.perf_counter()
            call()
            wait()
            times[name].append(1e3 * (time.perf_counter() - before))
    rows = []
    for name, found in times.items():
        low, median, high = statistics.quantiles(found, n=4)
        row = {"ms": median, "spread": (high - low) / median, "peak_mib": peaks[name] / 2**20}
        if len(found) >= 100:
            row["p99_ms"] = statistics.quantiles(found, n=100)[-1]
        rows.append(row)
    return rows


def peak_bytes(call: Callable[[], object], device: str) -> int:
    """Peak memory during a call, above the memory in use before it.

    Counts memory from PyTorch's allocator, including temporaries inside operations, but not the
    workspaces that libraries allocate themselves.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        call()
    events = profile.profiler.kineto_results.events()
    steps = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(accumulate((size for _, size in steps), initial=0))
