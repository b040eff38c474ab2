"""Clips as pictures and animations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

_SCALE = 2  # pixels per pixel
_GAP = 4
_MARK = "#ffd400"
_TEXT = 16
_MILLISECONDS = 200


def draw_clips(
    clips: Sequence[Tensor],
    captions: Sequence[str],
    kind: str,
    boxes: Sequence[Tensor] | None = None,
) -> Callable[[Path], None]:
    """Draws clips with captions.

    Args:
        clips: Clips ``[C, T, H, W]`` uint8, one or three channels, all of one size.
        captions: A line of text for each clip.
        kind: ``".png"``: a row of frames per clip. ``".gif"``: the clips play side by side.
        boxes: For each clip, boxes ``(x0, y0, x1, y1)`` to mark, in pixels, ``[T, n, 4]``.
            (default: none)

    Returns:
        A function that writes the picture to a path (of any name).
    """
    frames = [_frames(clip) for clip in clips]
    for clip, marked in zip(frames, boxes or ()):
        for frame, corners in zip(clip, (_SCALE * marked).tolist()):
            for corner in corners:
                ImageDraw.Draw(frame).rectangle(corner, outline=_MARK)
    if kind == ".png":
        return save_pages([_page(frames, captions, columns=1)])
    moments = ([[frame] for frame in moment] for moment in zip(*frames))
    return save_pages([_page(moment, captions, columns=3) for moment in moments], _MILLISECONDS)


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


def _page(rows: Sequence[list[Image.Image]], captions: Sequence[str], columns: int) -> Image.Image:
    """Rows of frames, with their captions below, in columns."""
    columns = min(len(rows), columns)
    step, tall = rows[0][0].width + _GAP, rows[0][0].height + _GAP + _TEXT
    wide = len(rows[0]) * step + _GAP
    out = Image.new("RGB", (columns * wide, -(-len(rows) // columns) * tall), "white")
    for i, (frames, caption) in enumerate(zip(rows, captions)):
        left, top = i % columns * wide + _GAP, i // columns * tall + _GAP
        for k, frame in enumerate(frames):
            out.paste(frame, (left + k * step, top))
        ImageDraw.Draw(out).text((left, top + frame.height + 2), caption, fill="black")
    return out
