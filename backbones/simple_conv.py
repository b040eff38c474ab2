"""The small per-frame convolutional network of the SyncMNIST experiments."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rstg_pyg.fast.winograd import Conv3x3

#: Numbers of a convolution's output that the CPU computes at a time: few enough for the cache, and for
#: the memory to be taken again for the next. At least twice the weights, which are reordered each time.
BLOCK_SIZE = 2**20


class ConvStage(torch.nn.Module):
    """A 3 x 3 convolution, (optionally) 2 x 2 max pooling and ReLU in every frame.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        padding: Zero padding of the convolution, in pixels.
        pool: Whether to halve the map by max pooling.
        difference: Whether the convolution also takes each frame's difference from the one before.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        padding: int = 0,
        pool: bool = True,
        difference: bool = False,
    ):
        super().__init__()
        self.difference = difference
        self.conv = Conv3x3(in_channels * (1 + difference), out_channels, padding)
        self.pool = torch.nn.MaxPool2d(2) if pool else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initializes the weights (Glorot uniform; bias zero)."""
        torch.nn.init.xavier_uniform_(self.conv.weight)
        torch.nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` to ``[B, C', T, H', W']``."""
        if self.difference:
            before = torch.cat([x[:, :, :1], x], dim=2)[:, :, :-1]  # torch exports no other order
            x = torch.cat([x, x - before], dim=1)
        frames = _channels_last(x.movedim(1, -1).flatten(0, 1))
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if x.device.type == "cpu" and not traced and not self.conv.wide(frames):
            frame = self.conv.out_channels * frames.size(2) * frames.size(3)
            size = max(BLOCK_SIZE, 2 * self.conv.weight.numel())
            step = max(size // max(frame, 1), 1)
            blocks = [self._stage(block) for block in frames.split(step)]
            out = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        else:  # ONNX has no split of any number of frames
            out = self._stage(frames)
        return out.unflatten(0, (x.size(0), x.size(2))).transpose(1, 2)

    def _stage(self, frames: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N, C', H', W']``."""
        frames = self.conv(frames)
        if self.pool is not None:  # before ReLU, for which a quarter of the map remains
            frames = self.pool(frames)
        return frames.relu()


def _channels_last(frames: Tensor) -> Tensor:
    """Frames ``[N, H, W, C]`` as ``[N, C, H, W]``, with their channels last in memory, which is twice
    as fast on a CPU. Of one channel ``contiguous`` takes any strides for that; convolutions do not.
    """
    frames = frames[..., 0].unsqueeze(-1) if frames.size(-1) == 1 else frames.contiguous()
    return frames.movedim(-1, 1)


class SimpleConv(torch.nn.Module):
    r"""Convolutions, ReLU and max pooling, frame by frame.

    The paper's network for SyncMNIST (appendix; published code, ``SimpleConv``) has three stages of
    512 filters without padding: 64 -> 31 -> 14 -> 6 pixels.

    Args:
        in_channels: Channels of the clips. (default: 1)
        filters: Filters of each stage. (default: ``(512, 512, 512)``)
        padding: Zero padding of every convolution. (default: 0)
        pool: Whether each stage ends with 2 x 2 max pooling; one value for all or one per stage.
            (default: ``True``)
        difference: Whether the first stage takes, beside every frame, its difference from the frame
            before (zero in the first frame), so that the map tells motion as well. Such a network does
            not run on streams. (default: ``False``)
        out_channels: Channels of a last, linear layer, a 1 x 1 convolution without ReLU. SyncMNIST's
            pre-training teaches it each digit's presence and step. (default: ``None``, no such layer)

    Shapes:
        - **input:** clips :math:`(B, C, T, H, W)`
        - **output:** feature map :math:`(B, F, T, H', W')`

    Raises:
        ValueError: If ``pool`` does not have one value per stage.
    """

    def __init__(
        self,
        in_channels: int = 1,
        filters: Sequence[int] = (512, 512, 512),
        padding: int = 0,
        pool: bool | Sequence[bool] = True,
        difference: bool = False,
        out_channels: int | None = None,
    ):
        super().__init__()
        #: Whether frames do not depend on each other, so that clips can be fed as a stream.
        self.per_frame = not difference
        pools = [pool] * len(filters) if isinstance(pool, bool) else list(pool)
        if len(pools) != len(filters):
            raise ValueError(
                f"Expected 'pool' to have one value for each of {len(filters)} stages "
                f"(got {len(pools)})"
            )
        widths = [in_channels, *filters]
        self.stages = torch.nn.ModuleDict(
            {
                f"conv{i}": ConvStage(
                    widths[i], widths[i + 1], padding, pools[i], difference=difference and i == 0
                )
                for i in range(len(filters))
            }
        )
        self.channels = {f"conv{i}": width for i, width in enumerate(filters)}
        if out_channels is not None:
            self.stages["out"] = torch.nn.Conv3d(filters[-1], out_channels, 1)
            self.channels["out"] = out_channels

    def forward(self, clip: Tensor) -> Tensor:
        """The last stage's feature map."""
        for stage in self.stages.values():
            clip = stage(clip)
        return clip
