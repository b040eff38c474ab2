import pytest
import torch
from helpers.grids import pair, scale_lists
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader

from rstg_pyg import RSTGConv
from rstg_pyg.graphs import AreaPool, frames_to_data, multiscale_grid


def single_graphs(feature_map, scales, map_size=None):
    graphs = []
    for clip in feature_map:
        for t in range(clip.size(1)):
            graph = multiscale_grid(scales, map_size=map_size)
            graph.x = AreaPool(scales)(clip[None, :, t : t + 1])[0, 0]
            graphs.append(graph)
    return graphs


def assert_same(a, b):
    assert set(a.keys()) == set(b.keys())
    for key in a.keys():  # noqa: SIM118
        if torch.is_tensor(a[key]):
            assert a[key].dtype == b[key].dtype, key
            torch.testing.assert_close(a[key], b[key], msg=lambda text, k=key: f"{k}: {text}")
        else:
            assert a[key] == b[key], key


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)),
    scale_lists,
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
    st.sampled_from([None, 5, 7]),
)
def test_frames_equal_the_batch_of_single_graphs(shape, scales, more, map_size):
    sides = [max(pair(scale)[axis] for scale in scales) + more[axis] for axis in (0, 1)]
    feature_map = torch.randn(*shape, *sides)
    batch = frames_to_data(feature_map, scales, map_size=map_size)
    graphs = single_graphs(feature_map, scales, map_size)
    expected = Batch.from_data_list(graphs)
    assert isinstance(batch, Batch) and batch.validate() and batch.is_sorted(sort_by_row=False)
    assert_same(batch, expected)
    assert batch.num_graphs == len(batch) == expected.num_graphs == shape[0] * shape[2]
    for name in ("num_nodes", "num_edges", "batch_size"):
        assert getattr(batch, name) == getattr(expected, name)
    for i, (graph, out) in enumerate(zip(graphs, batch.to_data_list(), strict=True)):
        assert_same(batch[i], graph)
        assert_same(out, graph)
        assert batch[i].num_nodes == graph.num_nodes
    assert_same(Batch.from_data_list(batch.to_data_list()), batch)


def test_frames_can_be_selected_moved_and_batched_again():
    feature_map = torch.randn(2, 3, 2, 6, 6)
    batch, expected = frames_to_data(feature_map), single_graphs(feature_map, (3, 2, 1))
    for out, i in zip(batch[torch.tensor([3, 1])], [3, 1]):
        assert_same(out, expected[i])
    for out, graph in zip(batch[1:3], expected[1:3]):
        assert_same(out, graph)
    for loaded in DataLoader(batch.to_data_list(), batch_size=4):
        assert_same(loaded, batch)
    assert_same(batch.clone().to("cpu")[2], batch[2])


@pytest.mark.parametrize("attention", ["dot", None])
def test_frames_through_conv_equal_static_form(attention):
    torch.manual_seed(0)
    feature_map = torch.randn(2, 3, 4, 7, 5)
    batch, grid = frames_to_data(feature_map), multiscale_grid()
    conv = RSTGConv(3, 8, attention=attention, pos_channels=2, num_node_types=3, residual=True)
    out = conv(batch.x, batch.edge_index, pos=batch.pos, node_type=batch.node_type)
    nodes = AreaPool()(feature_map)
    static = conv(nodes, grid.edge_index, pos=grid.pos, node_type=grid.node_type)
    torch.testing.assert_close(out.view(2, 4, 14, 8), static, atol=1e-5, rtol=1e-5)


def test_frames_pass_gradients_to_the_map_and_leave_it_alone():
    feature_map = torch.randn(1, 2, 2, 4, 5, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: frames_to_data(x, (3, 1)).x, feature_map)
    before = feature_map.detach().clone()
    frames_to_data(feature_map.detach(), (2, 1)).x.add_(1.0)
    assert torch.equal(feature_map, before)


def test_frames_errors():
    with pytest.raises(ValueError, match="five dimensions"):
        frames_to_data(torch.randn(2, 3, 6, 6))
    with pytest.raises(ValueError, match="got a scale of 3 x 3"):
        frames_to_data(torch.randn(1, 1, 1, 2, 2))
    with pytest.raises(ValueError, match="non-empty"):
        frames_to_data(torch.randn(1, 1, 1, 2, 2), ())
    with pytest.raises(ValueError, match="'map_size' to be at least 3"):
        frames_to_data(torch.randn(1, 1, 1, 6, 6), map_size=2)
