"""Inception-v1 in 3-D: I3D and S3D-G, one network with different settings."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rstg_pyg.backbones.conv import Conv, Conv3d, MaxPool3d, Norm

#: Channels of the blocks: 1x1 | 1x1, 3x3x3 | 1x1, 3x3x3 | pooling, 1x1; ``None`` halves the map.
MIXED = {
    "mixed_3b": (64, 96, 128, 16, 32, 32),
    "mixed_3c": (128, 128, 192, 32, 96, 64),
    "pool_4a": None,
    "mixed_4b": (192, 96, 208, 16, 48, 64),
    "mixed_4c": (160, 112, 224, 24, 64, 64),
    "mixed_4d": (128, 128, 256, 24, 64, 64),
    "mixed_4e": (112, 144, 288, 32, 64, 64),
    "mixed_4f": (256, 160, 320, 32, 128, 128),
    "pool_5a": None,
    "mixed_5b": (256, 160, 320, 32, 128, 128),
    "mixed_5c": (384, 192, 384, 48, 128, 128),
}

#: Batch norm of the published I3D: epsilon 1e-3, and statistics that keep 0.999 of themselves.
published_norm = functools.partial(torch.nn.BatchNorm3d, eps=1e-3, momentum=1e-3)


class OffsetBatchNorm(torch.nn.BatchNorm3d):
    """Batch normalization with an offset and no gain, as in the TensorFlow code of I3D and S3D-G.

    Args:
        channels: Channels of the map.
        eps: Epsilon. (default: ``1e-3``)
        momentum: Share of a batch in the moving statistics. (default: ``1e-3``)
    """

    def __init__(self, channels: int, eps: float = 1e-3, momentum: float = 1e-3):
        super().__init__(channels, eps, momentum)
        self.register_parameter("weight", None)

    def reset_parameters(self) -> None:
        """Statistics and offset as at the start."""
        self.reset_running_stats()
        torch.nn.init.zeros_(self.bias)


def same_padding(size: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> list[tuple]:
    r"""TensorFlow's "SAME" padding of every axis, as (before, after).

    An axis of ``n`` points gets :math:`\lceil n / s \rceil` outputs; the extra point is at the end.
    """
    out = []
    for n, k, s in zip(size, kernel, stride):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        out.append((total // 2, total - total // 2))
    return out


class SameConv3d(torch.nn.Conv3d):
    """A 3-D convolution with :func:`same_padding` of its input's size. On a CPU its output has channels
    last in memory, which all that follows keeps and is faster with.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to ``[B, C', T / stride, ...]``, rounded up."""
        if x.device.type == "cpu":
            x = x.contiguous(memory_format=torch.channels_last_3d)
        padding = same_padding(x.shape[2:], self.kernel_size, self.stride)
        return super().forward(F.pad(x, [n for pair in reversed(padding) for n in pair]))


class SameMaxPool3d(MaxPool3d):
    """3-D max pooling with :func:`same_padding` of its input's size; padding is never the maximum.

    Args:
        kernel: Frames, rows and columns of a window.
        stride: Frames, rows and columns from one window to the next.
    """

    def __init__(self, kernel: Sequence[int], stride: Sequence[int]):
        super().__init__(tuple(kernel), tuple(stride), ceil_mode=True)
        self.sizes = tuple(kernel), tuple(stride)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to ``[B, C, T / stride, ...]``, rounded up."""
        padding = same_padding(x.shape[2:], *self.sizes)
        # what is missing at the end, ceil_mode adds
        return self.padded(x, tuple(first for first, _ in padding))


class SpaceToDepth(torch.nn.Module):
    """Puts the 2 x 2 x 2 neighbors (time, rows, columns) of a clip next to each other as channels.

    Raises:
        ValueError: If a size is odd.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to ``[B, 8 C, T / 2, H / 2, W / 2]``."""
        if any(n % 2 for n in x.shape[2:]):
            raise ValueError(
                f"Expected clips with an even number of frames, rows and columns (got "
                f"{' x '.join(map(str, x.shape[2:]))})"
            )
        for dim in (2, 4, 6):
            x = x.unflatten(dim, (-1, 2))
        return x.permute(0, 3, 5, 7, 1, 2, 4, 6).flatten(1, 4)


class FirstCut(torch.nn.Module):
    """Leaves out the first frame, row and column."""

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to ``[B, C, T - 1, H - 1, W - 1]``."""
        return x[:, :, 1:, 1:, 1:]


class FeatureGate(torch.nn.Module):
    r"""Gates every channel by the mean of the map, :math:`y = x \cdot \sigma(W \bar x + b)`.

    Args:
        channels: Channels of the map.
        bias: Whether there is a :math:`b`. (default: ``False``)
    """

    def __init__(self, channels: int, bias: bool = False):
        super().__init__()
        self.lin = torch.nn.Linear(channels, channels, bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to the same shape."""
        gate = self.lin(x.mean(dim=(2, 3, 4))).sigmoid()
        return x * gate[:, :, None, None, None]


class Branches(torch.nn.ModuleDict):
    """Modules that see the same map; their maps are concatenated."""

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to the sum of the branches' channels."""
        return torch.cat([branch(x) for branch in self.values()], dim=1)


def sequence(**modules: torch.nn.Module) -> torch.nn.Sequential:
    """A sequence of modules by name."""
    return torch.nn.Sequential(OrderedDict(modules))


class InceptionVideo(torch.nn.Module):
    r"""Inception-v1 with 3-D convolutions: I3D, or with separable convolutions and gates S3D-G.

    From `"Quo Vadis, Action Recognition?" <https://arxiv.org/abs/1705.07750>`_ and `"Rethinking
    Spatiotemporal Feature Learning" <https://arxiv.org/abs/1712.04851>`_, as in the TensorFlow code:
    padding is "SAME", computed from the size of the clip. (torchvision's ``s3d``,
    :class:`TorchvisionVideo`, pads symmetrically, has batch norm after temporal convolutions and no
    gates.) Any number of frames, rows and columns is accepted.

    Its ``stages`` are ``conv_1a``, ``pool_2a``, ``conv_2b``, ``conv_2c``, ``pool_3a``, ``mixed_3b``,
    ``mixed_3c``, ``pool_4a``, ``mixed_4b`` ... ``mixed_4f``, ``pool_5a``, ``mixed_5b``, ``mixed_5c``.
    :class:`rstg_pyg.WindowMean` is the published head.

    Args:
        in_channels: Channels of the clips. (default: 3)
        width: Channels of the first stage; the others are in proportion. (default: 64)
        first_kernel: Temporal size of the first convolution. (default: 7)
        separable: A 1x3x3 and a 3x1x1 convolution instead of 3x3x3, but for the first stage.
            (default: ``False``)
        temporal_norm: A norm after temporal convolutions, too, instead of a bias. (default: ``False``)
        gates: :class:`FeatureGate` after ``conv_2c`` and every branch. (default: ``False``)
        gate_bias: A bias in the gates. (default: ``False``)
        space_to_depth: :class:`SpaceToDepth` before the first convolution, which is then 2x4x4, and max
            pooling that pads at the end only: S3D-G of HowTo100M. (default: ``False``)
        norm: Makes a norm from a number of channels. (default: :data:`published_norm`)

    Shapes:
        - **input:** RGB clips :math:`(B, 3, T, H, W)`, scaled to -1..1 (mean and std 127.5)
        - **output:** feature map :math:`(B, 1024, T / 8, H / 32, W / 32)`, rounded up
    """

    def __init__(
        self,
        in_channels: int = 3,
        width: int = 64,
        first_kernel: int = 7,
        separable: bool = False,
        temporal_norm: bool = False,
        gates: bool = False,
        gate_bias: bool = False,
        space_to_depth: bool = False,
        norm: Norm = published_norm,
    ):
        super().__init__()
        self.separable, self.temporal_norm = separable, temporal_norm
        self.gates, self.gate_bias, self.norm = gates, gate_bias, norm
        pool: Callable[..., torch.nn.Module] = functools.partial(MaxPool3d, ceil_mode=True)
        parts: dict[str, torch.nn.Module] = {"bn": norm(width), "relu": torch.nn.ReLU(inplace=True)}
        if space_to_depth:
            conv = Conv3d(8 * in_channels, width, (2, 4, 4), 1, (1, 2, 2), bias=False)
            parts = {"to_depth": SpaceToDepth(), "conv": conv, **parts, "cut": FirstCut()}
        else:
            pool = SameMaxPool3d
            parts = {
                "conv": SameConv3d(in_channels, width, (first_kernel, 7, 7), 2, bias=False),
                **parts,
            }
        stages: dict[str, torch.nn.Module] = {
            "conv_1a": sequence(**parts),
            "pool_2a": pool((1, 3, 3), (1, 2, 2)),
            "conv_2b": self._unit(width, width, 1, gate=False),
            "conv_2c": self._unit(width, 3 * width, 3),
            "pool_3a": pool((1, 3, 3), (1, 2, 2)),
        }
        channels = dict(zip(stages, (width, width, width, 3 * width, 3 * width)))
        here = 3 * width
        for name, table in MIXED.items():
            if table is None:
                size = 3 if name == "pool_4a" else 2
                stages[name] = pool((size,) * 3, (2, 2, 2))
            else:
                widths = [n * width // 64 for n in table]
                stages[name] = self._mixed(here, *widths)
                here = sum(widths[i] for i in (0, 2, 4, 5))
            channels[name] = here
        self.stages = torch.nn.ModuleDict(stages)
        self.channels = channels
        self.reset_parameters()

    def _unit(self, in_channels: int, channels: int, size: int, gate: bool = True):
        """Convolution, norm, ReLU; in two steps if separable; a gate where there are gates."""
        two = self.separable and size > 1
        kernel = (1 if two else size, size, size)
        parts: dict[str, torch.nn.Module] = {
            "conv": Conv(in_channels, channels, kernel),
            "bn": self.norm(channels),
            "relu": torch.nn.ReLU(inplace=True),
        }
        if two:
            bias = not self.temporal_norm
            parts["temporal"] = Conv(channels, channels, (size, 1, 1), bias=bias)
            if self.temporal_norm:
                parts["temporal_bn"] = self.norm(channels)
            parts["temporal_relu"] = torch.nn.ReLU(inplace=True)
        if gate and self.gates:
            parts["gate"] = FeatureGate(channels, self.gate_bias)
        return sequence(**parts)

    def _mixed(self, here: int, b0: int, b1a: int, b1b: int, b2a: int, b2b: int, b3: int) -> Branches:
        branches: dict[str, torch.nn.Module] = {"b0": sequence(a=self._unit(here, b0, 1))}
        for name, reduced, channels in (("b1", b1a, b1b), ("b2", b2a, b2b)):
            first = self._unit(here, reduced, 1, gate=False)
            branches[name] = sequence(a=first, b=self._unit(reduced, channels, 3))
        branches["b3"] = sequence(a=MaxPool3d(3, 1, 1), b=self._unit(here, b3, 1))
        return Branches(branches)

    def reset_parameters(self) -> None:
        """Initializes the weights (He normal; temporal convolutions take the middle frame; gates normal
        with a deviation of 0.01; biases zero).
        """
        for name, module in self.named_modules():
            if name.endswith(".temporal"):
                torch.nn.init.dirac_(module.weight)
            elif isinstance(module, torch.nn.Conv3d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, torch.nn.Linear):
                torch.nn.init.normal_(module.weight, std=0.01)
            elif isinstance(module, torch.nn.BatchNorm3d):
                module.reset_parameters()
            if isinstance(module, (torch.nn.Conv3d, torch.nn.Linear)) and module.bias is not None:
                torch.nn.init.zeros_(module.bias)

    def forward(self, clip: Tensor) -> Tensor:
        """The last stage's feature map."""
        for stage in self.stages.values():
            clip = stage(clip)
        return clip


def inception_i3d(**kwargs) -> InceptionVideo:
    """I3D (12,465,614 parameters with a head for 174 classes). ``kwargs`` go to
    :class:`InceptionVideo`; with ``norm=OffsetBatchNorm``, as in TensorFlow, there are 7,280 fewer.
    """
    return InceptionVideo(**kwargs)


def s3dg(**kwargs) -> InceptionVideo:
    """S3D-G of the TensorFlow code (9,324,830 parameters with a head for 174 classes; its default is
    ``first_kernel=3``, as published it is 7). ``kwargs`` go to :class:`InceptionVideo`.
    """
    return InceptionVideo(**{"separable": True, "gates": True, "norm": OffsetBatchNorm, **kwargs})


def s3dg_howto100m(**kwargs) -> InceptionVideo:
    """S3D-G of HowTo100M (9,670,800 parameters with its linear layer to 512), for RGB clips scaled to
    0..1 (mean 0, std 255). ``kwargs`` go to :class:`InceptionVideo`.
    """
    settings = dict(separable=True, temporal_norm=True, gates=True, gate_bias=True, space_to_depth=True)
    return InceptionVideo(**{**settings, "norm": torch.nn.BatchNorm3d, **kwargs})
