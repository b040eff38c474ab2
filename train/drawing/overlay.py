"""Draws the attention of a graph on the frames of a clip."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke
from PIL import Image
from torch import Tensor

from rstg_pyg import HomogeneousRSTG, RSTGBlock, RSTGConv, VideoClassifier
from rstg_pyg.graphs import multiscale_grid, relative_attention
from rstg_pyg.graphs.plot import HEARD, LISTENS, TIMES, attention_colors, plot_attention
from rstg_pyg.train.drawing.clips import save_pages
from rstg_pyg.train.errors import UserError

_COLUMNS = 8  # frames side by side on a sheet
_LEAST_SIDE = 224  # pixels, about; smaller frames are enlarged
_LEAST_WIDTH = 640  # for the legend
_TITLE_AND_LEGEND, _GAP = 185, 24  # pixels; between frames
_DPI = 100


@dataclass(frozen=True)
class Attention:
    """The attention in one graph of a network, for one clip.

    Attributes:
        place: Where the graph is: the stage's name, or ``"head"``.
        scales: Rows and columns of each scale.
        region: Corners ``(x0, y0, x1, y1)`` of the nodes' regions, in 0..1, ``[N, 4]``.
        node_type: The scale of each node, ``[N]``.
        edge_index: Sources and targets of the edges, ``[2, E]``.
        coefficients: The coefficients, ``[rounds, T, E, heads]``; those of the edges into one node sum
            to one.
    """

    place: str
    scales: tuple[tuple[int, int], ...]
    region: Tensor
    node_type: Tensor
    edge_index: Tensor
    coefficients: Tensor

    @property
    def alpha(self) -> Tensor:
        """The mean of the coefficients over rounds and heads, ``[T, E]``."""
        return self.coefficients.mean(dim=(0, 3))

    @property
    def rounds(self) -> int:
        """The number of rounds."""
        return len(self.coefficients)

    def received(self) -> Tensor:
        """The attention that every node receives, the sum of its coefficients, ``[T, N]``."""
        out = self.alpha.new_zeros(len(self.alpha), len(self.region))
        return out.index_add_(1, self.edge_index[0], self.alpha)

    def relative(self) -> Tensor:
        """:meth:`received` as a multiple of uniform attention, ``[T, N]``; see
        :func:`~rstg_pyg.graphs.relative_attention`.
        """
        return relative_attention(self.edge_index, self.alpha, len(self.region))


def graphs(model: VideoClassifier) -> dict[str, RSTGBlock]:
    """The graphs of a network by place, in the order in which they run."""
    backbone: Any = model.backbone
    names = [model.block_after[stage] for stage in backbone.channels if stage in model.block_after]
    found: dict[str, Any] = {name: model.blocks[name] for name in names}
    return {**found, "head": model.head} if isinstance(model.head, RSTGBlock) else found


def find_graph(model: VideoClassifier, place: str | None = None) -> tuple[str, RSTGBlock]:
    """The graph at a place (by default the last), and that place.

    Raises:
        UserError: If there is no such graph, or no attention in it.
    """
    found = graphs(model)
    if not found:
        raise UserError("--overlay: this network has no graph (model.rstg is null), nothing to draw")
    place = list(found)[-1] if place is None else place.replace(".", "_")
    if place not in found:
        raise UserError(f"--place: expected one of {', '.join(found)} (got {place!r})")
    block = found[place]
    if isinstance(block.rstg, HomogeneousRSTG):
        raise UserError(
            f"--overlay: the graph at {place} connects all frames; no attention to draw per frame"
        )
    if not _convs(block) or block.edge_index.size(1) == 0:
        raise UserError(
            f"--overlay: the nodes of the graph at {place} send no messages, nothing to draw"
        )
    return place, block


def _convs(block: RSTGBlock) -> list[RSTGConv]:
    return [module for module in block.modules() if isinstance(module, RSTGConv)]


def attention(model: VideoClassifier, clip: Tensor, place: str | None = None) -> Attention:
    """Runs a clip through a network and reads the attention of one of its graphs.

    The coefficients are the layer's own: the inputs of each :class:`~rstg_pyg.RSTGConv` are recorded,
    and the layer is called again with ``return_attention_weights``.

    Args:
        model: The network, in evaluation mode.
        clip: A normalized clip ``[C, T, H, W]``.
        place: The graph; see :func:`graphs`. (default: the last)

    Raises:
        UserError: If there is no such graph, or no attention in it.
    """
    place, block = find_graph(model, place)
    convs = _convs(block)
    calls = []
    hooks = [
        conv.register_forward_pre_hook(
            lambda conv, args, kwargs: calls.append((conv, args, kwargs)), with_kwargs=True
        )
        for conv in convs
    ]
    with torch.no_grad():
        try:
            model(clip[None])
        finally:
            for hook in hooks:
                hook.remove()
        alphas = [conv(*a, **{**k, "return_attention_weights": True})[1][1] for conv, a, k in calls]
    grid = multiscale_grid(block.pool.scales)
    return Attention(
        place,
        tuple(block.pool.scales),
        grid.region,
        grid.node_type,
        block.edge_index.cpu(),
        torch.stack(alphas)[:, :, 0].float().cpu(),  # [K, T, 1, E, heads]
    )


def overlay(
    frames: Tensor,
    attention: Attention,
    title: str,
    captions: Sequence[str],
    kind: str,
    steps: Sequence[int] | None = None,
    milliseconds: int = 400,
) -> Callable[[Path], None]:
    """Draws a grid and its attention over the frames of a clip.

    Every scale has a panel, drawn by :func:`~rstg_pyg.graphs.plot_attention`.

    Args:
        frames: Frames ``[C, F, H, W]`` uint8 of what the network sees, of any size.
        attention: The attention of the clip.
        title: The title, such as the predicted class.
        captions: A short caption for every frame.
        kind: ``".png"``: a sheet, scales below each other, frames from left to right. ``".gif"``:
            scales beside each other, frames one after the other.
        steps: The time step of the attention that each frame shows. (default: spread evenly)
        milliseconds: How long a ``.gif`` shows each frame.

    Returns:
        A function that writes the picture to a path (of any name).

    Example:
        >>> found = attention(model, normalize(clip, config))
        >>> overlay(clip, found, "Pushing something", ["1", "2", "3"], ".png")(Path("out.png"))
    """
    if kind not in (".png", ".gif"):
        raise UserError(f"--overlay: expected a name that ends in .png or .gif (got '{kind}')")
    count, alpha = frames.size(1), attention.alpha
    seen = [t * len(alpha) // count for t in range(count)] if steps is None else steps
    most = max(2, math.ceil(float(attention.relative().max())))
    title = f"{title}\nattention at {attention.place}, mean of {attention.rounds} rounds"
    names = [scale_name(scale) for scale in attention.scales]

    def draw(column: np.ndarray, t: int) -> None:
        """A frame, with each scale drawn on it."""
        for k, ax in enumerate(column):
            picture = frames[:, t].permute(1, 2, 0)
            plot_attention(attention, alpha[seen[t]], picture, ax, scale=k, most=most)

    if kind == ".gif":
        pages = []
        for t in range(count):
            figure, axes = _page(frames, 1, len(names), f"{title}; {captions[t]}", most)
            draw(axes[0], t)
            for ax, name in zip(axes[0], names):
                ax.set_title(name, fontsize=9)
            pages.append(_render(figure).quantize(128, Image.Quantize.FASTOCTREE))  # keeps rare colors
        return save_pages(pages, milliseconds, last=800)
    columns = min(count, _COLUMNS)
    figure, axes = _page(frames, -(-count // columns) * len(names), columns, title, most)
    for t in range(count):
        top = t // columns * len(names)
        column = axes[top : top + len(names), t % columns]
        draw(column, t)
        column[0].set_title(captions[t], fontsize=8)
        if t % columns == 0:
            for ax, name in zip(column, names):
                ax.text(-0.03, 0.5, name, fontsize=9, rotation=90, ha="right", va="center",
                        transform=ax.transAxes)  # fmt: skip
    return save_pages([_render(figure)])


def scale_name(scale: tuple[int, int]) -> str:
    """How a scale is named in pictures."""
    rows, columns = scale
    return "whole frame" if rows == columns == 1 else f"{rows} {TIMES} {columns}"


def _page(
    frames: Tensor, rows: int, columns: int, title: str, most: float
) -> tuple[Figure, np.ndarray]:
    """A figure with axes ``[rows, columns]`` for frames, a title, and what colors and arrows mean."""
    height, width = frames.shape[-2:]
    factor = max(1, round(_LEAST_SIDE / max(height, width)))  # enlarged by a whole number
    wide = max(columns * (width * factor + _GAP), _LEAST_WIDTH)
    tall = rows * (height * factor + _GAP) + _TITLE_AND_LEGEND
    figure = Figure((wide / _DPI, tall / _DPI), dpi=_DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    figure.suptitle(title, fontsize=min(11.0, 1.2 * wide / len(title)))  # long names: a smaller font
    figure.colorbar(
        attention_colors(most), ax=axes, location="bottom", fraction=12 / tall, aspect=20,
        shrink=240 / wide, ticks=[1, most], format=f"%g{TIMES}",
        label=f"attention received (1{TIMES}: even)",
    )  # fmt: skip
    outline = [Stroke(linewidth=3.6, foreground="black"), Normal()]
    arrow = "\N{RIGHTWARDS ARROW}"
    words = f"outlined region {arrow} those that listen to it most"
    heard = Line2D([], [], color=HEARD, label=words, path_effects=outline)
    words = f"those that it listens to most {arrow} outlined region"
    listens = Line2D([], [], color=LISTENS, label=words, path_effects=outline)
    figure.legend(handles=[heard, listens], loc="outside lower center", ncols=2, fontsize=8)
    return figure, axes


def _render(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
