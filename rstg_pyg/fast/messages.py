r"""The sum of weighted messages without the memory of all edges, and logits of all edges.

Both are written twice: as the formula (``*_formula``: the specification, and the way to second
derivatives), and as a function with a backward pass of its own that goes through the edges in blocks.
A block's hidden features stay in the cache between gathering, matrix product and sum. Of everything
that is as large as all edges, only the messages themselves are kept; what precedes them is gathered
and added again in the backward pass, which costs no matrix product.
"""

from typing import Iterator, Optional, Tuple

import torch
from torch import Tensor

from rstg_pyg.fast.autograd import autocast_to, derivative, no_autocast, opaque
from rstg_pyg.fast.linear import product

#: Bytes of a block of edges for each thread of the CPU: few enough for its cache. A GPU takes all edges
#: at once.
BLOCK_SIZE = 2**19
#: Rows of a block, at least, for a matrix product at full rate.
BLOCK_ROWS = 1024
#: Up to how many pairs of nodes per edge a matrix product over all pairs is cheaper than sums over the
#: edges alone.
PAIRS_PER_EDGE = 16


def weighted_messages_formula(
    src: Tensor,
    dst: Tensor,
    alpha: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],
    source: Tensor,
    target: Tensor,
) -> Tuple[Tensor, Tensor]:
    r"""Sums, for every target and head, the weighted messages of a send function of two layers:

    .. math::
        \mathbf{g}_{hi} = \sum_{j \in \mathcal{N}(i)} \alpha_{jih} \, \mathrm{ReLU} \left( \mathbf{W}
        \, \mathrm{ReLU} ( \mathbf{s}_j + \mathbf{d}_i ) + \mathbf{b} \right)

    Args:
        src: The senders' part of the first layer, ``[S, M, C]`` for M copies of the graph.
        dst: The receivers' part, ``[N, M, C]``.
        alpha: Attention coefficients, ``[E, M, H]``.
        weight: The second layer's weight, ``[D, C]``.
        bias: Its bias, ``[D]``, if it has one.
        source: The sender of every edge, ``[E]``.
        target: The receiver of every edge, ``[E]``.

    Returns:
        The sums ``[H, N, M, D]``; and over all edges and channels of each copy the mean of the messages
        and of their squares, ``[2, M]``, for norms (see :func:`weighted_messages`).
    """
    hidden = (src.index_select(0, source) + dst.index_select(0, target)).relu()
    message = torch.nn.functional.linear(hidden, weight, bias).relu()
    moments = torch.stack([message.double(), message.double().square()]).mean(dim=(1, 3))
    weighted = message.unsqueeze(0) * alpha.movedim(-1, 0).unsqueeze(-1)  # [H, E, M, D]
    out = weighted.new_zeros(weighted.size(0), *dst.shape[:2], weight.size(0))
    return out.index_add(1, target, weighted), moments


def sum_messages(src, dst, alpha, weight, bias, source, target, with_moments, keep):
    """The sums, the moments, and the messages of each block if they are to be kept."""
    out = src.new_zeros(alpha.size(2), *dst.shape[:2], weight.size(0))
    moments = src.new_zeros(2, dst.size(1), dtype=torch.double)
    messages = []
    with no_autocast(src):
        for block in blocks(src, source):
            j, i = source[block], target[block]
            hidden = _hidden(src, dst, j, i)
            message = product(hidden.flatten(0, 1), weight, bias, relu=True)
            message = message.view(*hidden.shape[:2], -1)
            _add_weighted(out, message, alpha[block], i)
            if with_moments:
                moments += _moments(message)
            if keep:
                messages.append(message)
    if with_moments:
        moments /= max(source.numel() * weight.size(0), 1)
    return out, moments, messages


