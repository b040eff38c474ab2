"""Frames of a feature map as PyG graphs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import Batch

from rstg_pyg.graphs.grid import Scale, multiscale_grid
from rstg_pyg.graphs.pooling import AreaPool


def frames_to_data(
    feature_map: Tensor, scales: Sequence[Scale] = (3, 2, 1), *, map_size: int | None = None
) -> Batch:
    """Turns every frame of a feature map into one PyG graph of a batch.

    The batch holds ``B * T`` graphs, ordered by clip, then by frame. Each is the grid of
    :func:`~rstg_pyg.graphs.multiscale_grid` with node features ``x [N, C]`` pooled by
    :class:`~rstg_pyg.graphs.AreaPool`. It equals ``Batch.from_data_list`` of the single graphs, but
    all frames are pooled at once.

    Args:
        feature_map: The feature map.
        scales: The grid's scales.
        map_size: The side length of the positional heat maps, see ``multiscale_grid``.

    Shapes:
        - **input:** feature map :math:`(B, C, T, H, W)`
        - **output:** ``x`` :math:`(B T N, C)`, ``edge_index`` :math:`(2, B T E)`, ``batch``
          :math:`(B T N)`, ``ptr`` :math:`(B T + 1)`, and ``pos``, ``region``, ``scale``,
          ``node_type``, ``pos_map`` with :math:`B T N` rows

    Raises:
        ValueError: If the map does not have five dimensions or a scale is finer than the map.

    Example:
        >>> frames_to_data(torch.randn(2, 8, 4, 6, 6))[0].x.shape
        torch.Size([14, 8])
    """
    nodes = AreaPool(scales)(feature_map)  # [B, T, N, C]
    grid = multiscale_grid(scales, map_size=map_size)
    grid.x = torch.empty(grid.num_nodes, 0)  # reserves the rows; the features are set below
    out = Batch.from_data_list([grid] * (nodes.size(0) * nodes.size(1))).to(feature_map.device)
    out.x = nodes.flatten(0, 2)
    return out
