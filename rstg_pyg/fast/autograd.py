"""What the autograd functions of the fast path share."""

from typing import Callable, List, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.fx.experimental import symbolic_shapes

#: Whether a compiler can be asked while it traces what it knows of sizes, which may be symbols for it:
#: from torch 2.7 on. Before, compiled graphs hold the plain path and the cells.
SIZES_CAN_BE_ASKED = hasattr(symbolic_shapes, "has_static_value")
_ENABLED = True
#: Where the modules that a fast path stands for are written.
_OWN = ("rstg_pyg.", "torch_geometric.nn.aggr.", "torch.nn.modules.activation")
#: Where torch keeps hooks on all modules.
_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)


class plain_paths:
    """Context in which no fast path is taken: for tests, comparisons and debugging.

    Example:
        >>> with plain_paths():
        ...     expected = conv(x, edge_index)
    """

    def __enter__(self):
        global _ENABLED
        self.before, _ENABLED = _ENABLED, False

    def __exit__(self, *args):
        global _ENABLED
        _ENABLED = self.before


def eager() -> bool:
    """Whether functions with a backward pass of their own can be used now.

    Compilers, function transforms (``vmap``, ``grad``, ``jvp``), forward-mode differentiation and
    dispatch modes (counters of FLOPs) look into the operations, so they get the plain formulas.
    """
    return (
        _ENABLED
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
        and torch._C._len_torch_dispatch_stack() == 0
    )


def opaque() -> bool:
    """Whether ``torch.compile`` is tracing, and not an export that must run without this package.

    Then operations of our own, which it does not look into, can be part of its graph. A strict export
    sets ``allow_rnn``; ``torch.compiler.is_exporting`` is always true for the compiler of torch 2.11.
    """
    return torch.compiler.is_dynamo_compiling() and not torch._dynamo.config.allow_rnn


def compiled(x: Tensor) -> bool:
    """Whether ``torch.compile`` is tracing for the CPU, where operations of our own can be faster than
    what it writes (:mod:`rstg_pyg.fast.operations`).
    """
    return (
        _ENABLED
        and SIZES_CAN_BE_ASKED
        and opaque()
        and x.device.type == "cpu"
        and not torch._C._are_functorch_transforms_active()
    )


def compiled_step(x: Tensor) -> bool:
    """The same of a training step."""
    return compiled(x) and torch.is_grad_enabled()


def untouched(*modules: Optional[torch.nn.Module]) -> bool:
    """Whether these modules compute what is written here, and have no hooks that expect their calls.

    Not so with hooks, and with modules (or methods ``forward``) that were put in the place of ours, as
    adapters of weights do.
    """
    if any(getattr(torch.nn.modules.module, name) for name in _GLOBAL_HOOKS):
        return False
    return not any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        or module._backward_pre_hooks or "forward" in module.__dict__
        or not type(module).forward.__module__.startswith(_OWN)
        for module in modules
        if module is not None
    )  # fmt: skip


def autocast_to(x: Tensor) -> Optional[torch.dtype]:
    """The type that autocast gives to matrix products of ``x``; ``None`` outside of it, and for
    float64, which it leaves alone.
    """
    kind = x.device.type
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def no_autocast(x: Tensor) -> torch.autocast:
    """Operations inside keep the types that they are given."""
    return torch.autocast(x.device.type, enabled=False)


def derivative(
    formula: Callable, inputs: Sequence[Optional[Tensor]], needed: Sequence[bool], *grads: Tensor
) -> Tuple[Optional[Tensor], ...]:
    """The gradient of the plain formula, itself differentiable: for second derivatives.

    Args:
        formula: Gives one tensor, or as many as there are ``grads``.
        inputs: Its arguments.
        needed: For which of them the gradient is wanted.
        grads: The gradient of each output.
    """
    # Aliases, so that only the direct influence of each input counts.
    inputs = [None if x is None else x.view_as(x) for x in inputs]
    wanted: List[Tensor] = [x for x, need in zip(inputs, needed) if need and x is not None]
    out = formula(*inputs)
    out = [out] if isinstance(out, Tensor) else list(out)
    found = iter(torch.autograd.grad(out, wanted, list(grads), create_graph=True, allow_unused=True))
    return tuple(next(found) if need and x is not None else None for x, need in zip(inputs, needed))
