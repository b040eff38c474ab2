"""Clips as pictures and animations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

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
        captions: A line of text for each clip.
        kind: ``".png"``: a row of frames per clip. ``".gif"``: the clips play side by side.

    Returns:
        A function that writes the picture to a path (of any name).
    """
    frames = [_frames(clip) for clip in clips]
    if kind == ".png":
        return save_pages([_sheet([_strip(*pair) for pair in zip(frames, captions)], 1)])
    pages = [
        _sheet([_strip([frame], caption) for frame, caption in zip(moment, captions)], 3)
        for moment in zip(*frames)
    ]
    return save_pages(pages, _MILLISECONDS)


def save_pages(
    pages: Sequence[Image.Image], milliseconds: int | None = None, last: int = 0
) -> Callable[[Path], None]:
    """A function that writes the first page as PNG, or all of them as an endless GIF.

    Args:
        pages: The pictures.
        milliseconds: The duration of each page. (default: no GIF)
        last: The factor by which the last page is shown longer.
    """
    if milliseconds is None:
        return lambda path: pages[0].save(path, format="PNG")
    times = [milliseconds] * (len(pages) - 1) + [milliseconds + last]
    return lambda path: pages[0].save(
        path, format="GIF", save_all=True, append_images=pages[1:], duration=times, loop=0
    )


def _frames(clip: Tensor) -> list[Image.Image]:
    pixels = clip.permute(1, 2, 3, 0).expand(-1, -1, -1, 3).cpu().numpy()  # [T, H, W, 3]
    size = (pixels.shape[2] * _SCALE, pixels.shape[1] * _SCALE)
    return [Image.fromarray(frame).resize(size, Image.Resampling.NEAREST) for frame in pixels]


def _strip(frames: Sequence[Image.Image], caption: str) -> Image.Image:
    """Frames side by side, with the caption below."""
    width, height = frames[0].size
    out = Image.new("RGB", (_GAP + len(frames) * (width + _GAP), height + _GAP + _TEXT), "white")
    for i, frame in enumerate(frames):
        out.paste(frame, (_GAP + i * (width + _GAP), _GAP))
    ImageDraw.Draw(out).text((_GAP, height + _GAP + 2), caption, fill="black")
    return out


def _sheet(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """Arranges tiles of equal size in rows."""
    (width, height), columns = tiles[0].size, min(len(tiles), columns)
    out = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height), "white")
    for i, tile in enumerate(tiles):
        out.paste(tile, (i % columns * width, i // columns * height))
    return out
