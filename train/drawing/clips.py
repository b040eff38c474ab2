"""Clips as pictures and animations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

_SCALE = 2  # pixels per pixel
_GAP = 4
_TEXT = 16
_MILLISECONDS = 200


def draw_clips(clips: Sequence[Tensor], captions: Sequence[str], kind: str) -> Callable[[Path], None]:
    """Draws clips with captions.

    Args:
        clips: Clips ``[C, T, H, W]`` uint8, one or three channels, all of one size.
        captions: A line of text for each.
        kind: ``".png"``: a row of frames per clip. ``".gif"``: the clips move beside each other.

    Returns:
        A function that writes the picture to a path (of any name).
    """
    frames = [_frames(clip) for clip in clips]
    if kind == ".png":
        rows = [_row(row, caption) for row, caption in zip(frames, captions)]
        return lambda path: _stack(rows).save(path, format="PNG")
    count = len(frames[0])
    columns = min(len(frames), 3)
    pages = []
    for t in range(count):
        tiles = [_row([clip[t]], caption) for clip, caption in zip(frames, captions)]
        width, height = tiles[0].size
        page = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height), "white")
        for i, tile in enumerate(tiles):
            page.paste(tile, (i % columns * width, i // columns * height))
        pages.append(page)
    return lambda path: pages[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=pages[1:],
        duration=_MILLISECONDS,
        loop=0,
    )


def _frames(clip: Tensor) -> list[Image.Image]:
    pixels = clip.permute(1, 2, 3, 0).cpu().numpy()  # [T, H, W, C]
    if pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    size = (pixels.shape[2] * _SCALE, pixels.shape[1] * _SCALE)
    return [Image.fromarray(frame).resize(size, Image.NEAREST) for frame in pixels]


def _row(frames: Sequence[Image.Image], caption: str) -> Image.Image:
    width, height = frames[0].size
    out = Image.new("RGB", (_GAP + len(frames) * (width + _GAP), height + _GAP + _TEXT), "white")
    for i, frame in enumerate(frames):
        out.paste(frame, (_GAP + i * (width + _GAP), _GAP))
    ImageDraw.Draw(out).text((_GAP, height + _GAP + 2), caption, fill="black")
    return out


def _stack(rows: Sequence[Image.Image]) -> Image.Image:
    out = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
    y = 0
    for row in rows:
        out.paste(row, (0, y))
        y += row.height
    return out
