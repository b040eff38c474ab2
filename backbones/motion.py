"""Motion blocks of MFNet."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rstg_pyg.backbones.conv import Conv


class MotionFilter(torch.nn.Module):
    r"""Differences between every frame and the next one, shifted by a cell.

    .. math::
        R_k(t, y, x) = F(t + 1, y + dy_k, x + dx_k) - F(t, y, x)

    for the shifts :math:`(dx, dy)` of :data:`SHIFTS`. Outside the map there are zeros. The last frame
    has no next one: its differences are zero.
    """

    #: Columns to the right and rows down.
    SHIFTS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to ``[B, 5 C, T, H, W]``."""
        height, width = x.shape[-2:]
        wide = F.pad(x[:, :, 1:], (1, 1, 1, 1))
        parts = [
            wide[..., 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width] - x[:, :, :-1]
            for dx, dy in self.SHIFTS
        ]
        return F.pad(torch.cat(parts, dim=1), (0, 0, 0, 0, 0, 1))


class MotionBlock(torch.nn.Module):
    r"""The motion block of `"Motion Feature Network: Fixed Motion Filter for Action Recognition"
    <https://arxiv.org/abs/1807.10037>`_ (MFNet-C): a 1x1x1 convolution of the map and its
    :class:`MotionFilter`, :math:`W [F, R_1, \ldots, R_5] + b`.

    There is no public code. This follows a summary of the paper. What it does not say was chosen here:
    zeros outside the map and after the last frame, a bias, no norm. The block starts as the identity.

    Args:
        channels: Channels of the map.
        reduction: The motion filter sees so many times fewer channels, made by another convolution.
            (default: 1, all channels and no such convolution)
    """

    def __init__(self, channels: int, reduction: int = 1):
        super().__init__()
        small = channels // reduction
        self.reduce = Conv(channels, small, (1, 1, 1), bias=True) if reduction > 1 else None
        self.filter = MotionFilter()
        self.conv = Conv(channels + 5 * small, channels, (1, 1, 1), bias=True)

    def reset_parameters(self) -> None:
        """The identity."""
        torch.nn.init.dirac_(self.conv.weight)
        torch.nn.init.zeros_(self.conv.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to the same shape."""
        motion = self.filter(x if self.reduce is None else self.reduce(x))
        return self.conv(torch.cat([x, motion], dim=1))
