"""Means over the frames of clips of different lengths, and of a video that comes in pieces."""

from typing import Optional, Sequence, Tuple, Union

import torch
from torch import Tensor
from torch.nn import functional as F

#: The sum over the frames so far (float32 or better), and their number.
MeanState = Tuple[Tensor, int]


def first_frames(
    lengths: Union[Tensor, Sequence[int]], clips: int, frames: int, device: torch.device
) -> Tensor:
    """Which frames are there, ``[B, T]``, if every clip has so many.

    Raises:
        ValueError: If they are not as many numbers of frames as there are clips.
    """
    lengths = torch.as_tensor(lengths, device=device)
    wrong = lengths.shape != (clips,) or lengths.is_floating_point()
    # A compiled graph cannot look at values.
    known = not torch.compiler.is_compiling()
    if wrong or (known and bool(((lengths < 0) | (lengths > frames)).any())):
        raise ValueError(
            f"Expected 'lengths' to hold {clips} numbers of frames from 0 to {frames} "
            f"(got {lengths.tolist() if known else list(lengths.shape)})"
        )
    return torch.arange(frames, device=device) < lengths.view(-1, 1)


def mean_over_frames(x: Tensor, dim: int, lengths: Union[Tensor, Sequence[int], None] = None) -> Tensor:
    """The mean over time of all frames, or of so many first ones of every clip.

    Args:
        x: Values ``[B, *]``.
        dim: The dimension of the frames.
        lengths: How many frames of each clip are there. (default: all)
    """
    if lengths is None:
        return x.mean(dim)
    present = first_frames(lengths, x.size(0), x.size(dim), x.device)
    shape = [1] * x.dim()
    shape[0], shape[dim] = present.shape
    present = present.view(shape)
    # Not a product: what is in frames that are not there may be infinite.
    return x.masked_fill(~present, 0).sum(dim) / present.sum(dim).clamp(min=1)


def running_mean(x: Tensor, dim: int, state: Optional[MeanState] = None) -> Tuple[Tensor, MeanState]:
    """The mean over all frames so far.

    Args:
        x: Values of the next frames.
        dim: The dimension of the frames.
        state: What the call before returned. (default: none, at the beginning of a video)

    Returns:
        The mean, in the type of ``x``, and the state.

    Raises:
        ValueError: If the state belongs to values of another shape.
    """
    # In half precision the sum itself would stop growing after some hundred frames.
    total, count = x.sum(dim, dtype=torch.promote_types(x.dtype, torch.float32)), x.size(dim)
    if state is not None:
        before, frames = state
        if before.shape != total.shape:
            raise ValueError(
                f"Expected the state of a stream of the same batch and size, with a mean of shape "
                f"{list(total.shape)} (got {list(before.shape)}); a new stream begins with none"
            )
        total, count = before + total, frames + count
    return (total / count).to(x.dtype), (total, count)


def mean_of_windows(x: Tensor, window: Sequence[int]) -> Tensor:
    """:func:`torch.nn.functional.avg_pool3d` with stride 1, also in types of 16 bits on a CPU, for
    which torch has none.
    """
    if x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16):
        return F.avg_pool3d(x.float(), list(window), stride=1).to(x.dtype)
    return F.avg_pool3d(x, list(window), stride=1)
