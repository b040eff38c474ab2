r"""Wide 3 x 3 convolutions in float32 on the CPU with fewer multiplications.

Winograd's :math:`F(2 \times 2, 3 \times 3)` (`Lavin and Gray, Fast Algorithms for Convolutional Neural
Networks <https://arxiv.org/abs/1509.09308>`_, section 4.1) computes four results of a filter from 16
products instead of 36:

.. math::
    Y = A^\top \left[ (G g G^\top) \odot (B^\top d B) \right] A

with a filter :math:`g` and a tile :math:`d` of 4 x 4 inputs. For all tiles and channels these are 16
matrix products. With hundreds of channels they are nearly all the work, in the backward pass as well;
with few, rearranging the map costs more than is saved. The rounding error is a few times that of a
direct sum.
"""

from typing import Iterator, Optional, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rstg_pyg.fast.autograd import autocast_to, derivative, eager
from rstg_pyg.fast.linear import product, uses_onednn

#: Channels from which on it is faster than oneDNN's convolution.
LEAST_CHANNELS = 384
#: Tiles at a time: few enough for the cache.
BLOCK_TILES = 1024
_G = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


class Conv3x3(torch.nn.Conv2d):
    """:class:`torch.nn.Conv2d` with a kernel of 3 x 3 and stride 1, faster with many channels."""

    def __init__(self, in_channels: int, out_channels: int, padding: int = 0, bias: bool = True):
        super().__init__(in_channels, out_channels, 3, padding=padding, bias=bias)

    def wide(self, x: Tensor) -> bool:
        """Whether ``x`` takes the faster way, which needs no blocks of frames."""
        return (
            min(self.in_channels, self.out_channels) >= LEAST_CHANNELS
            and eager()
            and x.device.type == "cpu"
            and x.dtype == torch.float32
            and autocast_to(x) is None
        )

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        if self.wide(input):
            return _Winograd.apply(input, weight, bias, self.padding[0])
        return super()._conv_forward(input, weight, bias)


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, padding):
        ctx.save_for_backward(x, weight, bias)
        ctx.padding = padding
        return _conv(x, weight, bias, padding)

    @staticmethod
    def backward(ctx, grad):
        x, weight, bias = ctx.saved_tensors
        padding, need = ctx.padding, ctx.needs_input_grad
        if torch.is_grad_enabled():
            plain = lambda *args: F.conv2d(*args, padding=padding)  # noqa: E731
            return *derivative(plain, (x, weight, bias), need, grad), None
        turned = weight.flip(2, 3).transpose(0, 1)
        return (
            _conv(grad, turned, None, 2 - padding) if need[0] else None,
            _gradient_of_weight(x, grad, padding) if need[1] else None,
            grad.sum((0, 2, 3)) if need[2] else None,
            None,
        )


def _conv(x: Tensor, weight: Tensor, bias: Optional[Tensor], padding: int) -> Tensor:
    """:func:`torch.nn.functional.conv2d`, channels-last."""
    filters = torch.einsum("ia,jb,ocab->jico", *[weight.new_tensor(_G)] * 2, weight).flatten(0, 1)
    height, width = (size + 2 * padding - 2 for size in x.shape[2:])
    out = x.new_empty(x.size(0), height, width, weight.size(0))
    for frames, tiles in _blocks(x, padding):
        products = _products(tiles.flatten(0, 1).flatten(1, 3), filters)
        block = _results(products.view(*tiles.shape[:-1], -1))[:, :height, :width]
        if bias is None:
            out[frames] = block
        else:
            torch.add(block, bias, out=out[frames])
    return out.movedim(-1, 1)


def _gradient_of_weight(x: Tensor, grad: Tensor, padding: int) -> Tensor:
    """The gradient of :func:`_conv` for its filters."""
    filters = x.new_zeros(16, x.size(1), grad.size(1))
    height, width = grad.shape[2:]
    for frames, tiles in _blocks(x, padding):
        block = F.pad(grad[frames].movedim(1, -1), (0, 0, 0, width % 2, 0, height % 2))
        parts = _spread(_spread(block, 1), 3)
        filters += _products(tiles.flatten(0, 1).flatten(1, 3).mT, parts.flatten(0, 1).flatten(1, 3))
    return torch.einsum("ia,jb,jico->ocab", *[x.new_tensor(_G)] * 2, filters.unflatten(0, (4, 4)))


def _products(x: Tensor, y: Tensor) -> Tensor:
    """``x @ y`` for 16 pairs of matrices."""
    if not uses_onednn(x):
        return torch.bmm(x, y)
    out = x.new_empty(*x.shape[:2], y.size(2))
    for k in range(len(out)):
        out[k] = product(x[k], y[k].t())
    return out


def _blocks(x: Tensor, padding: int) -> Iterator[Tuple[slice, Tensor]]:
    """Blocks of frames and their tiles :math:`B^T d B`: ``[4, 4, N, H' / 2, W' / 2, C]``."""
    rows, columns = ((size + 2 * padding - 1) // 2 for size in x.shape[2:])
    below, right = 2 * rows + 2 - x.size(2) - padding, 2 * columns + 2 - x.size(3) - padding
    step = max(BLOCK_TILES // max(rows * columns, 1), 1)
    for start in range(0, x.size(0), step):
        frames = slice(start, start + step)
        block = F.pad(x[frames].movedim(1, -1), (0, 0, padding, right, padding, below))
        yield frames, _gather(_gather(block, 1), 3)


def _gather(x: Tensor, dim: int) -> Tensor:
    """:math:`B^T` for windows of four that start at every second place of a dimension."""
    a, b, c, d = x.unfold(dim, 4, 2).unbind(-1)
    out = x.new_empty(4, *a.shape)
    torch.sub(a, c, out=out[0])
    torch.add(b, c, out=out[1])
    torch.sub(c, b, out=out[2])
    torch.sub(b, d, out=out[3])
    return out


def _spread(x: Tensor, dim: int) -> Tensor:
    """:math:`A` for pairs of neighbors in a dimension."""
    a, b = x.unfold(dim, 2, 2).unbind(-1)
    out = x.new_empty(4, *a.shape)
    out[0] = a
    torch.add(a, b, out=out[1])
    torch.sub(a, b, out=out[2])
    torch.neg(b, out=out[3])
    return out


def _results(products: Tensor) -> Tensor:
    """:math:`A^T M A`: ``[4, 4, N, H' / 2, W' / 2, C']`` to ``[N, H', W', C']``."""
    count, rows, columns, channels = products.shape[2:]
    out = products.new_empty(count, rows, 2, columns, 2, channels)
    halves = products.new_empty(2, *products.shape[1:])
    _sum(products, halves)
    for k in range(2):
        _sum(halves[k], out[:, :, :, :, k].movedim(2, 0))
    return out.view(count, 2 * rows, 2 * columns, channels)


def _sum(x: Tensor, out: Tensor) -> None:
    """:math:`A^T` for the first dimension."""
    torch.add(x[0], x[1], out=out[0]).add_(x[2])
    torch.sub(x[1], x[2], out=out[1]).sub_(x[3])