def sum_messages_backward(src, dst, alpha, weight, bias, source, target, messages, grad, d_moments):
    """Gradients of sources, targets, coefficients, weight and bias from those of the sums and, if they
    were wanted, of the moments.
    """
    d_src, d_dst = src.new_zeros(src.shape), dst.new_zeros(dst.shape)
    d_alpha = alpha.new_empty(alpha.shape)
    d_weight = weight.new_zeros(weight.shape)
    d_bias = None if bias is None else torch.zeros_like(bias)
    shift = scale = None  # of the messages' gradients by their moments, [M, 1]
    if d_moments is not None:
        d_moments = d_moments / max(source.numel() * weight.size(0), 1)
        shift, scale = d_moments.to(src.dtype).unsqueeze(-1)
        scale = 2 * scale
    for block, message in zip(blocks(src, source), messages):
        j, i = source[block], target[block]
        d_message, d_alpha[block] = _weighted_backward(grad, message, alpha[block], i)
        if scale is not None:
            d_message.addcmul_(message, scale).add_(shift)
        # Through the ReLU, to the rows of a matrix product.
        d_message = torch.ops.aten.threshold_backward(d_message, message, 0).flatten(0, 1)
        hidden = _hidden(src, dst, j, i)
        d_weight += product(d_message.t(), hidden.flatten(0, 1).t())
        if d_bias is not None:
            d_bias += d_message.sum(0)
        d_hidden = product(d_message, weight.t()).view(hidden.shape)
        d_hidden = torch.ops.aten.threshold_backward(d_hidden, hidden, 0)
        d_src.index_add_(0, j, d_hidden)
        d_dst.index_add_(0, i, d_hidden)
        del d_message, d_hidden, hidden  # before the next block takes its own
    return d_src, d_dst, d_alpha, d_weight, d_bias


def _moments(message: Tensor) -> Tensor:
    """Sums of messages ``[e, M, D]`` and of their squares over edges and channels, ``[2, M]``."""
    if message.dtype in (torch.float16, torch.bfloat16):
        message = message.float()
    both = torch.stack([message.sum(-1), torch.linalg.vecdot(message, message)])
    return both.sum(1, dtype=torch.double)


