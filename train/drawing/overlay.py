"""Draws what the nodes of a graph attend to, on the frames of a clip."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rstg_pyg import HomogeneousRSTG, RSTGBlock, RSTGConv, VideoClassifier
from rstg_pyg.graphs import multiscale_grid, relative_attention
from rstg_pyg.graphs.plot import TIMES
from rstg_pyg.train.drawing.pages import Page, Tile, animation, tile_side
from rstg_pyg.train.errors import UserError

_COLUMNS = 8  # frames beside each other on a sheet


@dataclass(frozen=True)
class Attention:
    """The attention in one graph of a network, for one clip.

    Attributes:
        place: Where the graph is: the stage's name, or ``"head"``.
        scales: Rows and columns of each scale.
        region: Corners ``(x0, y0, x1, y1)`` of the nodes' regions, in 0..1, ``[N, 4]``.
        node_type: The scale of each node, ``[N]``.
        edge_index: Sources and targets of the edges, ``[2, E]``.
        alpha: The coefficients, mean over rounds and heads, ``[T, E]``; those of the edges into one
            node sum to one.
        rounds: The number of rounds.
    """

    place: str
    scales: tuple[tuple[int, int], ...]
    region: Tensor
    node_type: Tensor
    edge_index: Tensor
    alpha: Tensor
    rounds: int

    def received(self) -> Tensor:
        """What every node gets, the sum of its coefficients over receivers, ``[T, N]``."""
        out = self.alpha.new_zeros(len(self.alpha), len(self.region))
        return out.index_add_(1, self.edge_index[0], self.alpha)

    def relative(self) -> Tensor:
        """:meth:`received` as a multiple of an even share, ``[T, N]``; see
        :func:`~rstg_pyg.graphs.relative_attention`.
        """
        return relative_attention(self.edge_index, self.alpha, len(self.region))


def graphs(model: VideoClassifier) -> dict[str, RSTGBlock]:
    """The graphs of a network by their places, in the order in which they run."""
    names = [
        model.block_after[stage] for stage in model.backbone.channels if stage in model.block_after
    ]
    found = {name: model.blocks[name] for name in names}
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
            f"--overlay: the graph at {place} joins all frames; a single frame has no attention to draw"
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

    The coefficients are the layer's own: what enters each :class:`~rstg_pyg.RSTGConv` is kept, and the
    layer is asked again with ``return_attention_weights``.

    Args:
        model: The network, in evaluation mode.
        clip: A normalized clip ``[C, T, H, W]``.
        place: Which graph; see :func:`graphs`. (default: the last)

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
    alpha = torch.stack(alphas).float().mean(dim=(0, -1))  # [K, T, 1, E, heads] to [T, 1, E]
    grid = multiscale_grid(block.pool.scales)
    return Attention(
        place,
        tuple(block.pool.scales),
        grid.region,
        grid.node_type,
        block.edge_index.cpu(),
        alpha[:, 0].cpu(),
        len(calls),
    )


def overlay(
    frames: Tensor,
    attention: Attention,
    title: str,
    captions: Sequence[str],
    kind: str,
) -> Callable[[Path], None]:
    """Draws a grid and its attention over the frames of a clip.

    Every scale has a panel, drawn by :func:`~rstg_pyg.graphs.plot_attention`.

    Args:
        frames: The clip, ``[C, T, H, W]`` uint8, as the network sees it; small ones are enlarged.
        attention: The attention of the clip. If the graph has fewer time steps than the clip has
            frames, neighboring frames show the same one.
        title: What stands above, such as the predicted class.
        captions: A few words for every frame.
        kind: ``".png"``: a sheet, scales below each other, frames from left to right. ``".gif"``:
            scales beside each other, frames one after the other.

    Returns:
        A function that writes the picture to a path (of any name).

    Example:
        >>> found = attention(model, normalize(clip, config))
        >>> overlay(clip, found, "Pushing something", ["1", "2", "3"], ".png")(Path("out.png"))
    """
    if kind not in (".png", ".gif"):
        raise UserError(f"--overlay: expected a name that ends in .png or .gif (got '{kind}')")
    count = frames.size(1)
    steps = [t * len(attention.alpha) // count for t in range(count)]
    relative = attention.relative()
    most = max(2, math.ceil(float(relative.max())))
    below = f"attention at {attention.place}, mean of {attention.rounds} rounds"
    names = [*map(_scale_name, attention.scales)]

    def column(t: int) -> list[Tile]:
        """A frame, and the same with each scale drawn on it."""
        picture = frames[:, t].permute(1, 2, 0)
        alpha = attention.alpha[steps[t]]
        return [Tile(picture), *(Tile(picture, attention, alpha, k) for k in range(len(names)))]

    side = tile_side(frames)
    if kind == ".gif":
        pages = []
        for t in range(count):
            page = Page(side, 1, 1, 1 + len(names), title, f"{below}; {captions[t]}", most)
            page.add_labels(["clip", *names], above=True)
            for i, tile in enumerate(column(t)):
                page.add(tile, 0, i)
            page.add_progress((t + 1) / count)
            pages.append(page)
        return animation(pages)
    columns = min(count, _COLUMNS)
    bands = -(-count // columns)
    page = Page(side, bands, 1 + len(names), columns, title, below, most)
    page.add_labels(["clip", *names] * bands, above=False)
    for t in range(count):
        band, left = divmod(t, columns)
        for i, tile in enumerate(column(t)):
            page.add(tile, band * (1 + len(names)) + i, left, captions[t] if i == 0 else "")
    return page.save


def _scale_name(scale: tuple[int, int]) -> str:
    rows, columns = scale
    return "whole frame" if rows == columns == 1 else f"{rows} {TIMES} {columns}"
