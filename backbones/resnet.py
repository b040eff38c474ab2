"""ResNet-50 for video: C2D, I3D, Non-Local and MFNet, one network with different settings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rstg_pyg.backbones.conv import Conv, FrozenBatchNorm, MaxPool3d, Norm, normed
from rstg_pyg.backbones.motion import MotionBlock

#: Temporal kernels of the stem and of the blocks of each stage, taken in turn.
C2D_KERNELS = ((1,), (1,), (1,), (1,), (1,))
I3D_KERNELS = ((5,), (3,), (3, 1), (3, 1), (1, 3))


class Stem(torch.nn.Module):
    """7 x 7 convolution with stride 2, batch norm, ReLU, 3 x 3 max pooling with stride 2.

    Args:
        in_channels: Channels of the clip.
        channels: Channels of the output.
        temporal_kernel: Temporal size of the convolution.
        pool_padding: Zero padding of the max pooling (0 as published: 224 -> 112 -> 55).
        small: For small frames: a 3 x 3 convolution with stride 2 and no pooling (64 -> 32).
        norm: Makes the norm.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        temporal_kernel: int,
        pool_padding: int = 0,
        small: bool = False,
        norm: Norm = FrozenBatchNorm,
    ):
        super().__init__()
        side = 3 if small else 7
        self.conv = Conv(in_channels, channels, (temporal_kernel, side, side), 2)
        self.bn = norm(channels)
        self.pool = None
        if not small:
            self.pool = MaxPool3d((1, 3, 3), (1, 2, 2), (0, pool_padding, pool_padding))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to ``[B, C', T, H / 4, W / 4]``, rounded down; ``H / 2``, rounded up, if
        small.
        """
        if x.device.type == "cpu":  # all that follows keeps this format
            x = x.contiguous(memory_format=torch.channels_last_3d)
        x = normed(self.conv, self.bn, x, relu=True)
        return x if self.pool is None else self.pool(x)


class Shortcut(torch.nn.Sequential):
    """A convolution and a norm."""

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to ``[B, C', T, H / stride, W / stride]``."""
        return normed(self[0], self[1], x)


class Bottleneck(torch.nn.Module):
    """Convolutions ``(t, 1, 1)``, ``(1, 3, 3)``, ``(1, 1, 1)`` and a shortcut. The second convolution
    has the (spatial) stride.

    Args:
        in_channels: Channels of the input.
        width: Channels between the convolutions.
        channels: Channels of the output.
        stride: Spatial stride.
        temporal_kernel: Temporal size ``t`` of the first convolution.
        norm: Makes the norms.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        channels: int,
        stride: int,
        temporal_kernel: int,
        norm: Norm = FrozenBatchNorm,
    ):
        super().__init__()
        self.conv1 = Conv(in_channels, width, (temporal_kernel, 1, 1))
        self.bn1 = norm(width)
        self.conv2 = Conv(width, width, (1, 3, 3), stride)
        self.bn2 = norm(width)
        self.conv3 = Conv(width, channels, (1, 1, 1))
        self.bn3 = norm(channels)
        self.shortcut = None
        if in_channels != channels or stride != 1:
            self.shortcut = Shortcut(Conv(in_channels, channels, (1, 1, 1), stride), norm(channels))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to ``[B, C', T, H / stride, W / stride]``."""
        out = normed(self.conv1, self.bn1, x, relu=True)
        out = normed(self.conv2, self.bn2, out, relu=True)
        if self.shortcut is not None:
            x = self.shortcut(x)
        return normed(self.conv3, self.bn3, out, add=x, relu=True)


class NonLocalBlock(torch.nn.Module):
    r"""Self-attention from all positions of all frames to a spatially pooled copy, added to the map.

    .. math::
        y = x + \mathrm{BN} \left( W_o \, \mathrm{softmax} \left( \frac{\theta(x)^\top \phi(p)}
        {\sqrt{C / 2}} \right) g(p) \right), \qquad p = \mathrm{maxpool}_{1 \times 2 \times 2}(x)

    The embedded Gaussian form of `"Non-local Neural Networks" <https://arxiv.org/abs/1711.07971>`_.
    The batch norm's gain starts at zero, so that the block starts as the identity.

    Args:
        channels: Channels of the map.
        norm: Makes the norm.
    """

    def __init__(self, channels: int, norm: Norm = FrozenBatchNorm):
        super().__init__()
        inner = channels // 2
        self.theta = torch.nn.Conv3d(channels, inner, 1)
        self.phi = torch.nn.Conv3d(channels, inner, 1)
        self.g = torch.nn.Conv3d(channels, inner, 1)
        self.out = torch.nn.Conv3d(inner, channels, 1)
        self.bn = norm(channels)
        self.pool = MaxPool3d((1, 2, 2))

    def branch(self, x: Tensor) -> Tensor:
        """The residual branch, ``[B, C, T, H, W]``."""
        small = self.pool(x)
        query, key, value = (
            y.flatten(2).transpose(1, 2) for y in (self.theta(x), self.phi(small), self.g(small))
        )
        out = F.scaled_dot_product_attention(query, key, value)  # scales by 1 / sqrt(C / 2)
        out = out.transpose(1, 2).unflatten(2, x.shape[2:])
        return self.bn(self.out(out))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to the same shape."""
        return x + self.branch(x)


class VideoResNet(torch.nn.Module):
    r"""A ResNet of bottleneck blocks whose temporal kernels make it C2D or I3D.

    The defaults are the published RSTG code's: no padding in the first max pooling, half the frames
    after ``res2``, stride 1 in ``res5``, batch norm with frozen statistics. (``pool_padding=1,
    last_stride=2`` gives the geometry of SlowFast and PyTorchVideo.)

    Its ``stages`` are ``stem``, ``res2_0`` ... ``res5_2`` (one per bottleneck), ``pool2``,
    ``nonlocal3_1`` and so on, ``motion2`` and so on, in the order in which they run. ``places`` maps
    a residual stage to the name after which an RSTG block is inserted: that of the stage's second to
    last bottleneck.

    Args:
        temporal_kernels: Temporal kernels of stem and stages, odd numbers, each cycled over its blocks:
            :data:`C2D_KERNELS` or :data:`I3D_KERNELS`.
        nonlocal_stages: Residual stages (``"res2"`` ... ``"res5"``) with a :class:`NonLocalBlock`
            after every second bottleneck. (default: none)
        motion_stages: Residual stages with a :class:`MotionBlock` at their end. (default: none)
        motion_reduction: See :class:`MotionBlock`. (default: 1)
        in_channels: Channels of the clips. (default: 3)
        depths: Bottlenecks of each stage. (default: ``(3, 4, 6, 3)``, ResNet-50)
        width: Channels of the stem; stages have 4, 8, 16 and 32 times as many. (default: 64)
        pool_padding: Zero padding of the stem's max pooling. (default: 0)
        last_stride: Spatial stride of the last stage. (default: 1)
        pool_frames: Whether ``pool2``, after the first stage, halves the frames. (default: ``True``)
        small_stem: A stem for small frames, see :class:`Stem`. (default: ``False``)
        norm: Makes a norm from a number of channels; use ``torch.nn.BatchNorm3d`` to train
            from scratch. (default: :class:`FrozenBatchNorm`)

    Shapes:
        - **input:** clips :math:`(B, 3, T, H, W)`, normalized as ``(x - 114.75) / 57.375``
        - **output:** feature map :math:`(B, 2048, T / 2, H / 16, W / 16)`

    Raises:
        ValueError: If ``nonlocal_stages`` or ``motion_stages`` names a stage that does not exist, or
            ``temporal_kernels`` has an even number or none for a stage.
    """

    def __init__(
        self,
        temporal_kernels: Sequence[Sequence[int]],
        nonlocal_stages: Sequence[str] = (),
        *,
        motion_stages: Sequence[str] = (),
        motion_reduction: int = 1,
        in_channels: int = 3,
        depths: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        pool_padding: int = 0,
        last_stride: int = 1,
        pool_frames: bool = True,
        small_stem: bool = False,
        norm: Norm = FrozenBatchNorm,
    ):
        super().__init__()
        names = [f"res{i + 2}" for i in range(len(depths))]
        for what, given in (("nonlocal_stages", nonlocal_stages), ("motion_stages", motion_stages)):
            if unknown := sorted(set(given) - set(names)):
                raise ValueError(f"Expected '{what}' to name some of {names} (got {unknown})")
        self.temporal_kernels = tuple(tuple(kernels) for kernels in temporal_kernels)
        odd = all(kernels and all(n % 2 == 1 for n in kernels) for kernels in self.temporal_kernels)
        if len(self.temporal_kernels) <= len(depths) or not odd:
            raise ValueError(
                f"Expected 'temporal_kernels' to have odd numbers for the stem and each of "
                f"{len(depths)} stages (got {self.temporal_kernels})"
            )
        self.nonlocal_stages = tuple(nonlocal_stages)

        frames = self.temporal_kernels[0][0]
        stem = Stem(in_channels, width, frames, pool_padding, small_stem, norm)
        stages: dict[str, torch.nn.Module] = {"stem": stem}
        channels = {"stem": width}
        here = width
        for i, (name, depth) in enumerate(zip(names, depths)):
            kernels = self.temporal_kernels[i + 1]
            stride = 1 if i == 0 else last_stride if i == len(depths) - 1 else 2
            for j in range(depth):
                stages[f"{name}_{j}"] = Bottleneck(
                    here,
                    width << i,
                    4 * width << i,
                    stride if j == 0 else 1,
                    kernels[j % len(kernels)],
                    norm,
                )
                here = channels[f"{name}_{j}"] = 4 * width << i
                if name in self.nonlocal_stages and j % 2 == 1:
                    stages[f"nonlocal{i + 2}_{j}"] = NonLocalBlock(here, norm)
                    channels[f"nonlocal{i + 2}_{j}"] = here
            if name in motion_stages:
                stages[f"motion{i + 2}"] = MotionBlock(here, motion_reduction)
                channels[f"motion{i + 2}"] = here
            if i == 0 and pool_frames:
                stages["pool2"] = MaxPool3d((2, 1, 1))
                channels["pool2"] = here
        self.stages = torch.nn.ModuleDict(stages)
        self.channels = channels  # "pool2" does not change them
        self.places = {name: f"{name}_{max(d - 2, 0)}" for name, d in zip(names, depths)}
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initializes the weights (Glorot uniform; biases and gains of non-local blocks are zero;
        motion blocks are the identity).
        """
        for module in self.modules():
            if isinstance(module, torch.nn.Conv3d):
                torch.nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    torch.nn.init.zeros_(module.bias)
            elif isinstance(module, torch.nn.BatchNorm3d):  # frozen or not
                module.reset_parameters()
        for module in self.modules():
            if isinstance(module, NonLocalBlock):
                torch.nn.init.zeros_(module.bn.get_parameter("weight"))
            elif isinstance(module, MotionBlock):
                module.reset_parameters()

    def forward(self, clip: Tensor) -> Tensor:
        """The last stage's feature map."""
        for stage in self.stages.values():
            clip = stage(clip)
        return clip


def c2d_resnet50(**kwargs) -> VideoResNet:
    """ResNet-50 frame by frame; only the max pooling after ``res2`` combines frames (23.9 M parameters
    with a head for 174 classes). ``kwargs`` go to :class:`VideoResNet`.
    """
    return VideoResNet(C2D_KERNELS, **kwargs)


def i3d_resnet50(**kwargs) -> VideoResNet:
    """I3D: ResNet-50 with temporal kernels of 5 and 3 (27.6 M parameters with a head for 174 classes).
    ``kwargs`` go to :class:`VideoResNet`.
    """
    return VideoResNet(I3D_KERNELS, **kwargs)


def nonlocal_resnet50(**kwargs) -> VideoResNet:
    """:func:`i3d_resnet50` with five non-local blocks in ``res3`` and ``res4`` (35.0 M parameters with
    a head for 174 classes). ``kwargs`` go to :class:`VideoResNet`.
    """
    return VideoResNet(I3D_KERNELS, **{"nonlocal_stages": ("res3", "res4"), **kwargs})


def mfnet_resnet50(**kwargs) -> VideoResNet:
    """MFNet-C50: torchvision's ResNet-50 on every frame, with a :class:`MotionBlock` after each stage
    (57,291,758 parameters with a head for 174 classes; how many the paper's network has is not known).
    With ``motion_stages=()`` it is TSN on ResNet-50. ``kwargs`` go to :class:`VideoResNet`.
    """
    stages = ("res2", "res3", "res4", "res5")
    settings = dict(motion_stages=stages, pool_frames=False, pool_padding=1, last_stride=2)
    return VideoResNet(C2D_KERNELS, **{**settings, "norm": torch.nn.BatchNorm3d, **kwargs})


def mfnet_resnet101(**kwargs) -> VideoResNet:
    """MFNet-C101: :func:`mfnet_resnet50` with 101 layers (76,283,886 parameters with a head for 174
    classes).
    """
    return mfnet_resnet50(**{"depths": (3, 4, 23, 3), **kwargs})
