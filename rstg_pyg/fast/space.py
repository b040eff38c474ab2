"""A space stage's attention, messages and their weighted sum in one autograd function."""

from typing import Any, Optional, Tuple

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch_geometric.nn import SumAggregation

from rstg_pyg.fast.autograd import compiled_step, eager, untouched
from rstg_pyg.fast.edges import of_edges, pair_softmax, split_edges, without_denormals
from rstg_pyg.fast.linear import Linear
from rstg_pyg.fast.messages import weighted_hidden, weighted_messages, weighted_sources
from rstg_pyg.norm import JointLayerNorm
from rstg_pyg.parts import MLP_FACTOR
from rstg_pyg.softmax import edge_softmax

#: Multiply-adds of the edges' product from which on this pays on the CPU. Below (a few nodes, a frame
#: at a time) the plain path's fewer calls are faster.
LEAST_WORK = 2**23
#: Where numbers are computed (and not only shapes, as on the ``meta`` device).
_DEVICES = ("cpu", "cuda")
#: Where the methods that a fast path stands for are written; a subclass may have others.
_OWN = ("rstg_pyg.conv", "torch_geometric.nn.conv.message_passing")
_METHODS = ("message", "edge_update", "aggregate", "update")
#: PyG's hooks on messages (not on the module's call).
_HOOKS = [
    f"_{method}_forward{when}_hooks"
    for method in ("propagate", "message", "aggregate", "message_and_aggregate", "edge_update")
    for when in ("_pre", "")
]


def gather_messages(
    conv: Any,
    edge_index: Tensor,
    edge_attr: Optional[Tensor],
    edge_weight: Optional[Tensor],
    batch: Optional[Tensor],
    sources: Tuple[Tensor, Optional[Tensor]],
    targets: Tuple[Tensor, Optional[Tensor]],
) -> Optional[Tuple[Tensor, Tensor]]:
    r"""What ``edge_updater`` and ``propagate`` of :class:`~rstg_pyg.RSTGConv` compute together.

    What is linear at the end of a message (the last layer beside a linear path, a joint layer norm
    whose statistics are known, the value projection of several heads) is applied to each node's sums
    instead of to every message.

    Args:
        conv: The layer, a :class:`~rstg_pyg.RSTGConv`.
        edge_index: The edges.
        edge_attr: Edge features.
        edge_weight: Weights of the edges, ``[E, M or 1]``.
        batch: The graph of each node.
        sources: Features and positions of the senders, nodes first (``[S, M, C]``).
        targets: The same of the receivers.

    Returns:
        The aggregated messages ``[N, M, D]`` and the coefficients ``[E, M * H]``; ``None`` if the
        layer or its input asks for more than is done here, or has an error.
    """
    (x_src, pos_src), (x_dst, pos_dst) = sources, targets
    # First of all: a compiler would take what sizes are compared with for limits.
    if not (eager() or compiled_step(x_src)):
        return None
    if type(edge_index) is not Tensor or edge_index.layout != torch.strided:
        return None
    if edge_attr is not None or x_src.numel() == 0 or x_dst.numel() == 0 or edge_index.dim() != 2:
        return None
    if x_src.device.type not in _DEVICES:
        return None
    work = edge_index.size(-1) * x_dst.size(1) * conv.hidden_channels**2
    small = statically_known_true(work < LEAST_WORK)  # sizes are symbols for a compiler
    # A reentrant checkpoint runs without gradients first, then with them: dropout has to be the same.
    drops = conv.training and conv.dropout > 0
    if x_src.device.type == "cpu" and small and (torch.is_grad_enabled() or drops):
        return None
    if not _applies(conv) or (conv.message_norm is not None and batch is not None):
        return None
    edges = split_edges(edge_index, conv.flow, x_src.size(0), x_dst.size(0))
    if edges is None:
        return None
    source, target = edges.source, edges.target
    shape = (source.numel(), x_dst.size(1), conv.heads)

    pairs = None
    if conv.attend is None:
        logit = x_dst.new_zeros(shape)
    else:
        key, query = conv.attend.key(x_src), conv.attend.query(x_dst)
        if edges.pair is not None and edge_weight is None:
            pairs = pair_softmax(conv.attend.pairs(query, key), edges)
            pairs = torch.nn.functional.dropout(pairs, p=conv.dropout, training=conv.training)
            alpha = of_edges(pairs, edges)
        else:
            weight = conv.weight_of_logits(edge_weight)
            logit = conv.attend.edges(query, key, source, target, weight)
    if pairs is None:
        alpha = edge_softmax(logit, conv.weight_of_attention(edge_weight), target, x_dst.size(0))
        if edge_weight is None or not edge_weight.requires_grad:  # a weight of zero has a gradient
            alpha = without_denormals(alpha)
        alpha = torch.nn.functional.dropout(alpha, p=conv.dropout, training=conv.training)

    src, rest = conv.send.source_parts(x_src, pos_src)
    dst = conv.send.target_part(x_dst, pos_dst)
    lin, alphas = conv.send.lins[0], alpha.view(shape)
    if rest is not None:
        if pairs is not None:
            share = weighted_sources(rest, pairs.to(rest.dtype))
            out = weighted_hidden(src, dst, alphas, source, target)  # [H, N, M, *]
        else:
            both = torch.cat([src, rest], dim=-1)
            out = weighted_hidden(both, dst, alphas, source, target)
            out, skip = out.split([src.size(-1), rest.size(-1)], dim=-1)
            share = skip.unflatten(-1, (conv.heads, -1)).diagonal(dim1=0, dim2=-2)
            share = share.transpose(2, 3).flatten(2)
        return torch.add(share, _values(lin, out, alphas, target), alpha=MLP_FACTOR), alpha
    norm = conv.message_norm
    out, moments = weighted_messages(
        src, dst, alphas, lin.weight, lin.bias, source, target, norm is not None
    )  # [H, N, M, D]
    if norm is not None:
        out = _normalized(norm.module, out, moments, _totals(alphas, target, x_dst.size(0)))
    if conv.lin_value is None:
        return out.squeeze(0), alpha
    return _values(conv.lin_value, out, alphas, target), alpha