def blocks(x: Tensor, source: Tensor, multiplied: bool = True) -> Iterator[slice]:
    """The edges in blocks, for node features ``[N, M, ...]``, with or without a matrix product."""
    edges = source.numel()
    step = max(1, edges)
    if x.device.type == "cpu":
        size = BLOCK_SIZE // x.element_size() * torch.get_num_threads()
        rows = max(BLOCK_ROWS if multiplied else 1, size // x.size(-1))
        step = max(1, rows // x.size(1))
    return (slice(start, min(start + step, edges)) for start in range(0, edges, step))


def _hidden(src: Tensor, dst: Tensor, j: Tensor, i: Tensor) -> Tensor:
    """The first layer of the send function for some edges, ``[e, M, C]``, and beside it what else the
    senders have, ``[e, M, C + R]``.
    """
    out = src.index_select(0, j)
    out[..., : dst.size(-1)].add_(dst.index_select(0, i)).relu_()
    return out


def _add_weighted(out: Tensor, features: Tensor, alpha: Tensor, i: Tensor) -> None:
    """Adds features ``[e, M, D]`` of some edges, times ``alpha [e, M, H]``, to their targets' sums,
    ``out [H, N, M, D]``.
    """
    for h in range(alpha.size(2)):
        out[h].index_add_(0, i, features * alpha[:, :, h, None])


def _weighted_backward(grad, features, alpha, i):
    """Gradients of the features and weights of :func:`_add_weighted` from those of the sums."""
    d_features, d_alpha = None, torch.empty_like(alpha)
    for h in range(alpha.size(2)):
        d_out = grad[h].index_select(0, i)
        d_alpha[:, :, h] = torch.linalg.vecdot(features, d_out)
        d_out.mul_(alpha[:, :, h, None])
        d_features = d_out if d_features is None else d_features.add_(d_out)
    return d_features, d_alpha


class _WeightedMessages(torch.autograd.Function):
    @staticmethod
    def forward(ctx, src, dst, alpha, weight, bias, source, target, with_moments):
        keep = any(ctx.needs_input_grad)
        inputs = (src, dst, alpha, weight, bias, source, target)
        out, moments, messages = sum_messages(*inputs, with_moments, keep)
        ctx.with_moments = with_moments
        if keep:
            ctx.save_for_backward(*inputs, *messages)
        return out, moments

    @staticmethod
    def backward(ctx, grad, d_moments):
        *inputs, source, target = ctx.saved_tensors[:7]
        messages = ctx.saved_tensors[7:]
        with no_autocast(grad):
            if torch.is_grad_enabled():
                grads = derivative(
                    lambda *inputs: weighted_messages_formula(*inputs, source, target),
                    inputs,
                    ctx.needs_input_grad,
                    grad,
                    d_moments,
                )
            else:
                d_moments = d_moments if ctx.with_moments else None
                grads = sum_messages_backward(*inputs, source, target, messages, grad, d_moments)
        return (*grads, None, None, None)


def weighted_messages(
    src: Tensor,
    dst: Tensor,
    alpha: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],
    source: Tensor,
    target: Tensor,
    with_moments: bool = True,
) -> Tuple[Tensor, Tensor]:
    r"""See :func:`weighted_messages_formula`. Without ``with_moments`` the moments are zero.

    A norm of the messages with one mean :math:`\mu` and deviation :math:`\sigma` per copy is linear
    once they are known, so it may follow the sums:

    .. math::
        \sum_j \alpha_{jih} \left( \frac{\mathbf{m}_{ji} - \mu}{\sigma} \gamma + \beta \right)
        = \frac{\mathbf{g}_{hi} - \mu \sum_j \alpha_{jih}}{\sigma} \gamma
        + \beta \sum_j \alpha_{jih}
    """
    kind = autocast_to(src) or src.dtype
    src, dst, alpha, weight = (x.to(kind) for x in (src, dst, alpha, weight))
    bias = None if bias is None else bias.to(kind)
    if opaque():
        inputs = (src, dst, alpha, weight, bias, source, target)
        out, moments, _ = torch.ops.rstg_pyg.weighted_messages(*inputs, with_moments)
        return out, moments
    return _WeightedMessages.apply(src, dst, alpha, weight, bias, source, target, with_moments)


def weighted_hidden_formula(
    src: Tensor, dst: Tensor, alpha: Tensor, source: Tensor, target: Tensor
) -> Tensor:
    r"""Sums, for every target and head, weighted hidden features, and what goes around them:

    .. math::
        \mathbf{g}_{hi} = \sum_{j \in \mathcal{N}(i)} \alpha_{jih} \left[ \mathrm{ReLU} ( \mathbf{s}_j +
        \mathbf{d}_i ) \, \Vert \, \mathbf{r}_j \right]

    Args:
        src: Both parts of the senders, ``[S, M, C + R]``.
        dst: The receivers' part of the first layer, ``[N, M, C]``.
        alpha: Attention coefficients, ``[E, M, H]``.
        source: The sender of every edge, ``[E]``.
        target: The receiver of every edge, ``[E]``.

    Returns:
        ``[H, N, M, C + R]``.
    """
    hidden, rest = src.index_select(0, source).split([dst.size(-1), src.size(-1) - dst.size(-1)], -1)
    hidden = torch.cat([(hidden + dst.index_select(0, target)).relu(), rest], dim=-1)
    weighted = hidden.unsqueeze(0) * alpha.movedim(-1, 0).unsqueeze(-1)  # [H, E, M, C + R]
    out = weighted.new_zeros(weighted.size(0), *dst.shape[:2], src.size(-1))
    return out.index_add(1, target, weighted)


def sum_hidden(src, dst, alpha, source, target):
    """The sums, by blocks of edges."""
    out = src.new_zeros(alpha.size(2), *dst.shape[:2], src.size(-1))
    for block in blocks(src, source, multiplied=False):
        j, i = source[block], target[block]
        _add_weighted(out, _hidden(src, dst, j, i), alpha[block], i)
    return out


def sum_hidden_backward(src, dst, alpha, source, target, grad):
    """Gradients of sources, targets and coefficients from those of the sums."""
    d_src, d_dst = src.new_zeros(src.shape), dst.new_zeros(dst.shape)
    d_alpha = alpha.new_empty(alpha.shape)
    for block in blocks(src, source, multiplied=False):
        j, i = source[block], target[block]
        hidden = _hidden(src, dst, j, i)
        d_hidden, d_alpha[block] = _weighted_backward(grad, hidden, alpha[block], i)
        first, active = d_hidden[..., : dst.size(-1)], hidden[..., : dst.size(-1)]
        # Through the ReLU, in place.
        torch.ops.aten.threshold_backward.grad_input(first, active, 0, grad_input=first)
        d_src.index_add_(0, j, d_hidden)
        d_dst.index_add_(0, i, first)
    return d_src, d_dst, d_alpha


class _WeightedHidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, src, dst, alpha, source, target):
        ctx.save_for_backward(src, dst, alpha, source, target)
        return sum_hidden(src, dst, alpha, source, target)

    @staticmethod
    def backward(ctx, grad):
        *inputs, source, target = ctx.saved_tensors
        if torch.is_grad_enabled():
            grads = derivative(
                lambda *inputs: weighted_hidden_formula(*inputs, source, target),
                inputs,
                ctx.needs_input_grad,
                grad,
            )
        else:
            grads = sum_hidden_backward(*inputs, source, target, grad)
        return (*grads, None, None)


