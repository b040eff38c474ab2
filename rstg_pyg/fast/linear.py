r"""Matrix products in float32 on the CPU by oneDNN instead of BLAS, where that is faster.

PyTorch's own ``mm`` calls MKL, which is slower on processors of other makers than Intel. oneDNN comes
with PyTorch, makes its kernels for the processor at hand, and is what ``torch.nn.LSTM`` and
convolutions run on already. Where it is missing or switched off
(``torch.backends.mkldnn.flags(enabled=False)``), everything is ``mm`` again; and so it is on Intel's
processors, where MKL is as fast.
"""

from functools import lru_cache
from typing import Any, Dict, Optional

import torch
import torch_geometric.nn
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn.parameter import UninitializedParameter

from rstg_pyg.fast.autograd import autocast_to, compiled, derivative, eager

#: Multiply-adds from which on the detour is worth its 20 microseconds.
LEAST_WORK = 2**21


@lru_cache(1)
def mkl_at_home() -> bool:
    """Whether ``mm`` is MKL's on a processor of Intel."""
    known: Dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # of newer torch
    return torch.backends.mkl.is_available() and str(known.get("cpu_name", "")).startswith("Intel")


def has_onednn(x: Tensor, kind: torch.dtype = torch.float32) -> bool:
    """Whether oneDNN can compute with ``x`` in this type, float32 or bfloat16."""
    if x.device.type != "cpu" or not torch.backends.mkldnn.enabled:
        return False
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if kind == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return kind == torch.float32


def uses_onednn(x: Tensor) -> bool:
    """Whether products of ``x`` go to oneDNN: the same for a forward and its backward pass."""
    return x.dtype == torch.float32 and has_onednn(x) and not mkl_at_home()


def product(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None, relu: bool = False) -> Tensor:
    """``x @ weight.t() + bias``, with ReLU if asked for; not differentiable.

    Args:
        x: ``[R, K]``, in any layout.
        weight: ``[D, K]``, in any layout.
        bias: ``[D]``.
        relu: Whether to apply ReLU to the result.

    Returns:
        ``[R, D]``.
    """
    if uses_onednn(x) and x.numel() > 0 and weight.numel() > 0:
        kind = "relu" if relu else "none"
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, kind, [], "")
    out = torch.mm(x, weight.t()) if bias is None else torch.addmm(bias, x, weight.t())
    return out.relu_() if relu else out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, weight, bias):
        ctx.save_for_backward(rows, weight, bias)
        return product(rows, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        rows, weight, bias = ctx.saved_tensors
        need = ctx.needs_input_grad
        if torch.is_grad_enabled():
            return derivative(torch.nn.functional.linear, (rows, weight, bias), need, grad)
        return (
            product(grad, weight.t()) if need[0] else None,
            product(grad.t(), rows.t()) if need[1] else None,
            grad.sum(0) if need[2] else None,
        )


@torch.compiler.assume_constant_result
def _onednn_here() -> bool:
    """What a compiler is told of :func:`uses_onednn`."""
    return uses_onednn(torch.zeros(1, dtype=torch.float32))


def linear(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """:func:`torch.nn.functional.linear`."""
    run = eager()
    if (
        not (run or compiled(x))
        or statically_known_true(x.numel() * weight.size(0) < LEAST_WORK)  # symbols for a compiler
        or not (uses_onednn(x) if run else _onednn_here())
        or not x.dtype == weight.dtype == torch.float32
        or autocast_to(x) is not None
        or x.dim() < 2
    ):
        return torch.nn.functional.linear(x, weight, bias)
    if not run:
        return torch.ops.rstg_pyg.linear(x, weight, bias)
    # Views are made out here: a layer's result may be overwritten, by ReLU for example.
    return _Linear.apply(x.flatten(0, -2), weight, bias).view(*x.shape[:-1], weight.size(0))


class _Plain(torch.nn.Linear):
    def __init__(self, *args: Any, **kwargs: Any):
        torch.nn.Module.__init__(self)  # PyG's class makes the parameters


class Linear(torch_geometric.nn.Linear, _Plain):
    """:class:`torch_geometric.nn.Linear` with oneDNN's matrix products where they are faster.

    It also is a :class:`torch.nn.Linear`, which adapters (LoRA) look for, and takes parametrizations.
    """

    in_channels: int
    out_channels: int

    @property
    def in_features(self) -> int:  # type: ignore[override]
        """As torch calls it."""
        return self.in_channels

    @property
    def out_features(self) -> int:  # type: ignore[override]
        """As torch calls it."""
        return self.out_channels

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        if isinstance(self._parameters.get("weight"), UninitializedParameter):
            super()._save_to_state_dict(destination, prefix, keep_vars)
        else:  # a parametrized weight is no parameter, and PyG would write it all the same
            torch.nn.Module._save_to_state_dict(self, destination, prefix, keep_vars)

    def forward(self, x: Tensor) -> Tensor:
        """"""
        return linear(x, self.weight, self.bias)
