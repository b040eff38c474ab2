"""The mean over the frames of a video that comes in pieces."""

from typing import Optional, Tuple

import torch
from torch import Tensor

#: The sum over the frames so far (float32 or better), and their number.
MeanState = Tuple[Tensor, int]


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