def weighted_hidden(src: Tensor, dst: Tensor, alpha: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """See :func:`weighted_hidden_formula`."""
    kind = autocast_to(src) or src.dtype
    inputs = (src.to(kind), dst.to(kind), alpha.to(kind), source, target)
    return torch.ops.rstg_pyg.weighted_hidden(*inputs) if opaque() else _WeightedHidden.apply(*inputs)


def weighted_sources(x: Tensor, pairs: Tensor) -> Tensor:
    """Sums of what the senders have, weighted: each head weights its share of the channels. One matrix
    product per copy and head, over all pairs of nodes.

    Args:
        x: ``[S, M, R]``.
        pairs: Attention coefficients of all pairs, ``[M * H, N, S]``.

    Returns:
        ``[N, M, R]``.
    """
    copies, rest = x.shape[1:]
    x = x.reshape(x.size(0), pairs.size(0), -1).transpose(0, 1)  # [M * H, S, R / H]
    return torch.bmm(pairs, x).transpose(0, 1).reshape(pairs.size(1), copies, rest)


def few_pairs(source: Tensor, sources: int, targets: int) -> bool:
    """Whether matrix products over all pairs of nodes are cheaper than sums over the edges alone."""
    return targets * sources <= PAIRS_PER_EDGE * source.numel()


def edge_dots_formula(query: Tensor, key: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Dot products of the receiver's query and the sender's key.

    Args:
        query: ``[N, M, H, D]``.
        key: ``[S, M, H, D]``.
        source: The sender of every edge, ``[E]``.
        target: The receiver of every edge, ``[E]``.

    Returns:
        ``[E, M, H]``.
    """
    return (query.index_select(0, target) * key.index_select(0, source)).sum(-1)


class _EdgeDots(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, source, target):
        ctx.save_for_backward(query, key, source, target)
        out = query.new_empty(source.numel(), *query.shape[1:3])
        for block in blocks(query, source, multiplied=False):
            out[block] = edge_dots_formula(query, key, source[block], target[block])
        return out

    @staticmethod
    def backward(ctx, grad):
        query, key, source, target = ctx.saved_tensors
        if torch.is_grad_enabled():
            grads = derivative(
                lambda *inputs: edge_dots_formula(*inputs, source, target),
                (query, key),
                ctx.needs_input_grad,
                grad,
            )
            return (*grads, None, None)
        d_query, d_key = torch.zeros_like(query), torch.zeros_like(key)
        for block in blocks(query, source, multiplied=False):
            j, i, g = source[block], target[block], grad[block].unsqueeze(-1)
            d_query.index_add_(0, i, key.index_select(0, j).mul_(g))
            d_key.index_add_(0, j, query.index_select(0, i).mul_(g))
        return d_query, d_key, None, None


def edge_dots(query: Tensor, key: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """See :func:`edge_dots_formula`."""
    (targets, copies, heads, _), sources = query.shape, key.size(0)
    if opaque():
        return edge_dots_formula(query, key, source, target)
    if not few_pairs(source, sources, targets):
        return _EdgeDots.apply(query, key, source, target)
    pairs = pair_dots(query.flatten(1, 2), key.flatten(1, 2)).flatten(1)  # [M * H, N * S]
    return pairs.index_select(1, target * sources + source).t().unflatten(1, (copies, heads))


def pair_dots(query: Tensor, key: Tensor) -> Tensor:
    """Dot products of all pairs ``[K, N, S]``, from queries ``[N, K, D]`` and keys ``[S, K, D]``."""
    return torch.bmm(query.transpose(0, 1), key.permute(1, 2, 0))
