from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Data

from rstg_pyg.graphs import complete_graph, multiscale_grid
from rstg_pyg.graphs.grid import num_nodes, position_maps

scale_lists = st.lists(
    st.one_of(st.integers(1, 5), st.tuples(st.integers(1, 4), st.integers(1, 5))),
    min_size=1,
    max_size=3,
)


def exact_regions(scales):
    """(x0, y0, x1, y1) of every region as fractions, in the documented order."""
    regions = []
    for scale in scales:
        rows, cols = (scale, scale) if isinstance(scale, int) else scale
        for r in range(rows):
            for c in range(cols):
                corners = [(c, cols), (r, rows), (c + 1, cols), (r + 1, rows)]
                regions.append(tuple(Fraction(a, b) for a, b in corners))
    return regions


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
    for scale in scales:
        rows, cols = (scale, scale) if isinstance(scale, int) else scale
        kh, kw = size // rows, size // cols
        gh = np.exp(-((np.arange(kh) - (kh - 1) / 2) ** 2) / (2 * 2.0**2))
        gw = np.exp(-((np.arange(kw) - (kw - 1) / 2) ** 2) / (2 * 2.0**2))
        for r in range(rows):
            for c in range(cols):
                heat = np.zeros((size, size))
                heat[r * kh : (r + 1) * kh, c * kw : (c + 1) * kw] = np.outer(gh, gw)
                maps.append(heat.reshape(-1))
    return np.stack(maps)


def degrees(data):
    return torch.bincount(data.edge_index[1], minlength=data.num_nodes).tolist()


def test_default_grid():
    data = multiscale_grid()
    assert isinstance(data, Data)
    assert data.num_nodes == 14
    assert data.num_edges == 90
    assert data.edge_index.dtype == torch.long
    assert degrees(data) == [4, 6, 4, 6, 9, 6, 4, 6, 4, 7, 7, 7, 7, 13]
    assert str(data) == (
        "Data(edge_index=[2, 90], pos=[14, 2], num_nodes=14, region=[14, 4], scale=[14], "
        "node_type=[14], pos_map=[14, 36])"
    )
    assert data.validate()


@pytest.mark.parametrize(
    "scales, nodes, edges",
    [((1,), 1, 0), ((2, 1), 5, 16), ((3, 2, 1), 14, 90), ((4, 3, 2, 1), 30, 306)],
)
def test_published_edge_counts(scales, nodes, edges):
    data = multiscale_grid(scales)
    assert data.num_nodes == nodes == num_nodes(scales)
    assert data.edge_index.shape == (2, edges)


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


@pytest.mark.parametrize("scales", [(3, 2, 1), (1, 2, 3), (4, 3, 2, 1), ((2, 3), 1), (5,), (1,)])
def test_symmetric_without_loops_and_sorted(scales):
    data = multiscale_grid(scales)
    assert data.is_undirected()
    assert not data.has_self_loops()
    assert data.is_sorted(sort_by_row=False)
    keys = data.edge_index[1] * data.num_nodes + data.edge_index[0]
    assert (keys.diff() > 0).all()  # by target, then by source, and no edge twice


@settings(max_examples=25, deadline=None)
@given(scale_lists)
def test_edges_and_regions_against_fractions(scales):
    data = multiscale_grid(scales)
    assert list(map(tuple, data.edge_index.t().tolist())) == exact_edges(scales)
    regions = np.array(exact_regions(scales), dtype=float)
    np.testing.assert_allclose(data.region.numpy(), regions, atol=1e-7)
    np.testing.assert_allclose(data.pos.numpy(), (regions[:, :2] + regions[:, 2:]) / 2, atol=1e-7)


def test_contact_is_exact_where_floats_are_not():
    # 49 * (1 / 49) is not 1 in floating point; neighbors of a fine grid still touch exactly.
    data = multiscale_grid(((1, 49), (1, 7)))
    assert list(map(tuple, data.edge_index.t().tolist())) == exact_edges(((1, 49), (1, 7)))


def test_a_shared_corner_is_no_edge():
    data = multiscale_grid((2,))
    assert data.edge_index.tolist() == [[1, 2, 0, 3, 0, 3, 1, 2], [0, 0, 1, 1, 2, 2, 3, 3]]


def test_region_and_pos_values():
    data = multiscale_grid((2, 1))
    assert data.region.tolist() == [
        [0.0, 0.0, 0.5, 0.5],
        [0.5, 0.0, 1.0, 0.5],
        [0.0, 0.5, 0.5, 1.0],
        [0.5, 0.5, 1.0, 1.0],
        [0.0, 0.0, 1.0, 1.0],
    ]
    assert data.pos.tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75], [0.5, 0.5]]
    assert data.region.dtype == data.pos.dtype == data.pos_map.dtype == torch.float


