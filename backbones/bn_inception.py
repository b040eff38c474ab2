"""BN-Inception frame by frame, and ECO-Lite, which goes on from it in 3-D."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rstg_pyg.backbones.conv import Conv3d, MaxPool3d, Norm
from rstg_pyg.backbones.inception import Branches, sequence
from rstg_pyg.means import mean_of_windows

#: Channels of the blocks: 1x1 | reduce, 3x3 | reduce, 3x3, 3x3 | pooling, projection. Without the first
#: and the last (0) a block halves the map.
BLOCKS = {
    "inception_3a": (64, 64, 64, 64, 96, 96, 32),
    "inception_3b": (64, 64, 96, 64, 96, 96, 64),
    "inception_3c": (0, 128, 160, 64, 96, 96, 0),
    "inception_4a": (224, 64, 96, 96, 128, 128, 128),
    "inception_4b": (192, 96, 128, 96, 128, 128, 128),
    "inception_4c": (160, 128, 160, 128, 160, 160, 128),
    "inception_4d": (96, 128, 192, 160, 192, 192, 128),
    "inception_4e": (0, 128, 192, 192, 256, 256, 0),
    "inception_5a": (352, 192, 320, 160, 224, 224, 128),
    "inception_5b": (352, 192, 320, 192, 224, 224, 128),
}


class CaffeInput(torch.nn.Module):
    """Checks the size of clips and turns red, green, blue into blue, green, red, which the published
    weights expect.

    Args:
        frames: What the number of frames has to be a multiple of.
        halved: Whether the map of the stem is halved twice more by blocks whose branches then only
            fit for some sizes.
    """

    def __init__(self, frames: int, halved: bool):
        super().__init__()
        self.frames, self.halved = frames, halved

    def forward(self, clip: Tensor) -> Tensor:
        """``[B, 3, T, H, W]`` to the same shape."""
        frames, *sides = clip.shape[2:]
        if frames % self.frames:
            raise ValueError(
                f"ECO-Lite: expected clips of 4, 8, 12, 16 or another multiple of {self.frames} frames "
                f"(got {frames})"
            )
        for side in sides if self.halved else ():
            if side < 31 or (side + 1) // 2 // 4 % 4:  # 31..38, 63..70, ...
                fits = max(round(side / 32), 1) * 32
                raise ValueError(
                    f"BN-Inception: expected frames of 224 x 224 pixels or another multiple of 32, "
                    f"such as {fits} (got {' x '.join(map(str, sides))})"
                )
        return clip.flip(1)


def _unit(in_channels: int, channels: int, size: int, norm: Norm, stride: int = 1):
    """A convolution of every frame with a bias, norm, ReLU."""
    kernel, padding = (1, size, size), (0, size // 2, size // 2)
    conv = Conv3d(in_channels, channels, kernel, (1, stride, stride), padding)
    return sequence(conv=conv, bn=norm(channels), relu=torch.nn.ReLU(inplace=True))


def _max_pool() -> MaxPool3d:
    return MaxPool3d((1, 3, 3), (1, 2, 2), ceil_mode=True)


class PaddedMean(torch.nn.Module):
    """The mean over 3 x 3 pixels, with zeros around the map; of maps smaller than that, too."""

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to the same shape."""
        return mean_of_windows(F.pad(x, (1, 1, 1, 1)), (1, 3, 3))


def _block(here: int, widths: list[int], last: bool, norm: Norm) -> Branches:
    """One of :data:`BLOCKS`; the last one has a max pooling instead of an average."""
    one, reduced, three, reduced2, double1, double2, projection = widths
    stride = 1 if one else 2
    branches: dict[str, torch.nn.Module] = {}
    if one:
        branches["b0"] = sequence(**{"1x1": _unit(here, one, 1, norm)})
    branches["b1"] = sequence(
        **{
            "3x3_reduce": _unit(here, reduced, 1, norm),
            "3x3": _unit(reduced, three, 3, norm, stride),
        }
    )
    branches["b2"] = sequence(
        **{
            "double_3x3_reduce": _unit(here, reduced2, 1, norm),
            "double_3x3_1": _unit(reduced2, double1, 3, norm),
            "double_3x3_2": _unit(double1, double2, 3, norm, stride),
        }
    )
    if one:
        if last:
            pool: torch.nn.Module = MaxPool3d((1, 3, 3), 1, (0, 1, 1))
        else:
            pool = PaddedMean()
        branches["b3"] = sequence(pool=pool, pool_proj=_unit(here, projection, 1, norm))
    else:
        branches["b3"] = _max_pool()
    return Branches(branches)


