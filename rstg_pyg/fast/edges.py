"""The edges of the fast path, and attention as a softmax over all pairs of nodes where there are few
pairs for each edge.
"""

from functools import lru_cache
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from rstg_pyg.fast.autograd import opaque
from rstg_pyg.fast.messages import few_pairs

#: Attention below counts as none.
LEAST_SHARE = 1e-20
#: Up to how many numbers of an ``edge_index`` what follows from it is kept.
MOST_KEPT = 2**12


class Edges(NamedTuple):
    """The ends of the edges, and where there are few pairs of nodes for each edge what a softmax over
    pairs needs.
    """

    source: Tensor  # [E]
    target: Tensor  # [E]
    pair: Optional[Tensor] = None  # of each edge, target * S + source, [E]
    number: Optional[Tensor] = None  # of edges in a pair, [N, S]
    bias: Optional[Tensor] = None  # of a pair's logit: the logarithm, [N, S]


def split_edges(edge_index: Tensor, flow: str, sources: int, targets: int) -> Optional[Edges]:
    """The edges; ``None`` where the plain path has an error to report."""
    if edge_index.size(0) != 2 or edge_index.dtype != torch.int64 or edge_index.numel() == 0:
        return None
    if opaque():  # sizes may be symbols, and values are not known: what uses them will report errors
        few = statically_known_true(few_pairs(edge_index[0], sources, targets))
        return _make_edges(edge_index, flow, sources, targets, few)
    settings = (flow, sources, targets, few_pairs(edge_index[0], sources, targets))
    if edge_index.device.type == "cpu" and edge_index.numel() <= MOST_KEPT:
        with torch.inference_mode(False):  # kept, also for steps with gradients
            return _kept_edges(edge_index.numpy().tobytes(), *settings)
    return _make_edges(edge_index, *settings)


def _make_edges(
    edge_index: Tensor, flow: str, sources: int, targets: int, few: bool
) -> Optional[Edges]:
    first, second = edge_index.unbind(0)
    source, target = (first, second) if flow == "source_to_target" else (second, first)
    if edge_index.device.type == "cpu" and not opaque():  # elsewhere, looking would mean to wait
        low, high = torch.stack([source, target]).aminmax(dim=1)
        if int(low.min()) < 0 or int(high[0]) >= sources or int(high[1]) >= targets:
            return None
    if not few:
        return Edges(source, target)
    pair = target * sources + source
    number = torch.zeros(targets * sources, dtype=torch.double, device=pair.device)
    number = number.index_add_(0, pair, torch.ones_like(pair, dtype=number.dtype)).view(targets, -1)
    alone = number.sum(1, keepdim=True) == 0  # a softmax of nothing would be no number
    return Edges(source, target, pair, number, number.log().masked_fill_(alone, 0.0))


@lru_cache(16)
def _kept_edges(edges: bytes, *settings: Any) -> Optional[Edges]:
    """The same of the bytes of ``edge_index``, kept: making it takes long beside small attention."""
    edge_index = torch.frombuffer(bytearray(edges), dtype=torch.int64).view(2, -1)
    return _make_edges(edge_index, *settings)


def without_denormals(alpha: Tensor) -> Tensor:
    """Coefficients of which those that are nearly zero are zero. Attention that is sure of itself has
    many of them; times a gradient they are denormal numbers, with which matrix products take ten times
    as long.
    """
    return torch.nn.functional.threshold(alpha, LEAST_SHARE, 0.0)


def pair_softmax(logit: Tensor, edges: Edges) -> Tensor:
    """Attention coefficients of all pairs ``[K, N, S]`` from their logits; zero where there is no
    edge.
    """
    assert edges.number is not None and edges.bias is not None
    pairs = torch.softmax(logit + edges.bias.to(logit.dtype), dim=-1)
    return without_denormals(pairs * edges.number.to(pairs.dtype).clamp(max=1))


def of_edges(pairs: Tensor, edges: Edges) -> Tensor:
    """Coefficients of the edges, ``[E, K]``: those of one pair share its own."""
    assert edges.pair is not None and edges.number is not None
    shares = pairs / edges.number.to(pairs.dtype).clamp(min=1)
    return shares.flatten(1).index_select(1, edges.pair).t()
