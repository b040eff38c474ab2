"""Multi-scale grids: their regions, which regions are adjacent, and their positions."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch_geometric.data import Data

#: One scale: ``s`` for an ``s x s`` grid, or ``(rows, columns)``.
Scale = int | tuple[int, int]

#: Standard deviation of the positional heat maps, in map cells (as published).
POSITION_STD = 2.0
#: Side of the positional heat maps unless a scale is finer (as published).
MAP_SIZE = 6


def normalize_scales(scales: Sequence[Scale]) -> tuple[tuple[int, int], ...]:
    """Writes every scale as ``(rows, columns)``.

    Raises:
        ValueError: If there is no scale, or one is not a positive integer or a
            pair of positive integers.
    """
    if isinstance(scales, int) or len(scales) == 0:
        raise ValueError(
            f"Expected 'scales' to be a non-empty tuple such as (3, 2, 1) (got {scales!r})"
        )
    out = []
    for scale in scales:
        pair = tuple(scale) if isinstance(scale, (tuple, list)) else (scale, scale)
        if len(pair) != 2 or not all(
            isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in pair
        ):
            raise ValueError(
                f"Expected each scale to be a positive integer or a pair (rows, columns) "
                f"of positive integers (got {scale!r} in {tuple(scales)!r})"
            )
        out.append(pair)
    return tuple(out)


def num_nodes(scales: Sequence[Scale]) -> int:
    """The number of regions of a grid: ``sum(rows * columns)`` over its scales."""
    return sum(rows * cols for rows, cols in normalize_scales(scales))


def _cells(scales: tuple[tuple[int, int], ...]) -> Tensor:
    """One row ``(type, rows, columns, row, column)`` per region, ``[N, 5]``."""
    return torch.tensor(
        [
            (kind, rows, cols, r, c)
            for kind, (rows, cols) in enumerate(scales)
            for r in range(rows)
            for c in range(cols)
        ]
    )


def _boxes(cells: Tensor) -> tuple[Tensor, int, int]:
    """Corners ``(x0, y0, x1, y1)`` as exact integers on a frame ``width x height``.

    The frame is as many units wide (high) as the least common multiple of the column
    (row) counts, so every border of every scale lies on an integer.
    """
    _, rows, cols, r, c = cells.unbind(1)
    height, width = math.lcm(*rows.tolist()), math.lcm(*cols.tolist())
    dy, dx = height // rows, width // cols
    return torch.stack([c * dx, r * dy, (c + 1) * dx, (r + 1) * dy], dim=1), width, height


def _touching(boxes: Tensor) -> Tensor:
    """``edge_index [2, E]``, sorted by target: pairs that overlap or share part of a border."""
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    overlap = high - low  # [N, N, 2]: negative apart, zero in contact, positive overlapping
    touching = (overlap >= 0).all(-1) & (overlap > 0).any(-1)  # a corner is not enough
    touching.fill_diagonal_(False)
    target, source = touching.nonzero(as_tuple=True)
    return torch.stack([source, target])


def _with_numbers(build: Callable) -> Callable:
    """Builds on the CPU, then moves to the default device, which may hold no data (``meta``)."""

    @functools.wraps(build)
    def built(*args, **kwargs):
        device = torch.empty(0).device
        with torch.device("cpu"):
            out = build(*args, **kwargs)
        return out.to(device)

    return built


@_with_numbers
def position_maps(scales: Sequence[Scale], map_size: int | None = None) -> Tensor:
    r"""The positional heat map of every region, flattened: ``[N, d * d]``.

    The map of region :math:`(r, c)` of an :math:`R \times C` grid is zero except in the region's own
    block of :math:`k_h \times k_w` cells, :math:`k_h = \lfloor d / R \rfloor`,
    :math:`k_w = \lfloor d / C \rfloor`. The block holds a Gaussian with its peak (value 1) at the
    block's center:

    .. math::
        \exp\left( -\frac{(y - \frac{k_h - 1}{2})^2 + (x - \frac{k_w - 1}{2})^2}{2 \cdot 2^2} \right)

    Args:
        scales: The grid's scales.
        map_size: The side :math:`d` of the maps. By default 6, as in the published code, or the
            finest scale's cell count where that is larger.

    Raises:
        ValueError: If a scale is finer than the map.
    """
    scales = normalize_scales(scales)
    finest = max(max(scale) for scale in scales)
    size = max(MAP_SIZE, finest) if map_size is None else map_size
    if size < finest:
        raise ValueError(
            f"Expected 'map_size' to be at least {finest}, the cells of the finest scale "
            f"(got {map_size})"
        )
    maps = torch.zeros(num_nodes(scales), size, size, dtype=torch.float64)
    for node, (_, rows, cols, r, c) in enumerate(_cells(scales).tolist()):
        height, width = size // rows, size // cols
        y, x = (torch.arange(k, dtype=torch.float64) - (k - 1) / 2 for k in (height, width))
        block = torch.exp(-(y[:, None] ** 2 + x**2) / (2 * POSITION_STD**2))
        maps[node, r * height : (r + 1) * height, c * width : (c + 1) * width] = block
    return maps.flatten(1).float()


@_with_numbers
def multiscale_grid(scales: Sequence[Scale] = (3, 2, 1), *, map_size: int | None = None) -> Data:
    r"""The graph of a frame's regions at several scales.

    Every scale divides the frame into equal cells. Two regions are connected, in both directions, if
    they overlap or share part of a border; a shared corner is not enough and there are no self
    loops. Adjacency is computed in integers, so it is exact for all scales.
    (`"Recurrent Space-time Graph Neural Networks" <https://arxiv.org/abs/1904.05582>`_,
    section 3.1.)

    Nodes are ordered by scale as given, then row by row. The default has 9 + 4 + 1 = 14 nodes and
    90 directed edges.

    Args:
        scales: The scales, each an integer ``s`` (``s x s`` cells) or a pair ``(rows, columns)``.
            (default: ``(3, 2, 1)``, finest first as in the published code)
        map_size: The side ``d`` of the positional heat maps (default: 6, or the finest scale's
            cell count where that is larger).

    Returns:
        A :class:`~torch_geometric.data.Data` with

        - ``edge_index [2, E]``: sorted by target, then by source
        - ``pos [N, 2]``: center ``(x, y)`` of the region, in 0..1
        - ``region [N, 4]``: corners ``(x0, y0, x1, y1)``, in 0..1
        - ``scale [N]``: cells along the longer side of the region's grid (3, 2 or 1 by default)
        - ``node_type [N]``: index of the region's scale in ``scales`` (0, 1 or 2 by default)
        - ``pos_map [N, d * d]``: the positional heat map, see :func:`position_maps`

    Raises:
        ValueError: If ``scales`` is empty or contains anything other than positive integers or pairs
            of them, or if ``map_size`` is smaller than a scale.

    Example:
        >>> grid = multiscale_grid((2, 1))
        >>> grid.num_nodes, grid.num_edges, grid.pos_map.shape
        (5, 16, torch.Size([5, 36]))
    """
    scales = normalize_scales(scales)
    cells = _cells(scales)
    boxes, width, height = _boxes(cells)
    region = boxes / torch.tensor([width, height, width, height], dtype=torch.float64)
    center = (region[:, :2] + region[:, 2:]) / 2
    return Data(
        num_nodes=cells.size(0),
        edge_index=_touching(boxes),
        pos=center.float(),
        region=region.float(),
        scale=cells[:, 1:3].amax(1),
        node_type=cells[:, 0].clone(),
        pos_map=position_maps(scales, map_size),
    )


def complete_graph(grid: Data) -> Data:
    r"""The same nodes with an edge for every ordered pair of nodes, self loops included.

    The edges of ``grid`` have ``edge_weight`` 1, all others 0. With these weights on the attention
    logits (``edge_weight_on="logits"``), :class:`~rstg_pyg.RSTGConv` computes what the published code
    computes: there the 0/1 adjacency multiplies the logits, so pairs of nodes that are not neighbors
    still receive :math:`e^0 / Z` of the attention.

    Args:
        grid: A graph with ``edge_index`` and ``num_nodes``, for example from :func:`multiscale_grid`.

    Returns:
        A shallow copy of the graph with

        - ``edge_index [2, N * N]``: sorted by target, then by source
        - ``edge_weight [N * N]``: the 0/1 adjacency
    """
    n, device = grid.num_nodes, grid.edge_index.device
    nodes = torch.arange(n, device=device)
    adjacency = torch.zeros(n, n, device=device)
    adjacency[grid.edge_index[1], grid.edge_index[0]] = 1.0
    out = copy.copy(grid)
    out.edge_index = torch.stack([nodes.repeat(n), nodes.repeat_interleave(n)])
    out.edge_weight = adjacency.flatten()
    return out
