"""Convolutions and norms that the networks share, quick on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.common_types import _size_3_t

from rstg_pyg.fast.autograd import autocast_to, eager, no_autocast, opaque, untouched
from rstg_pyg.fast.linear import has_onednn, linear


class FrozenBatchNorm(torch.nn.BatchNorm3d):
    """Batch normalization that always uses its stored statistics, also in training.

    Gain and offset are trained; the statistics are those that came with the weights and never
    change (as in the published code; common when a batch has only a few clips). Epsilon is 1e-5.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to the same shape."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )

    def factors(self) -> tuple[Tensor, Tensor]:
        """Factor and offset of every channel."""
        assert self.running_mean is not None and self.running_var is not None
        factor = self.weight * torch.rsqrt(self.running_var + self.eps)
        return factor, self.bias - self.running_mean * factor


#: Makes a normalization from a number of channels.
Norm = Callable[[int], torch.nn.Module]


class Conv3d(torch.nn.Conv3d):
    """:class:`torch.nn.Conv3d` with right gradients in bfloat16 on a CPU.

    oneDNN (3.13, of torch 2.15) gives the weights of a padded convolution NaN, or other numbers every
    time, where a map has fewer frames than the kernel. So there the padding is made before.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        small = any(n < k for n, k in zip(input.shape[2:], self.kernel_size))
        if small and input.device.type == "cpu" and (eager() or opaque()):
            assert not isinstance(self.padding, str)
            input = F.pad(input, [n for n in reversed(self.padding) for _ in range(2)])
            return F.conv3d(input, weight, bias, self.stride, 0, self.dilation, self.groups)
        return super()._conv_forward(input, weight, bias)


class Conv(Conv3d):
    """A convolution with spatial stride and zero padding of half the kernel, without bias by default.

    With one CPU thread, kernels ``(t, 1, 1)`` in float32 are one matrix product for all their steps,
    whose results are shifted in time and added: there torch does not give them to oneDNN, and takes up
    to four times as long. Without gradients all kernels are oneDNN's, with what follows the convolution
    inside.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: tuple, stride: int = 1, bias: bool = False
    ):
        padding = tuple(k // 2 for k in kernel)
        super().__init__(in_channels, out_channels, kernel, (1, stride, stride), padding, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to ``[B, C', T, H / stride, W / stride]``."""
        return self.with_weight(x, self.weight, self.bias)

    def with_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same with another weight and with a bias."""
        plain = x.device.type != "cpu" or not eager() or torch.get_num_threads() > 1
        plain = plain or x.dtype != torch.float32 or autocast_to(x) is not None
        if plain or self.kernel_size[1:] != (1, 1) or self.stride[1] != 1:
            return self._conv_forward(x, weight, bias)
        x = x.movedim(1, -1)
        if self.kernel_size[0] == 1:
            return linear(x, weight.flatten(1), bias).movedim(-1, 1)
        # What every frame gives to those around it, for all k at once: [B, T, H, W, k, C'].
        steps = linear(x, weight.movedim(2, 0).flatten(0, 1).flatten(1))
        steps = steps.unflatten(-1, (self.kernel_size[0], -1))
        shifts = [self.kernel_size[0] // 2 - k for k in range(self.kernel_size[0])]
        parts = [
            F.pad(steps[..., k, :], [0] * 6 + [n, -n])
            for k, n in enumerate(shifts)
            if abs(n) < x.size(1)
        ]
        out = parts[0] if bias is None else parts[0].add_(bias)
        for part in parts[1:]:
            out = out.add_(part)
        return out.movedim(-1, 1)

    def fused(self, x: Tensor, weight: Tensor, bias: Tensor, add: Tensor | None, relu: bool) -> Tensor:
        """The same with another map to add and ReLU, in one call of oneDNN; not differentiable."""
        kind = autocast_to(x) or x.dtype
        x, weight, bias = x.to(kind), weight.to(kind), bias.to(kind)
        settings = (weight, bias, self.padding, self.stride, self.dilation, self.groups)
        call = torch.ops.mkldnn._convolution_pointwise
        if add is None:
            return call(x, *settings, "relu" if relu else "none", [], "")
        return call(x, add.to(kind), *settings, "add", 1.0, "relu" if relu else None, [], None)


class MaxPool3d(torch.nn.MaxPool3d):
    """Max pooling in the type of its input, also in autocast, which on a CPU would pool in float32: the
    same numbers in twice the memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to ``[B, C, T', H', W']``."""
        return self.padded(x, self.padding)

    def padded(self, x: Tensor, padding: _size_3_t) -> Tensor:
        """The same with another padding."""
        how = (self.kernel_size, self.stride, padding, self.dilation, self.ceil_mode)
        if x.device.type != "cpu" or autocast_to(x) is None:
            return F.max_pool3d(x, *how)
        with no_autocast(x):
            return F.max_pool3d(x, *how)


def normed(
    conv: Any,
    norm: Any,
    x: Tensor,
    add: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """``norm(conv(x)) + add``, and ReLU if asked for. Frozen statistics go into the convolution's
    weights, unless somebody looks at what is in between.
    """
    ours = type(conv) is Conv and type(norm) is FrozenBatchNorm and untouched(conv, norm)
    if not ours:
        out = norm(conv(x))
    else:
        factor, offset = norm.factors()
        if conv.bias is not None:
            offset = offset + conv.bias * factor
        weight = conv.weight * factor.view(-1, 1, 1, 1, 1)
        inside = x.device.type == "cpu" and eager() and not torch.is_grad_enabled()
        if inside and x.numel() > 0 and has_onednn(x, autocast_to(x) or x.dtype):
            return conv.fused(x, weight, offset, add, relu)
        out = conv.with_weight(x, weight, offset)
    out = out if add is None else out + add
    if not relu:
        return out
    return out.relu_() if ours or add is not None else out.relu()  # a hook may have kept it