class _Caffe(torch.nn.Module):
    """What both networks have in common: the stem, and running stage by stage."""

    def _build(self, blocks: list[str], width: int, norm: Norm, frames: int, halved: bool) -> int:
        """Makes the stem and these blocks; returns the channels of the last map."""
        stages: dict[str, torch.nn.Module] = {
            "conv1": sequence(
                input=CaffeInput(frames, halved), **{"7x7_s2": _unit(3, width, 7, norm, 2)}
            ),
            "pool1": _max_pool(),
            "conv2": sequence(
                **{"3x3_reduce": _unit(width, width, 1, norm), "3x3": _unit(width, 3 * width, 3, norm)}
            ),
            "pool2": _max_pool(),
        }
        self.channels = dict(zip(stages, (width, width, 3 * width, 3 * width)))
        here = 3 * width
        for name in blocks:
            widths = [n * width // 64 for n in BLOCKS[name]]
            stages[name] = _block(here, widths, name == "inception_5b", norm)
            here = widths[0] + widths[2] + widths[5] + (widths[6] or here)
            self.channels[name] = here
        self.stages = torch.nn.ModuleDict(stages)
        return here

    def reset_parameters(self) -> None:
        """Initializes the weights (He normal; biases zero)."""
        for module in self.modules():
            if isinstance(module, torch.nn.Conv3d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                torch.nn.init.zeros_(module.get_parameter("bias"))
            elif isinstance(module, torch.nn.BatchNorm3d):
                module.reset_parameters()

    def forward(self, clip: Tensor) -> Tensor:
        """The last stage's feature map."""
        for stage in self.stages.values():
            clip = stage(clip)
        return clip


class BNInception(_Caffe):
    r"""BN-Inception (Inception-v2) on every frame, the network of TSN and TRN.

    As converted from Caffe: convolutions have biases, pooling rounds sizes up, and only 224 x 224
    pixels and other multiples of 32 fit. With the mean over the map (no head) in
    :class:`rstg_pyg.VideoClassifier` it is TSN, with :class:`rstg_pyg.RelationHead` TRN.

    Its ``stages`` are ``conv1``, ``pool1``, ``conv2``, ``pool2``, ``inception_3a`` ...
    ``inception_3c``, ``inception_4a`` ... ``inception_4e``, ``inception_5a``, ``inception_5b``.

    Args:
        width: Channels of the first stage; the others are in proportion. (default: 64)
        norm: Makes a norm from a number of channels. (default: ``torch.nn.BatchNorm3d``)

    Shapes:
        - **input:** RGB clips :math:`(B, 3, T, H, W)`, pixels 0..255 minus the mean (128, 117, 104),
          not scaled (the network itself turns them to BGR)
        - **output:** feature map :math:`(B, 1024, T, H / 32, W / 32)`

    Raises:
        ValueError: If the frames' size does not fit.
    """

    #: Frames do not see each other.
    per_frame = True

    def __init__(self, width: int = 64, norm: Norm = torch.nn.BatchNorm3d):
        super().__init__()
        self._build(list(BLOCKS), width, norm, 1, True)
        self.reset_parameters()


class PreActStage(torch.nn.Module):
    """Two residual blocks of 3x3x3 convolutions with batch norm and ReLU before them; the output is
    normalized, too.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        stride: Stride in time and space; with 1, the first block is a single convolution.
        norm: Makes a norm from a number of channels.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, norm: Norm):
        super().__init__()

        def branch(inside: int, step: int) -> torch.nn.Sequential:
            return sequence(
                conv1=Conv3d(inside, channels, 3, step, 1),
                bn=norm(channels),
                relu=torch.nn.ReLU(inplace=True),
                conv2=Conv3d(channels, channels, 3, 1, 1),
            )

        self.down = Conv3d(in_channels, channels, 3, stride, 1)
        self.a = branch(in_channels, stride) if stride > 1 else None
        self.bn_a = norm(channels)
        self.b = branch(channels, 1)
        self.bn_b = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to ``[B, C', T / stride, H / stride, W / stride]``, rounded up."""
        a = self.down(x)
        if self.a is not None:
            a = a + self.a(x)
        return self.bn_b(self.b(self.bn_a(a).relu_()) + a).relu_()


class ECOLite(_Caffe):
    r"""ECO-Lite: the first part of BN-Inception on every frame, then a 3-D ResNet-18 over the frames.

    From `"ECO: Efficient Convolutional Network for Online Video Understanding"
    <https://arxiv.org/abs/1804.09066>`_. Its ``stages`` are ``conv1``, ``pool1``, ``conv2``, ``pool2``,
    ``inception_3a``, ``inception_3b``, ``handover``, ``res3``, ``res4`` and ``res5``. (Maps have frames
    as an axis everywhere, so that there is nothing to rearrange between the parts.)

    Args:
        width: Channels of the first stage; the others are in proportion. (default: 64)
        norm: Makes a norm from a number of channels. (default: ``torch.nn.BatchNorm3d``)

    Shapes:
        - **input:** RGB clips :math:`(B, 3, T, H, W)` as for :class:`BNInception`, :math:`T` a multiple
          of 4, 16 as published; any size of frames
        - **output:** feature map :math:`(B, 512, T / 4, H / 32, W / 32)`

    Raises:
        ValueError: If the number of frames is no multiple of 4.
    """

    def __init__(self, width: int = 64, norm: Norm = torch.nn.BatchNorm3d):
        super().__init__()
        here = self._build(["inception_3a", "inception_3b"], width, norm, 4, False)
        widths = [n * width // 64 for n in (64, 96, 128, 256, 512)]
        self.stages["handover"] = sequence(
            double_3x3_reduce=_unit(here, widths[0], 1, norm),
            double_3x3_1=_unit(widths[0], widths[1], 3, norm),
        )
        self.channels["handover"] = here = widths[1]
        for name, channels, stride in zip(("res3", "res4", "res5"), widths[2:], (1, 2, 2)):
            self.stages[name] = PreActStage(here, channels, stride, norm)
            self.channels[name] = here = channels
        self.reset_parameters()
