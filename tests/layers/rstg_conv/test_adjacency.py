"""One graph as an edge list in any order and integer type, as an `EdgeIndex`, as a sparse matrix."""

import pytest
import torch
from helpers.conv_cases import EDGES, NUM_EDGES, NUM_NODES, make_conv, make_inputs, sparse_adjacencies
from helpers.random_weights import draw
from torch_geometric import EdgeIndex
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.testing import assert_module, withPackage
from torch_geometric.typing import SparseTensor
from torch_geometric.utils import coalesce

PAIR, PAIR_EDGES = (draw(4, 4), draw(2, 6)), torch.tensor([[0, 1, 2, 3, 0], [0, 0, 1, 1, 1]])
BY_TARGET = coalesce(EDGES, sort_by_row=False)


@pytest.mark.parametrize("attention, heads", [("dot", 2), ("additive", 1), (None, 1)])
def test_rstg_conv_as_pyg_asserts_its_modules(attention, heads):
    conv = make_conv(attention=attention, heads=heads, pos_channels=2)
    x, kwargs = make_inputs(conv)
    assert_module(conv, x, EDGES, expected_size=(NUM_NODES, 8), **kwargs)
    conv = make_conv((4, 6), 8, attention=attention, heads=heads)
    assert_module(conv, PAIR, PAIR_EDGES, expected_size=(2, 8))


@withPackage("torch_sparse")
@pytest.mark.parametrize("heads", [1, 2])
def test_rstg_conv_torch_sparse(heads):
    conv = make_conv(heads=heads)
    x, _ = make_inputs(conv)
    adj_t = SparseTensor.from_edge_index(EDGES, sparse_sizes=(NUM_NODES, NUM_NODES)).t()
    expected, (_, alpha) = conv(x, EDGES, return_attention_weights=True)
    out, (weighted, found) = conv(x, adj_t, return_attention_weights=True)
    torch.testing.assert_close(out, expected)
    target, source, value = weighted.coo()
    torch.testing.assert_close(value, found)
    order = (EDGES[1] * NUM_NODES + EDGES[0]).argsort()
    assert torch.equal(torch.stack([source, target]), EDGES[:, order])
    torch.testing.assert_close(value, alpha[order])

    weight = torch.rand(NUM_EDGES, dtype=torch.double)
    adj_t = SparseTensor.from_edge_index(EDGES, weight, (NUM_NODES, NUM_NODES)).t()
    torch.testing.assert_close(conv(x, adj_t), conv(x, EDGES, edge_weight=weight))


def test_rstg_conv_edge_index_class_from_a_loader():
    conv = make_conv()
    x, _ = make_inputs(conv, 4)
    wrapped = EdgeIndex(BY_TARGET, sparse_size=(NUM_NODES, NUM_NODES), sort_order="col")
    out = []
    for batch in DataLoader([Data(x=sample, edge_index=wrapped) for sample in x], batch_size=2):
        assert isinstance(batch.edge_index, EdgeIndex) and batch.edge_index.is_sorted_by_col
        out.append(conv(batch.x, batch.edge_index))
    torch.testing.assert_close(torch.cat(out).view(4, NUM_NODES, 8), conv(x, BY_TARGET))


def sorted_by(order):
    edges = EDGES if order is None else coalesce(EDGES, sort_by_row=order == "row")
    return edges, EdgeIndex(edges, sparse_size=(NUM_NODES, NUM_NODES), sort_order=order)


@pytest.mark.parametrize("lead", [(), (2,)])
def test_rstg_conv_edge_index_class_and_integer_types(lead):
    conv = make_conv(heads=2, edge_dim=3)
    x, kwargs = make_inputs(conv, *lead, weight=True)
    types = [torch.uint8, torch.int8, torch.int16, torch.int32]
    for edges, same in [*map(sorted_by, (None, "row", "col")), *((EDGES, EDGES.to(t)) for t in types)]:
        expected, (_, coefficients) = conv(x, edges, return_attention_weights=True, **kwargs)
        out, (given, alpha) = conv(x, same, return_attention_weights=True, **kwargs)
        assert given is same
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(alpha, coefficients)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("layout", ["csc.t()", "csr", "coo"])
@pytest.mark.parametrize("attention, heads", [("dot", 1), ("additive", 2), (None, 2)])
def test_rstg_conv_sparse_tensor(attention, heads, layout):
    """Features are in the order of the matrix' values: by target, then by source. Its values stand for
    ``edge_weight``, as in every PyG layer that has one. Coefficients come as such a matrix.
    """
    conv = make_conv(attention=attention, heads=heads, pos_channels=2, num_node_types=3, edge_dim=3)
    x, kwargs = make_inputs(conv)
    weight = None if attention is None else torch.rand(NUM_EDGES, dtype=torch.double)
    adj_t = sparse_adjacencies(BY_TARGET, (NUM_NODES, NUM_NODES), weight)[layout]
    inputs = dict(return_attention_weights=True, **kwargs)
    expected, (_, alpha) = conv(x, BY_TARGET, edge_weight=weight, **inputs)
    out, (weighted, _) = conv(x, adj_t, **inputs)
    torch.testing.assert_close(out, expected)
    dense = weighted.to_sparse_coo().to_dense().view(NUM_NODES, NUM_NODES, heads)
    torch.testing.assert_close(dense[BY_TARGET[1], BY_TARGET[0]], alpha)

    conv = make_conv((4, 6), 8, attention=attention)
    adj_t = sparse_adjacencies(PAIR_EDGES, (4, 2))[layout]
    torch.testing.assert_close(conv(PAIR, adj_t), conv(PAIR, PAIR_EDGES))
