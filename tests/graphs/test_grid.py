import numpy as np
import pytest
import torch
from helpers.grids import exact_regions, pair, scale_lists
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch_geometric.data import Data

from rstg_pyg.graphs import complete_graph, multiscale_grid
from rstg_pyg.graphs.grid import num_nodes, position_maps


def joined(a, b):
    """The published rule (closed rectangles, a corner is not enough), in fractions."""
    x = min(a[2], b[2]) - max(a[0], b[0])
    y = min(a[3], b[3]) - max(a[1], b[1])
    return x >= 0 and y >= 0 and (x, y) != (0, 0)


def exact_edges(scales):
    """(source, target) pairs, by target and then by source."""
    regions = exact_regions(scales)
    return [
        (j, i)
        for i, target in enumerate(regions)
        for j, source in enumerate(regions)
        if i != j and joined(source, target)
    ]


def exact_pos_maps(scales, size):
    maps = []
    for rows, cols in map(pair, scales):
        kh, kw = size // rows, size // cols
        gh = np.exp(-((np.arange(kh) - (kh - 1) / 2) ** 2) / (2 * 2.0**2))
        gw = np.exp(-((np.arange(kw) - (kw - 1) / 2) ** 2) / (2 * 2.0**2))
        for r in range(rows):
            for c in range(cols):
                heat = np.zeros((size, size))
                heat[r * kh : (r + 1) * kh, c * kw : (c + 1) * kw] = np.outer(gh, gw)
                maps.append(heat.reshape(-1))
    return np.stack(maps)


@settings(max_examples=40, deadline=None)
@given(scale_lists)
@example([(1, 49), (1, 7)])  # 49 * (1 / 49) is not 1 in floating point
def test_the_grid_against_fractions(scales):
    data = multiscale_grid(scales)
    regions, pairs = np.array(exact_regions(scales), dtype=float), [pair(scale) for scale in scales]
    assert list(map(tuple, data.edge_index.t().tolist())) == exact_edges(scales)
    np.testing.assert_allclose(data.region.numpy(), regions, atol=1e-7)
    np.testing.assert_allclose(data.pos.numpy(), (regions[:, :2] + regions[:, 2:]) / 2, atol=1e-7)
    assert data.scale.tolist() == [max(p) for p in pairs for _ in range(p[0] * p[1])]
    assert data.node_type.tolist() == [i for i, p in enumerate(pairs) for _ in range(p[0] * p[1])]
    assert data.num_nodes == num_nodes(scales) == len(regions)
    assert data.region.dtype == data.pos.dtype == data.pos_map.dtype == torch.float
    assert data.scale.dtype == data.node_type.dtype == data.edge_index.dtype == torch.long
    assert data.validate() and data.is_undirected() and data.is_sorted(sort_by_row=False)


def test_default_grid():
    data = multiscale_grid()
    degrees = torch.bincount(data.edge_index[1]).tolist()
    assert degrees == [4, 6, 4, 6, 9, 6, 4, 6, 4, 7, 7, 7, 7, 13]
    assert str(data) == (
        "Data(edge_index=[2, 90], pos=[14, 2], num_nodes=14, region=[14, 4], scale=[14], "
        "node_type=[14], pos_map=[14, 36])"
    )
    assert multiscale_grid((4, 3, 2, 1)).edge_index.shape == (2, 306)  # as published
    assert multiscale_grid((2,)).edge_index.tolist() == [
        [1, 2, 0, 3, 0, 3, 1, 2],
        [0, 0, 1, 1, 2, 2, 3, 3],
    ]


def test_default_device():
    # Numbers are needed to find the edges, so they are found on the CPU, whatever the default device.
    with torch.device("meta"):
        grid = complete_graph(multiscale_grid((2, 1)))
        maps = position_maps((2, 1))
    assert maps.is_meta and all(value.is_meta for _, value in grid if torch.is_tensor(value))
    expected = complete_graph(multiscale_grid((2, 1)))
    assert {key: value.shape for key, value in grid if torch.is_tensor(value)} == {
        key: value.shape for key, value in expected if torch.is_tensor(value)
    }
    assert all(value.device.type == "cpu" for _, value in expected if torch.is_tensor(value))


@settings(max_examples=25, deadline=None)
@given(scale_lists, st.none() | st.integers(5, 12))
@example([(2, 9), 1], None)
@example([8, 3, 1], None)
@example([3, 2, 1], 3)
def test_pos_map_against_numpy(scales, map_size):
    size = map_size or max(6, *(max(pair(scale)) for scale in scales))
    maps = multiscale_grid(scales, map_size=map_size).pos_map
    assert maps.shape == (num_nodes(scales), size * size)
    np.testing.assert_allclose(maps.numpy(), exact_pos_maps(scales, size), atol=1e-7)


@pytest.mark.parametrize(
    "scales",
    [(), [], 3, True, (0,), (3, 0), (-1,), (True,), ((2, True),), ((1, 2, 3),), ((2,),), ((0, 2),),
     (1.5,), (2.0, 1), (None,), ((2.0, 1),), ("3",)],
)  # fmt: skip
def test_invalid_scales(scales):
    for function in (multiscale_grid, num_nodes):
        with pytest.raises(ValueError, match=r"Expected .*scale.*positive integer|non-empty"):
            function(scales)


@pytest.mark.parametrize("scales, map_size", [((3, 2, 1), 2), (((2, 5),), 4), ((1,), 0)])
def test_map_size_too_small(scales, map_size):
    with pytest.raises(ValueError, match=rf"'map_size' to be at least .* \(got {map_size}\)"):
        multiscale_grid(scales, map_size=map_size)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(scale_lists)
def test_complete_graph(scales):
    grid = multiscale_grid(scales)
    data, n, edges = complete_graph(grid), grid.num_nodes, grid.num_edges
    pairs = [(j, i) for i in range(n) for j in range(n)]  # (source, target), by target
    assert list(map(tuple, data.edge_index.t().tolist())) == pairs
    joined = set(exact_edges(scales))
    assert data.edge_weight.tolist() == [float(pair in joined) for pair in pairs]
    assert data.edge_weight.dtype == torch.float and data.validate() and data.num_nodes == n
    assert grid.num_edges == edges and "edge_weight" not in grid  # as it was
    assert all(torch.equal(data[key], grid[key]) for key in ("pos", "region", "pos_map", "node_type"))


def test_complete_graph_of_directed_edges():
    """The row is the target, as in the published adjacency of receivers and senders."""
    data = complete_graph(Data(edge_index=torch.tensor([[0, 1], [2, 2]]), num_nodes=3))
    assert data.edge_weight.view(3, 3).tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 0]]
    again = complete_graph(Data(edge_index=torch.empty(2, 0, dtype=torch.long), num_nodes=2))
    assert again.edge_weight.tolist() == [0.0] * 4
