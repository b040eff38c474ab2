"""The cases of the benchmark and the ways to compute each."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from rstg_pyg import RSTG, DenseRSTGConv, RSTGConv
from rstg_pyg.fast.autograd import plain_paths
from rstg_pyg.graphs import complete_graph, multiscale_grid
from rstg_pyg.train import baselines

#: Largest tensor of pairs that the dense forms may build, in numbers (1 GiB of float32).
MOST_PAIRS = 2**28


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


@dataclass
class Variant:
    """One way to compute a case."""

    name: str
    forward: Callable[[Tensor], Tensor]  # from and to the layout of the case
    parameters: list[torch.nn.Parameter]
    same: bool = True  # whether it computes the same function
    context: Callable[[], AbstractContextManager] = nullcontext  # around forward and backward


def _block_diagonal(edge_index: Tensor, nodes: int, copies: int) -> Tensor:
    return (edge_index.unsqueeze(1) + nodes * torch.arange(copies).view(1, -1, 1)).flatten(1)


def stage_variants(case: Case, compiled: bool = False) -> tuple[Tensor, list[Variant]]:
    """The input ``[frames, N, C]`` of a space stage, and the variants."""
    torch.manual_seed(0)
    edge_index, nodes = case.graph()
    kind = getattr(torch, case.dtype)
    conv = RSTGConv(case.channels, case.channels, attention_scale=case.channels**-0.5).to(kind)
    x = torch.randn(case.frames, nodes, case.channels, dtype=kind)
    batch = _block_diagonal(edge_index, nodes, case.frames)
    dense = DenseRSTGConv(case.channels, case.channels, attention_scale=case.channels**-0.5).to(kind)
    dense.load_state_dict(conv.state_dict())
    adjacency = torch.zeros(nodes, nodes)
    adjacency[edge_index[1], edge_index[0]] = 1.0

    def flat(module: Callable) -> Callable[[Tensor], Tensor]:
        return lambda x: module(x.flatten(0, 1), batch).view(x.shape)

    # The baselines have no factor on the logits: it goes into their queries.
    own = RSTGConv(case.channels, case.channels).to(kind)
    own.load_state_dict(conv.state_dict())
    with torch.no_grad():
        own.attend.lin_query.weight.mul_(case.channels**-0.5)
        own.attend.lin_query.bias.mul_(case.channels**-0.5)

    def static(x: Tensor) -> Tensor:
        return conv(x, edge_index)

    found = []

    def add(name: str, forward: Callable, module: torch.nn.Module, **kwargs) -> None:
        found.append(Variant(name, forward, list(module.parameters()), **kwargs))

    if case.frames * nodes * nodes * 2 * case.channels <= MOST_PAIRS:
        pairs = baselines.AllPairs(own, edge_index, nodes)
        add("all pairs, concatenated", pairs, pairs)
        add("dense twin, split first layer, plain", lambda x: dense(x, adjacency), dense,
            context=plain_paths)  # fmt: skip
        add("dense twin, split first layer", lambda x: dense(x, adjacency), dense)
    textbook = baselines.Textbook(own)
    add("textbook MessagePassing", flat(textbook), textbook)
    if importlib.util.find_spec("torch_scatter") is not None:
        scatter = baselines.TextbookScatter(own)
        add("textbook with torch-scatter", flat(scatter), scatter)
    add("RSTGConv, plain path", static, conv, context=plain_paths)
    add("RSTGConv, one function, products by mm", static, conv, context=_mm)
    add("RSTGConv, block-diagonal batch", flat(conv), conv)
    add("RSTGConv, static", static, conv)
    if compiled:
        add("RSTGConv, torch.compile", torch.compile(static), conv)
    for name in ("GATv2Conv", "TransformerConv"):
        other = baselines.per_frame(name, case.channels).to(kind)
        add(f"{name} per frame (another function)", flat(other), other, same=False)
    return x, found


def _mm() -> AbstractContextManager:
    """Products by ``torch.mm``: tells what the blocks do from what oneDNN does."""
    return torch.backends.mkldnn.flags(enabled=False)


def whole_variants(case: Case) -> tuple[Tensor, list[Variant]]:
    """The input ``[B, T, N, C]`` of the whole RSTG, and the variants."""
    torch.manual_seed(0)
    edge_index, nodes = case.graph()
    model = RSTG(case.channels, case.channels)
    x = torch.randn(case.batch, case.frames, nodes, case.channels)
    published = baselines.FrameByFrame(model, edge_index, nodes)
    loop = baselines.GraphLSTM(case.channels)
    attention = baselines.SpaceTimeAttention(case.channels)

    def run(x: Tensor) -> Tensor:
        return model(x, edge_index)

    return x, [
        Variant("published: loop over frames, all pairs", published, list(published.parameters())),
        Variant("RSTG, plain path", run, list(model.parameters()), context=plain_paths),
        Variant("RSTG", run, list(model.parameters())),
        Variant(
            "GConvLSTM-style loop (another function)",
            lambda x: loop(x, edge_index), list(loop.parameters()), same=False,
        ),
        Variant(
            "space-time attention layer (another function)",
            attention, list(attention.parameters()), same=False,
        ),
    ]  # fmt: skip