def _applies(conv: Any) -> bool:
    """Whether the layer is a plain one without hooks or explainers."""
    return (
        type(conv.send.act) is torch.nn.ReLU
        and untouched(conv.send, conv.send.act, conv.attend, conv.lin_value, conv.aggr_module)
        and len(conv.send.lins) == 1
        and untouched(*conv.send.lins)
        and _norm_applies(conv)
        and type(conv.aggr_module) is SumAggregation
        and not conv.explain
        and all(getattr(type(conv), name).__module__ in _OWN for name in _METHODS)
        and not any(getattr(conv, name) for name in _HOOKS)
    )


def _norm_applies(conv: Any) -> bool:
    """Whether there is no norm of messages, or one with the statistics of each frame's messages."""
    norm = conv.message_norm
    if norm is None:
        return True
    joint = type(norm.module) is JointLayerNorm and norm.module.num_joint_dims == 2
    return joint and not conv.send.skip and untouched(norm, norm.module)


def _totals(alpha: Tensor, target: Tensor, nodes: int) -> Tensor:
    """Sums of coefficients ``[E, M, H]`` per node, ``[H, N, M, 1]``."""
    total = alpha.new_zeros(nodes, *alpha.shape[1:]).index_add(0, target, alpha)
    return total.movedim(-1, 0).unsqueeze(-1)


def _normalized(norm: JointLayerNorm, out: Tensor, moments: Tensor, total: Tensor) -> Tensor:
    """The sums ``[H, N, M, D]`` of normalized messages from those of messages, their moments and the
    sums of coefficients.
    """
    mean, square = moments
    scale = torch.rsqrt((square - mean.square()).clamp(min=0) + norm.eps)
    kind = torch.promote_types(out.dtype, norm.weight.dtype)
    mean, scale = (x.to(kind).unsqueeze(-1) for x in (mean, scale))
    out, total = out.to(kind), total.to(kind)
    return (out - mean * total) * scale * norm.weight + total * norm.bias


def _values(lin: Linear, out: Tensor, alpha: Tensor, target: Tensor) -> Tensor:
    """Projects every head's sums ``[H, N, M, D]`` with its share of the weights: ``[N, M, D]``."""
    heads, nodes, copies, width = out.shape
    weight = lin.weight.view(heads, -1, width).transpose(1, 2).to(out.dtype)
    out = out.flatten(1, 2)
    if lin.bias is None:
        out = torch.bmm(out, weight)
    else:
        bias = lin.bias.view(heads, 1, -1).to(out.dtype)
        total = _totals(alpha, target, nodes).to(out.dtype).flatten(1, 2)
        out = torch.baddbmm(torch.bmm(total, bias), out, weight)
    return out.view(heads, nodes, copies, -1).permute(1, 2, 0, 3).flatten(2)
