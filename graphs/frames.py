"""Frames of a feature map as PyG graphs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from rstg_pyg.graphs.grid import Scale, multiscale_grid
from rstg_pyg.graphs.pooling import AreaPool


def frames_to_data(
    feature_map: Tensor, scales: Sequence[Scale] = (3, 2, 1), *, map_size: int | None = None
) -> Batch:
    """Turns every frame of a feature map into one PyG graph of a batch.

    The batch holds ``B * T`` graphs, clip by clip and frame by frame, each the grid of
    :func:`~rstg_pyg.graphs.multiscale_grid` with node features ``x [N, C]`` pooled by
    :class:`~rstg_pyg.graphs.AreaPool`. It equals ``Batch.from_data_list`` of the single graphs but
    is built without a loop over the graphs.

    Args:
        feature_map: The feature map.
        scales: The grid's scales.
        map_size: The side of the positional heat maps, see ``multiscale_grid``.

    Shapes:
        - **input:** feature map :math:`(B, C, T, H, W)`
        - **output:** ``x`` :math:`(B T N, C)`, ``edge_index`` :math:`(2, B T E)`, ``batch``
          :math:`(B T N)`, ``ptr`` :math:`(B T + 1)`, and ``pos``, ``region``, ``scale``,
          ``node_type``, ``pos_map`` with :math:`B T N` rows

    Raises:
        ValueError: If the map has not five dimensions or a scale is finer than the map.

    Example:
        >>> frames_to_data(torch.randn(2, 8, 4, 6, 6))[0].x.shape
        torch.Size([14, 8])
    """
    nodes = AreaPool(scales)(feature_map)  # [B, T, N, C]
    grid = multiscale_grid(scales, map_size=map_size).to(feature_map.device)
    grid.x = nodes.new_empty(grid.num_nodes, 0)  # only counts rows; the features follow
    out = _copies(grid, nodes.size(0) * nodes.size(1))
    out.x = nodes.flatten(0, 2)
    return out


def _copies(data: Data, count: int) -> Batch:
    """Equals ``Batch.from_data_list([data] * count)``, without a loop over the graphs.

    ``Batch`` has no public way to set where each graph begins, so this sets the private attributes that
    ``from_data_list`` sets; ``tests/graphs/test_frames.py`` compares the two.
    """
    out = Batch(_base_cls=type(data))
    copy, start, device = torch.arange(count), torch.arange(count + 1), data.edge_index.device
    out._num_graphs, out._slice_dict, out._inc_dict = count, {}, {}
    for key, value in data:
        if key == "num_nodes":
            continue
        dim, increment = data.__cat_dim__(key, value), data.__inc__(key, value)
        length = value.size(dim)
        repeated = torch.cat([value] * count, dim)
        if increment:
            repeated = repeated + (copy * increment).repeat_interleave(length).to(device)
        out[key] = repeated
        out._slice_dict[key] = start * length
        out._inc_dict[key] = copy * increment
    size = data.num_nodes
    out.num_nodes = count * size
    out.stores[0]._num_nodes = [size] * count
    out.batch = copy.repeat_interleave(size).to(device)
    out.ptr = (start * size).to(device)
    return out