def test_regions_of_rows_and_columns():
    data = multiscale_grid(((1, 2),))
    assert data.region.tolist() == [[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]
    assert data.pos.tolist() == [[0.25, 0.5], [0.75, 0.5]]


def test_scale_and_node_type():
    data = multiscale_grid()
    assert data.scale.tolist() == [3] * 9 + [2] * 4 + [1]
    assert data.node_type.tolist() == [0] * 9 + [1] * 4 + [2]

    data = multiscale_grid((1, (2, 4), (3, 1), (2, 4)))
    assert data.scale.tolist() == [1] + [4] * 8 + [3] * 3 + [4] * 8
    assert data.node_type.tolist() == [0] + [1] * 8 + [2] * 3 + [3] * 8
    assert data.scale.dtype == data.node_type.dtype == torch.long


def test_order_of_scales_is_kept():
    fine, coarse = multiscale_grid((3, 2, 1)), multiscale_grid((1, 2, 3))
    order = torch.tensor([13, 9, 10, 11, 12, 0, 1, 2, 3, 4, 5, 6, 7, 8])
    for key in ("pos", "region", "scale", "pos_map"):
        assert torch.equal(coarse[key], fine[key][order])
    edges = {(order[a].item(), order[b].item()) for a, b in coarse.edge_index.t().tolist()}
    assert edges == set(map(tuple, fine.edge_index.t().tolist()))


def test_pairs_equal_integers():
    data, expected = multiscale_grid(((3, 3), (2, 2), [1, 1])), multiscale_grid([3, 2, 1])
    for key in expected.keys():  # noqa: SIM118
        value = expected[key]
        assert torch.equal(data[key], value) if torch.is_tensor(value) else data[key] == value


@pytest.mark.parametrize(
    "scales, map_size, size",
    [
        ((3, 2, 1), None, 6),
        ((4, 3), None, 6),
        ((6,), None, 6),
        ((7, 2), None, 7),
        ((8, 3, 1), None, 8),
        (((2, 9), 1), None, 9),
        ((3, 2, 1), 3, 3),
        ((3, 2, 1), 7, 7),
        (((2, 3), (3, 1)), 10, 10),
        ((8,), 12, 12),
    ],
)
def test_pos_map_against_numpy(scales, map_size, size):
    data = multiscale_grid(scales, map_size=map_size)
    assert data.pos_map.shape == (data.num_nodes, size * size)
    np.testing.assert_allclose(data.pos_map.numpy(), exact_pos_maps(scales, size), atol=1e-7)


def test_pos_map_values():
    maps = multiscale_grid().pos_map.view(14, 6, 6)
    # Scale 3: blocks of 2 x 2 cells, all at distance sqrt(1/2) from the center of their block.
    assert maps[4].nonzero().tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]
    torch.testing.assert_close(maps[4, 2:4, 2:4], torch.full((2, 2), np.exp(-0.5 / 8)).float())
    # Scale 2: the middle of 3 x 3 cells has the peak, which is not normalized.
    assert maps[9, 1, 1] == 1
    assert maps[9, 3:].abs().sum() == maps[9, :, 3:].abs().sum() == 0
    assert (maps[13] > 0).all()


@pytest.mark.parametrize(
    "scales",
    [(), [], 3, True, (0,), (3, 0), (-1,), (True,), ((2, True),), ((1, 2, 3),), ((2,),), ((0, 2),)],
)
def test_invalid_scales(scales):
    with pytest.raises(ValueError, match=r"Expected .*scale"):
        multiscale_grid(scales)
    with pytest.raises(ValueError, match=r"Expected .*scale"):
        num_nodes(scales)


@pytest.mark.parametrize("scales", [(1.5,), (2.0, 1), (None,), ((2.0, 1),), ("3",)])
def test_scales_of_other_types(scales):
    with pytest.raises(ValueError, match="positive integer"):
        multiscale_grid(scales)


@pytest.mark.parametrize("scales, map_size", [((3, 2, 1), 2), (((2, 5),), 4), ((1,), 0)])
def test_map_size_too_small(scales, map_size):
    with pytest.raises(ValueError, match=rf"'map_size' to be at least .* \(got {map_size}\)"):
        multiscale_grid(scales, map_size=map_size)


@pytest.mark.parametrize("scales", [(3, 2, 1), (1,), ((2, 3), 1), (4, 3, 2, 1)], ids=str)
def test_complete_graph(scales):
    grid = multiscale_grid(scales)
    data, n = complete_graph(grid), grid.num_nodes
    pairs = [(j, i) for i in range(n) for j in range(n)]  # (source, target), by target
    assert list(map(tuple, data.edge_index.t().tolist())) == pairs
    assert data.edge_weight.shape == (n * n,) and data.edge_weight.dtype == torch.float
    joined = [pair for pair, weight in zip(pairs, data.edge_weight.tolist()) if weight == 1]
    assert joined == exact_edges(scales)
    assert set(data.edge_weight.tolist()) <= {0.0, 1.0}
    adjacency = data.edge_weight.view(n, n)
    assert torch.equal(adjacency, adjacency.t()) and adjacency.diagonal().abs().max() == 0
    assert data.validate() and data.num_nodes == n


def test_complete_graph_leaves_the_grid_as_it_was():
    grid = multiscale_grid()
    data = complete_graph(grid)
    assert grid.num_edges == 90 and "edge_weight" not in grid
    assert data.num_edges == 196 and int(data.edge_weight.sum()) == 90
    for key in ("pos", "region", "scale", "node_type", "pos_map"):
        assert torch.equal(data[key], grid[key])


def test_complete_graph_of_directed_edges():
    """The row is the target, as in the published adjacency of receivers and senders."""
    data = complete_graph(Data(edge_index=torch.tensor([[0, 1], [2, 2]]), num_nodes=3))
    assert data.edge_weight.view(3, 3).tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 0]]
    again = complete_graph(Data(edge_index=torch.empty(2, 0, dtype=torch.long), num_nodes=2))
    assert again.edge_weight.tolist() == [0.0] * 4
