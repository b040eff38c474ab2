import pytest
import torch
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader

from rstg_pyg import RSTGConv
from rstg_pyg.graphs import AreaPool, frames_to_data, multiscale_grid

CASES = [
    ((2, 3, 4, 6, 6), (3, 2, 1), None),
    ((1, 2, 1, 5, 7), (2, 1), 4),
    ((3, 1, 2, 4, 3), ((2, 3), 1), None),
    ((2, 2, 2, 3, 3), (1,), None),
]


def single_graphs(feature_map, scales, map_size):
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


@pytest.mark.parametrize("shape, scales, map_size", CASES)
def test_frames_equal_batch_of_single_graphs(shape, scales, map_size):
    feature_map = torch.randn(shape)
    batch = frames_to_data(feature_map, scales, map_size=map_size)
    expected = Batch.from_data_list(single_graphs(feature_map, scales, map_size))
    assert isinstance(batch, Batch)
    assert_same(batch, expected)
    assert batch.num_graphs == len(batch) == expected.num_graphs == shape[0] * shape[2]
    assert batch.num_nodes == expected.num_nodes
    assert batch.num_edges == expected.num_edges
    assert batch.batch_size == expected.batch_size
    assert batch.is_sorted(sort_by_row=False)
    assert batch.validate()


@pytest.mark.parametrize("shape, scales, map_size", CASES)
def test_frames_give_back_every_single_graph(shape, scales, map_size):
    feature_map = torch.randn(shape)
    batch = frames_to_data(feature_map, scales, map_size=map_size)
    expected = single_graphs(feature_map, scales, map_size)
    graphs = batch.to_data_list()
    assert len(graphs) == len(expected)
    for i, graph in enumerate(expected):
        assert_same(batch[i], graph)
        assert_same(graphs[i], graph)
        assert batch[i].num_nodes == graph.num_nodes
    assert_same(Batch.from_data_list(graphs), batch)


def test_frames_select_some_graphs():
    feature_map = torch.randn(2, 3, 2, 6, 6)
    batch = frames_to_data(feature_map)
    expected = single_graphs(feature_map, (3, 2, 1), None)
    for out, i in zip(batch[torch.tensor([3, 1])], [3, 1]):
        assert_same(out, expected[i])
    for out, graph in zip(batch[1:3], expected[1:3]):
        assert_same(out, graph)


def test_frames_run_clip_by_clip():
    feature_map = torch.arange(6.0).view(2, 1, 3, 1, 1).expand(2, 1, 3, 4, 4)
    batch = frames_to_data(feature_map, (2, 1))
    assert batch.x.view(6, 5).tolist() == [[float(i)] * 5 for i in range(6)]
    assert batch.batch.tolist() == [i for i in range(6) for _ in range(5)]
    assert batch.ptr.tolist() == [0, 5, 10, 15, 20, 25, 30]


def test_frames_can_be_batched_again():
    batch = frames_to_data(torch.randn(2, 3, 2, 6, 6))
    for loaded in DataLoader(batch.to_data_list(), batch_size=4):
        assert_same(loaded, batch)
    moved = batch.clone().to("cpu")
    assert_same(moved[2], batch[2])


@pytest.mark.parametrize("attention", ["dot", None])
def test_frames_through_conv_equal_static_form(attention):
    torch.manual_seed(0)
    feature_map = torch.randn(2, 3, 4, 7, 5)
    batch, grid = frames_to_data(feature_map), multiscale_grid()
    conv = RSTGConv(3, 8, attention=attention, pos_channels=2, num_node_types=3, residual=True)
    out = conv(batch.x, batch.edge_index, pos=batch.pos, node_type=batch.node_type)
    assert out.shape == (2 * 4 * 14, 8)
    nodes = AreaPool()(feature_map)
    static = conv(nodes, grid.edge_index, pos=grid.pos, node_type=grid.node_type)
    torch.testing.assert_close(out.view(2, 4, 14, 8), static, atol=1e-5, rtol=1e-5)


def test_frames_pass_gradients_to_the_map():
    feature_map = torch.randn(1, 2, 2, 4, 5, dtype=torch.double, requires_grad=True)
    batch = frames_to_data(feature_map, (3, 1))
    assert batch.x.dtype == torch.double
    batch.x.square().sum().backward()
    other = feature_map.detach().clone().requires_grad_()
    AreaPool((3, 1))(other).square().sum().backward()
    assert feature_map.grad.abs().min() > 0
    torch.testing.assert_close(feature_map.grad, other.grad)
    assert torch.autograd.gradcheck(lambda x: frames_to_data(x, (2,)).x, feature_map)


def test_frames_leave_the_map_alone():
    feature_map = torch.randn(1, 2, 2, 4, 4)
    before = feature_map.clone()
    frames_to_data(feature_map, (2, 1)).x.add_(1.0)
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
