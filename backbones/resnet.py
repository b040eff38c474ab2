"""ResNet-50 for video: C2D, I3D and Non-Local, one network with different settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rstg_pyg.fast.autograd import autocast_to, eager
from rstg_pyg.fast.linear import uses_onednn

#: Temporal kernels of the stem and of the blocks of each stage, taken in turn.
C2D_KERNELS = ((1,), (1,), (1,), (1,), (1,))
I3D_KERNELS = ((5,), (3,), (3, 1), (3, 1), (1, 3))


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


class Conv(torch.nn.Conv3d):
    """A convolution without bias, spatial stride, zero padding of half the kernel.

    On a CPU, kernels ``(t, 1, 1)`` are one matrix product for all their steps, whose results are
    shifted in time and added: torch's own takes up to four times as long for small batches. Without
    gradients all kernels are oneDNN's, with what follows the convolution inside.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple, stride: int = 1):
        padding = tuple(k // 2 for k in kernel)
        super().__init__(in_channels, out_channels, kernel, (1, stride, stride), padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to ``[B, C', T, H / stride, W / stride]``."""
        return self.with_weight(x, self.weight, None)

    def with_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same with another weight and with a bias."""
        plain = x.device.type != "cpu" or not eager()
        if plain or self.kernel_size[1:] != (1, 1) or self.stride[1] != 1:
            return F.conv3d(x, weight, bias, self.stride, self.padding)
        x = x.movedim(1, -1)
        if self.kernel_size[0] == 1:
            return F.linear(x, weight.flatten(1), bias).movedim(-1, 1)
        # What every frame gives to those around it, for all k at once: [B, T, H, W, k, C'].
        steps = F.linear(x, weight.movedim(2, 0).flatten(0, 1).flatten(1))
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
        settings = (weight, bias, self.padding, self.stride, self.dilation, self.groups)
        call = torch.ops.mkldnn._convolution_pointwise
        if add is None:
            return call(x, *settings, "relu" if relu else "none", [], "")
        return call(x, add, *settings, "add", 1.0, "relu" if relu else None, [], None)


def _normed(
    conv: torch.nn.Module,
    norm: torch.nn.Module,
    x: Tensor,
    add: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """``norm(conv(x)) + add``, and ReLU if asked for. Frozen statistics go into the convolution's
    weights, unless somebody looks at what is in between.
    """
    hooked = any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in (conv, norm))
    if hooked or not (type(conv) is Conv and type(norm) is FrozenBatchNorm):
        out = norm(conv(x))
    else:
        factor, offset = norm.factors()
        weight = conv.weight * factor.view(-1, 1, 1, 1, 1)
        if not torch.is_grad_enabled() and eager() and uses_onednn(x) and autocast_to(x) is None:
            return conv.fused(x, weight, offset, add, relu)
        out = conv.with_weight(x, weight, offset)
    out = out if add is None else out + add
    return out.relu_() if relu else out


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
            self.pool = torch.nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, pool_padding, pool_padding))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to ``[B, C', T, H / 4, W / 4]``, rounded down; ``H / 2``, rounded up, if
        small.
        """
        if x.device.type == "cpu":  # all that follows keeps this format
            x = x.contiguous(memory_format=torch.channels_last_3d)
        x = _normed(self.conv, self.bn, x, relu=True)
        return x if self.pool is None else self.pool(x)


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
            self.shortcut = torch.nn.Sequential(
                Conv(in_channels, channels, (1, 1, 1), stride), norm(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to ``[B, C', T, H / stride, W / stride]``."""
        out = _normed(self.conv1, self.bn1, x, relu=True)
        out = _normed(self.conv2, self.bn2, out, relu=True)
        if self.shortcut is not None:
            x = _normed(self.shortcut[0], self.shortcut[1], x)
        return _normed(self.conv3, self.bn3, out, add=x, relu=True)


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
        self.pool = torch.nn.MaxPool3d((1, 2, 2))

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

    Its ``stages`` are ``stem``, ``res2_0`` ... ``res5_2`` (one per bottleneck), ``pool2`` and
    ``nonlocal3_1`` and so on, in the order in which they run. ``places`` maps a residual stage to the
    name after which an RSTG block is inserted: that of the stage's second to last bottleneck.

    Args:
        temporal_kernels: Temporal kernels of stem and stages, each cycled over its blocks:
            :data:`C2D_KERNELS` or :data:`I3D_KERNELS`.
        nonlocal_stages: Residual stages (``"res2"`` ... ``"res5"``) with a :class:`NonLocalBlock`
            after every second bottleneck. (default: none)
        in_channels: Channels of the clips. (default: 3)
        depths: Bottlenecks of each stage. (default: ``(3, 4, 6, 3)``, ResNet-50)
        width: Channels of the stem; stages have 4, 8, 16 and 32 times as many. (default: 64)
        pool_padding: Zero padding of the stem's max pooling. (default: 0)
        last_stride: Spatial stride of the last stage. (default: 1)
        small_stem: A stem for small frames, see :class:`Stem`. (default: ``False``)
        norm: Makes a norm from a number of channels; use ``torch.nn.BatchNorm3d`` to train
            from scratch. (default: :class:`FrozenBatchNorm`)

    Shapes:
        - **input:** clips :math:`(B, 3, T, H, W)`, normalized as ``(x - 114.75) / 57.375``
        - **output:** feature map :math:`(B, 2048, T / 2, H / 16, W / 16)`

    Raises:
        ValueError: If ``nonlocal_stages`` names a stage that does not exist.
    """

    def __init__(
        self,
        temporal_kernels: Sequence[Sequence[int]],
        nonlocal_stages: Sequence[str] = (),
        *,
        in_channels: int = 3,
        depths: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        pool_padding: int = 0,
        last_stride: int = 1,
        small_stem: bool = False,
        norm: Norm = FrozenBatchNorm,
    ):
        super().__init__()
        names = [f"res{i + 2}" for i in range(len(depths))]
        unknown = sorted(set(nonlocal_stages) - set(names))
        if unknown:
            raise ValueError(f"Expected 'nonlocal_stages' to name some of {names} (got {unknown})")
        self.temporal_kernels = tuple(tuple(kernels) for kernels in temporal_kernels)
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
            if i == 0:
                stages["pool2"] = torch.nn.MaxPool3d((2, 1, 1))
                channels["pool2"] = here
        self.stages = torch.nn.ModuleDict(stages)
        self.channels = channels  # "pool2" does not change them
        self.places = {name: f"{name}_{max(d - 2, 0)}" for name, d in zip(names, depths)}
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initializes the weights (Glorot uniform; biases and gains of non-local blocks are zero)."""
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
