"""What a compiled graph on a CPU holds as operations that ``torch.compile`` does not look into.

Left to it, sums over edges become loops over all edges, their gradients are added number by number,
ReLU stores a mask for its gradient, which takes twenty times as long as ReLU itself, and matrix
products go to MKL on any processor. So the functions of eager mode run instead: all of these in a
training step, the products in inference as well.
"""

from typing import Callable

import torch
from torch import Tensor

from rstg_pyg.fast.autograd import compiled_step, untouched
from rstg_pyg.fast.linear import product
from rstg_pyg.fast.messages import (
    blocks,
    sum_hidden,
    sum_hidden_backward,
    sum_messages,
    sum_messages_backward,
)

_HIDDEN = "Tensor src, Tensor dst, Tensor alpha, Tensor source, Tensor target"
_MESSAGES = (
    "Tensor src, Tensor dst, Tensor alpha, Tensor weight, Tensor? bias, Tensor source, Tensor target"
)


def _define(name, arguments, function, shapes):
    """Defines an operation: what it computes, and the shapes of its (contiguous) results."""
    torch.library.define(f"rstg_pyg::{name}", arguments)
    torch.library.impl(f"rstg_pyg::{name}", "CompositeExplicitAutograd", function)
    torch.library.register_fake(f"rstg_pyg::{name}", shapes)


def _alike(*inputs):
    return [x.new_empty(x.shape) for x in inputs if x is not None]


# Sums of weighted messages, for forms without a linear path. The messages come out, too: they are kept.
def _messages(*inputs):
    out, moments, messages = sum_messages(*inputs, keep=True)
    return out, moments, torch.cat(messages)


def _messages_shapes(src, dst, alpha, weight, bias, source, target, with_moments):
    nodes, copies, width = dst.size(0), dst.size(1), weight.size(0)
    out = src.new_empty(alpha.size(2), nodes, copies, width)
    moments = src.new_empty(2, copies, dtype=torch.double)
    return out, moments, src.new_empty(source.size(0), copies, width)


def _messages_backward(src, dst, alpha, weight, bias, source, target, messages, grad, d_moments):
    parts = [messages[block] for block in blocks(src, source)]
    inputs = (src, dst, alpha, weight, bias, source, target)
    return [x for x in sum_messages_backward(*inputs, parts, grad, d_moments) if x is not None]


def _keep_messages(ctx, inputs, output):
    *inputs, ctx.with_moments = inputs
    ctx.save_for_backward(*inputs, output[2])


def _differentiate_messages(ctx, grad, d_moments, _):
    d_moments = d_moments if ctx.with_moments else None
    grads = torch.ops.rstg_pyg.weighted_messages_backward(*ctx.saved_tensors, grad, d_moments)
    return (*grads, *[None] * (8 - len(grads)))


_define(
    "weighted_messages",
    f"({_MESSAGES}, bool with_moments) -> (Tensor, Tensor, Tensor)",
    _messages,
    _messages_shapes,
)
_define(
    "weighted_messages_backward",
    f"({_MESSAGES}, Tensor messages, Tensor grad, Tensor? d_moments) -> Tensor[]",
    _messages_backward,
    lambda src, dst, alpha, weight, bias, *others: _alike(src, dst, alpha, weight, bias),
)
torch.library.register_autograd(
    "rstg_pyg::weighted_messages", _differentiate_messages, setup_context=_keep_messages
)


# Sums of weighted hidden features, beside a linear path.
def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _differentiate_hidden(ctx, grad):
    grads = torch.ops.rstg_pyg.weighted_hidden_backward(*ctx.saved_tensors, grad)
    return (*grads, None, None)


_define(
    "weighted_hidden",
    f"({_HIDDEN}) -> Tensor",
    sum_hidden,
    lambda src, dst, alpha, *others: src.new_empty(alpha.size(2), *dst.shape[:2], src.size(-1)),
)
_define(
    "weighted_hidden_backward",
    f"({_HIDDEN}, Tensor grad) -> Tensor[]",
    lambda *inputs: list(sum_hidden_backward(*inputs)),
    lambda src, dst, alpha, *others: _alike(src, dst, alpha),
)
torch.library.register_autograd("rstg_pyg::weighted_hidden", _differentiate_hidden, setup_context=_keep)


# ReLU, whose gradient looks at its result.
def relu_of(act: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """The activation for ``x``: this operation in a compiled step, if it is an ordinary ReLU."""
    ours = compiled_step(x) and type(act) is torch.nn.ReLU and untouched(act)
    return torch.ops.rstg_pyg.relu if ours else act


def _keep_output(ctx, inputs, output):
    ctx.save_for_backward(output)


def _differentiate_relu(ctx, grad):
    return torch.ops.rstg_pyg.relu_backward(grad, *ctx.saved_tensors)


_define(
    "relu",
    "(Tensor x) -> Tensor",
    lambda x: x.relu().contiguous(),
    lambda x: x.new_empty(x.shape),
)
_define(
    "relu_backward",
    "(Tensor grad, Tensor out) -> Tensor",
    lambda grad, out: torch.ops.aten.threshold_backward(grad, out, 0).contiguous(),
    lambda grad, out: out.new_empty(out.shape),
)
torch.library.register_autograd("rstg_pyg::relu", _differentiate_relu, setup_context=_keep_output)


# Matrix products of oneDNN.
def _linear(x, weight, bias):
    return product(x.flatten(0, -2), weight, bias).view(*x.shape[:-1], weight.size(0))


def _keep_factors(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:2])


def _differentiate_linear(ctx, grad):
    (x, weight), need = ctx.saved_tensors, ctx.needs_input_grad
    rows = grad.flatten(0, -2)
    return (
        torch.ops.rstg_pyg.linear(grad, weight.t(), None) if need[0] else None,
        torch.ops.rstg_pyg.linear(rows.t(), x.flatten(0, -2).t(), None) if need[1] else None,
        rows.sum(0) if need[2] else None,
    )


_define(
    "linear",
    "(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
    _linear,
    lambda x, weight, bias: x.new_empty(*x.shape[:-1], weight.size(0)),
)
torch.library.register_autograd("rstg_pyg::linear", _differentiate_linear, setup_context=_keep_factors)
