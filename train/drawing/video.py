"""Draws the attention of a network on a video that it has predicted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rstg_pyg.graphs import attention_page
from rstg_pyg.graphs.plot import TIMES
from rstg_pyg.train.data.sources import FrameSource
from rstg_pyg.train.data.transforms import center_crop, center_window, short_side_size
from rstg_pyg.train.drawing.overlay import Attention, overlay, scale_name

_SHORT_SIDE = 320  # of the frames of a page
_PICTURE_SIDE = 210  # of the frames of a picture, at most
_PAGE_FRAMES = 150  # of a longer video as many are shown
_GIF_FRAMES, _GIF_SECONDS = 16, 3.2
_FPS = 12  # of a folder of frames


def draw_video(
    predictor: Any, video: tuple[FrameSource, str], found: Attention, title: str, kind: str
) -> Callable[[Path], None]:
    """Draws attention on a video.

    Args:
        predictor: The :class:`~rstg_pyg.train.Predictor`.
        video: The video.
        found: Its attention, from :meth:`~rstg_pyg.train.Predictor.attention`.
        title: The title.
        kind: ``".html"``: a page with the whole video; otherwise a kind of :func:`overlay`.

    Returns:
        A function that writes the file.
    """
    if kind == ".html":
        page = video_page(predictor, video, found, title).encode()

        def write(path: Path) -> None:
            path.write_bytes(page)

        return write
    source, name = video
    length, sampled = source.num_frames(name), predictor.times(video)[0]
    shown = sampled if kind == ".png" else _shown(length, sampled, _GIF_FRAMES)
    first = next(source.frames(name, [0]))
    factor = max(1, min(_PICTURE_SIDE, *first.shape[:2]) // predictor.short_side)  # sharper
    frames = source.read(name, shown, factor * predictor.short_side)
    clip = center_crop(frames, factor * predictor.size).permute(3, 0, 1, 2)
    captions = _captions(video, shown)
    if kind == ".png":
        return overlay(clip, found, title, captions, kind)
    nearest = np.abs(sampled - shown[:, None]).argmin(axis=1)
    steps = nearest * len(found.alpha) // len(sampled)
    wait = int(np.clip(_GIF_SECONDS * 1000 / len(shown), 60, 400))
    return overlay(clip, found, title, captions, kind, steps.tolist(), wait)


def video_page(predictor: Any, video: tuple[FrameSource, str], found: Attention, title: str) -> str:
    """The page of :func:`~rstg_pyg.graphs.attention_page` for a video.

    Of a long video some frames are shown, among them all that the network sees. Regions are where the
    network's center crop is.
    """
    source, name = video
    length, sampled = source.num_frames(name), predictor.times(video)[0]
    few = length < len(sampled)  # frames are seen more than once
    shown = sampled if few else _shown(length, sampled, _PAGE_FRAMES)
    first = next(source.frames(name, [0]))
    frames = source.read(name, shown, min(_SHORT_SIDE, *first.shape[:2]))
    times = source.times(name)
    # A graph may pool time: each of its steps is shown on the middle one of its frames.
    groups = np.array_split(np.arange(len(sampled)), len(found.coefficients[0]))
    middle = [int(group[len(group) // 2]) for group in groups]
    steps = middle if few else np.searchsorted(shown, sampled[middle]).tolist()
    height, width = short_side_size(first.shape[0], first.shape[1], predictor.short_side)
    size = predictor.size
    top, left, _, _ = center_window(height, width, size)
    corner = torch.tensor([left / width, top / height])
    region = corner.repeat(2) + found.region * torch.tensor([size / width, size / height]).repeat(2)
    return attention_page(
        found.edge_index,
        list(found.coefficients),
        (region[:, :2] + region[:, 2:]) / 2,
        region=region,
        node_type=found.node_type,
        names=_node_names(found),
        type_names=[scale_name(scale) for scale in found.scales],
        frames=frames,
        steps=steps,
        seconds=(shown / _FPS if times is None else times[shown]).tolist(),
        captions=_captions(video, shown),
        probabilities=_chances(predictor, video, sampled[middle]),
        classes=predictor.names,
        title=title,
        subtitle=f"{name}: attention at {found.place} of {predictor.title}, which sees "
        f"{len(sampled)} frames of {size} {TIMES} {size} pixels",
    )


def _shown(length: int, sampled: np.ndarray, most: int) -> np.ndarray:
    """The sampled frames and about so many others of a video."""
    even = np.linspace(0, length - 1, min(length, most)).round().astype(np.int64)
    return np.union1d(even, sampled)


def _captions(video: tuple[FrameSource, str], indices: np.ndarray) -> list[str]:
    source, name = video
    times, length = source.times(name), source.num_frames(name)
    return [
        f"frame {i + 1} of {length}" + ("" if times is None else f", {times[i]:.2f} s")
        for i in indices.tolist()
    ]


def _node_names(found: Attention) -> list[str]:
    names = []
    for rows, columns in found.scales:
        where = f"of {rows} {TIMES} {columns}"
        names += [
            f"row {r + 1}, column {c + 1} {where}" if rows * columns > 1 else "whole frame"
            for r in range(rows)
            for c in range(columns)
        ]
    return names


def _chances(predictor: Any, video: tuple[FrameSource, str], sampled: np.ndarray) -> Tensor:
    """The probabilities after each sampled frame, if the network can stream, or of the whole."""
    if predictor.model.streams and predictor.protocol.temporal == 1:
        after = dict(predictor.stream(video))
        return predictor.chances(torch.stack([after[i] for i in sampled.tolist()]))
    return predictor.chances(predictor.logits(predictor.clips(video)))
