"""What the benchmark measures: graphs, widths, frames, and in which section."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rstg_pyg.graphs import complete_graph, multiscale_grid


@dataclass(frozen=True)
class Case:
    """One row group: a graph, its copies (frames of all clips), and the width."""

    scales: tuple[int, ...]
    frames: int
    channels: int
    topology: str = "grid"
    batch: int = 1  # clips, of the whole RSTG
    density: float | None = None  # share of all pairs, for random graphs
    dtype: str = "float32"
    threads: int | None = None  # None: those of the command

    def graph(self) -> tuple[Tensor, int]:
        """Edges (sorted by target) and the number of nodes."""
        grid = multiscale_grid(self.scales)
        if self.density is not None:
            generator = torch.Generator().manual_seed(0)
            n = grid.num_nodes
            order = torch.randperm(n * n, generator=generator)[: round(self.density * n * n)]
            order = order.sort()[0]
            return torch.stack([order % n, order // n]), n
        if self.topology == "complete":
            grid = complete_graph(grid)
        return grid.edge_index, grid.num_nodes

    def flops(self, stage: bool) -> float:
        """Floating-point operations of one forward pass that matrix products need at least.

        A space stage: per node four projections and an update of three, per edge one product (all of
        ``C x C``). The whole: 3 rounds and 4 time stages of eight products per node.
        """
        edge_index, nodes = self.graph()
        space = 7 * nodes + edge_index.size(1)
        per_frame = space if stage else 3 * space + 4 * 8 * nodes
        return 2.0 * per_frame * self.frames * self.batch * self.channels**2


_14, _30, _85, _285 = (3, 2, 1), (4, 3, 2, 1), (1, 2, 4, 8), tuple(range(1, 10))

#: The cases that the project promises ratios for.
PROMISED = [
    Case(_14, frames=64, channels=512),
    Case(_14, frames=640, channels=64),
    Case(_85, frames=16, channels=256),
]
_WHOLE = Case(_14, frames=16, channels=512, batch=4)


def cases(section: str, quick: bool) -> list[Case]:
    """What a section measures; of ``quick`` runs, the promised cases and ends of the axes."""
    return _SECTIONS[section](quick)


def _stage(quick: bool) -> list[Case]:
    more = [
        Case(scales, frames=frames, channels=channels, topology=topology)
        for scales, frames in ((_14, 64), (_30, 32), (_85, 16), (_285, 4))
        for channels in (64, 128, 256, 512)
        for topology in ("grid", "complete")
        if not (scales == _285 and topology == "complete")
    ]
    return PROMISED if quick else PROMISED + [case for case in more if case not in PROMISED]


def _scaling(quick: bool) -> list[Case]:
    channels = 64 if quick else 256
    return [Case(tuple(2**k for k in range(n)), frames=4, channels=channels) for n in range(2, 7)]


def _density(quick: bool) -> list[Case]:
    shares = (0.25, 0.5, 1.0) if quick else (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    return [Case(_30, frames=32, channels=128, density=share) for share in shares]


def _frames(quick: bool) -> list[Case]:
    return [Case(_14, frames=n, channels=256) for n in ((1,) if quick else (1, 4, 16, 64, 256))]


def _threads(quick: bool) -> list[Case]:
    most = os.cpu_count() or 1
    counts = () if quick else [n for n in (1, 2, 4, 8, 16) if n <= most]
    return [replace(PROMISED[0], threads=n) for n in counts]


def _dtypes(quick: bool) -> list[Case]:
    kinds = () if quick else ("float32", "float64", "bfloat16")
    return [replace(PROMISED[0], dtype=kind) for kind in kinds]


def _switches(quick: bool) -> list[Case]:
    small = [Case(_14, frames=n, channels=64) for n in (1, 8)]
    return [] if quick else [*PROMISED, *small]


def _whole(quick: bool) -> list[Case]:
    return [_WHOLE] if quick else [_WHOLE, replace(_WHOLE, batch=1), replace(_WHOLE, batch=16)]


_SECTIONS = {
    "stage": _stage,
    "scaling": _scaling,
    "density": _density,
    "frames": _frames,
    "threads": _threads,
    "dtypes": _dtypes,
    "switches": _switches,
    "whole": _whole,
}

#: All sections; ``network`` has no cases but whole networks.
SECTIONS = (*_SECTIONS, "network")
