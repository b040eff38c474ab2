"""Painting digits on frames and resizing frames, on any device, whole batches at once."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

#: Pixels of a digit that are darker than this do not cover what is below them.
FOREGROUND = 10


def paint(images: Tensor, corners: Tensor, canvas_size: int) -> Tensor:
    """Paints digits one after the other, later ones over earlier ones.

    A digit's pixels replace the frame where they are at least 10; elsewhere the frame stays. (No sum
    and no maximum.)

    Args:
        images: The digits of every video, ``[B, D, h, w]`` uint8.
        corners: Row and column of every digit's top-left pixel in every frame,
            ``[B, T, D, 2]`` int64, so that digits lie inside the canvas.
        canvas_size: Side of the square canvas.

    Returns:
        ``[B, T, canvas_size, canvas_size]`` uint8
    """
    videos, frames, digits = corners.shape[:3]
    height, width = images.shape[-2:]
    spare = canvas_size * canvas_size  # one cell past the end takes what must not be painted
    canvas = images.new_zeros(videos * frames, spare + 1)
    rows = torch.arange(height, device=images.device)[:, None] * canvas_size
    offset = (rows + torch.arange(width, device=images.device)).flatten()
    corner = corners[..., 0] * canvas_size + corners[..., 1]  # [B, T, D]
    for d in range(digits):
        pixels = images[:, d].flatten(1)  # [B, h * w]
        # Pixels that paint nothing in a whole digit go to the spare cell, whatever the frame.
        cell = torch.where((pixels >= FOREGROUND).unsqueeze(1), corner[:, :, d, None] + offset, spare)
        value = pixels.unsqueeze(1).expand(-1, frames, -1)
        canvas.scatter_(1, cell.flatten(0, 1), value.reshape(videos * frames, -1))
    return canvas[:, :spare].view(videos, frames, canvas_size, canvas_size)


def stretch(frames: Tensor) -> Tensor:
    """Stretches every frame to the full range 0..255, rounding half up (scipy's ``imresize``).

    Args:
        frames: ``[*, H, W]`` uint8.
    """
    flat = frames.flatten(0, -3)
    low = flat.amin(dim=(1, 2))
    high = flat.amax(dim=(1, 2))
    rows = ((low > 0) | (high < 255)).nonzero().view(-1)
    if rows.numel() == 0:
        return frames
    span = (high - low)[rows].clamp(min=1).float()[:, None, None]
    part = (flat[rows] - low[rows, None, None]).float() * 255
    out = flat.clone()
    out[rows] = (part / span + 0.5).floor().clamp(0, 255).to(torch.uint8)
    return out.view(frames.shape)


def triangle_matrix(out_size: int, in_size: int) -> Tensor:
    """Pillow's BILINEAR (antialiased triangle) filter as a matrix ``[out_size, in_size]``.

    Its weights are rounded to 22 bits as Pillow's are; in double precision sums are then exact.
    """
    scale = in_size / out_size
    support = max(scale, 1.0)
    center = (torch.arange(out_size, dtype=torch.float64) + 0.5)[:, None] * scale
    cell = torch.arange(in_size, dtype=torch.float64)
    first = (center - support + 0.5).floor().clamp(min=0)
    last = (center + support + 0.5).floor().clamp(max=in_size)
    weight = (1 - ((cell + 0.5 - center) / support).abs()).clamp(min=0)
    weight = weight * ((cell >= first) & (cell < last))
    weight = weight / weight.sum(1, keepdim=True)
    return (weight * 2**22 + 0.5).floor() / 2**22


@lru_cache(maxsize=32)
def _bands(out_size: int, in_size: int, device: torch.device) -> list[tuple[slice, Tensor]]:
    """The filter in bands of 16 outputs, each with the few inputs that it needs."""
    bands = []
    for rows in triangle_matrix(out_size, in_size).split(16):
        used = rows.any(0).nonzero()
        part = slice(int(used[0]), int(used[-1]) + 1)
        bands.append((part, rows[:, part].to(device)))
    return bands


def resize(frames: Tensor, size: int) -> Tensor:
    """Resizes 8-bit frames as Pillow's BILINEAR does, to the bit: columns first, rounded, then rows.

    Args:
        frames: ``[*, H, W]`` uint8.
        size: Side of the square result.

    Returns:
        ``[*, size, size]`` uint8
    """
    height, width = frames.shape[-2:]
    if (height, width) == (size, size):
        return frames
    x = frames.flatten(0, -3).double()
    across = _bands(size, width, frames.device)
    x = torch.cat([x[:, :, part] @ weight.t() for part, weight in across], dim=2)
    x = x.add_(0.5).floor_()
    down = _bands(size, height, frames.device)
    x = torch.cat([weight @ x[:, part] for part, weight in down], dim=1)
    x = x.add_(0.5).floor_().clamp_(0, 255)
    return x.to(torch.uint8).view(*frames.shape[:-2], size, size)
