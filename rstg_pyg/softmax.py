"""Attention coefficients from logits, and from weights of edges beside them."""

import math
from typing import Callable, Optional

import torch
from torch import Tensor
from torch_geometric.utils import scatter, softmax

from rstg_pyg.fast.autograd import eager


def edge_softmax(
    logit: Tensor, weight: Optional[Tensor], index: Tensor, num_nodes: Optional[int]
) -> Tensor:
    r"""Attention coefficients ``[E, M * H]`` of the edges of each target.

    .. math::
        \alpha_{ji} = \frac{w_{ji} \exp (l_{ji})}{\sum_{k \in \mathcal{N}(i)} w_{ki} \exp (l_{ki})}

    Args:
        logit: ``[E, M, H]``.
        weight: Factors ``[E, M or 1]``, not negative.
        index: The target of every edge, ``[E]``.
        num_nodes: The number of targets.
    """
    if weight is None:
        # Always by index: with `ptr` another branch would run, without a second derivative.
        return softmax(logit.flatten(1), index, num_nodes=num_nodes, dim=0).to(logit.dtype)

    def over_edges(values: Tensor, how: str) -> Tensor:
        out = scatter(values.flatten(1), index, dim=0, dim_size=num_nodes, reduce=how)
        return out.index_select(0, index).view_as(values)

    return weighted_softmax(logit, weight.unsqueeze(-1), over_edges).flatten(1)


def weighted_softmax(
    logit: Tensor, weight: Tensor, over_edges: Callable[[Tensor, str], Tensor]
) -> Tensor:
    """Shares of ``weight * exp(logit)``; zero where all weights are.

    Args:
        logit: Logits.
        weight: Factors, not negative.
        over_edges: Gives for every edge the ``"max"`` or ``"sum"`` over the edges of its target.

    Raises:
        ValueError: If a weight is negative.
    """
    if eager() and weight.device.type == "cpu" and bool((weight < 0).any()):
        raise ValueError(
            f"Expected 'edge_weight' not to be negative (got {weight.min().item():.4g}): it is a "
            "factor of the attention; with edge_weight_on='logits' it multiplies the logits"
        )
    dtype = logit.dtype
    kind = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    logit, weight = logit.to(kind), weight.to(kind)
    largest = over_edges((logit + weight.log()).detach(), "max")
    largest = largest.masked_fill(largest == -math.inf, 0.0)
    # Weights of zero may have any logit: infinity times zero is no number.
    limit = math.log(torch.finfo(kind).max) - 8
    share = weight * (logit - largest).clamp(max=limit).exp()
    total = over_edges(share, "sum")
    return (share / (total + (total == 0))).to(dtype)
