"""One graph as an edge list in any order and integer type, as an `EdgeIndex`, as a sparse matrix."""

import pytest
import torch
from helpers.conv_cases import (
    EDGES,
    NUM_EDGES,
    NUM_NODES,
    OPTIONS,
    make_conv,
    make_inputs,
    sparse_adjacencies,
)
from torch_geometric import EdgeIndex
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.testing import assert_module, withPackage
from torch_geometric.typing import SparseTensor
from torch_geometric.utils import coalesce

pytestmark = pytest.mark.usefixtures("path")


@pytest.mark.parametrize("sort_order", [None, "row", "col"])
@pytest.mark.parametrize("lead", [(), (2,)])
@pytest.mark.parametrize("attention", ["dot", None])
def test_rstg_conv_edge_index_class(attention, lead, sort_order):
    conv = make_conv(attention=attention, heads=2)
    x, _ = make_inputs(conv, *lead)
    edge_index = EDGES
    if sort_order is not None:
        edge_index = coalesce(EDGES, sort_by_row=sort_order == "row")
    wrapped = EdgeIndex(edge_index, sparse_size=(NUM_NODES, NUM_NODES), sort_order=sort_order)
    out, (given, alpha) = conv(x, wrapped, return_attention_weights=True)
    expected, (_, expected_alpha) = conv(x, edge_index, return_attention_weights=True)
    assert given is wrapped
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(alpha, expected_alpha)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_rstg_conv_integer_types(dtype):
    conv = make_conv()
    x, _ = make_inputs(conv)
    out, (edge_index, _) = conv(x, EDGES.to(dtype), return_attention_weights=True)
    torch.testing.assert_close(out, conv(x, EDGES))
    assert edge_index.dtype == dtype


@pytest.mark.parametrize("attention", ["dot", "additive", None])
@pytest.mark.parametrize("lead", [(), (2,)])
def test_rstg_conv_permuted_edges(attention, lead):
    conv = make_conv(attention=attention, heads=2, **OPTIONS["all"])
    x, kwargs = make_inputs(conv, *lead, weight=attention is not None)
    out, (_, alpha) = conv(x, EDGES, return_attention_weights=True, **kwargs)

    perm = torch.randperm(NUM_EDGES, generator=torch.Generator().manual_seed(3))
    for key in ("edge_attr", "edge_weight"):
        if key in kwargs:
            kwargs[key] = kwargs[key][perm]
    permuted, (edge_index, permuted_alpha) = conv(
        x, EDGES[:, perm], return_attention_weights=True, **kwargs
    )
    torch.testing.assert_close(permuted, out)
    assert torch.equal(edge_index, EDGES[:, perm])
    torch.testing.assert_close(permuted_alpha, alpha[..., perm, :])


@pytest.mark.parametrize("layout", ["csc.t()", "csr", "coo"])
@pytest.mark.parametrize("attention", ["dot", "additive", None])
@pytest.mark.parametrize("heads", [1, 2])
def test_rstg_conv_sparse_tensor(heads, attention, layout):
    conv = make_conv(attention=attention, heads=heads, pos_channels=2, num_node_types=3)
    x, kwargs = make_inputs(conv)
    adj_t = sparse_adjacencies(EDGES, (NUM_NODES, NUM_NODES))[layout]
    torch.testing.assert_close(conv(x, adj_t, **kwargs), conv(x, EDGES, **kwargs))


@pytest.mark.parametrize("layout", ["csc.t()", "csr", "coo"])
def test_rstg_conv_sparse_tensor_bipartite(layout):
    conv = make_conv((4, 6), 8)
    x = (torch.randn(4, 4, dtype=torch.double), torch.randn(2, 6, dtype=torch.double))
    edge_index = torch.tensor([[0, 1, 2, 3, 0], [0, 0, 1, 1, 1]])
    adj_t = sparse_adjacencies(edge_index, (4, 2))[layout]
    torch.testing.assert_close(conv(x, adj_t), conv(x, edge_index))


def test_rstg_conv_sparse_values_are_edge_weights():
    # As in every PyG layer with an `edge_weight`: the matrix' values stand for it.
    conv = make_conv(attention="additive")
    x, _ = make_inputs(conv)
    edge_index = coalesce(EDGES)
    weight = torch.randn(NUM_EDGES, dtype=torch.double)
    expected = conv(x, edge_index, edge_weight=weight)
    for adj_t in sparse_adjacencies(edge_index, (NUM_NODES, NUM_NODES), weight).values():
        torch.testing.assert_close(conv(x, adj_t), expected)


@pytest.mark.parametrize("attention, heads", [("dot", 2), ("additive", 1), (None, 1)])
def test_rstg_conv_as_pyg_asserts_its_modules(attention, heads):
    conv = make_conv(attention=attention, heads=heads, pos_channels=2)
    x, kwargs = make_inputs(conv)
    assert_module(conv, x, EDGES, expected_size=(NUM_NODES, 8), **kwargs)
    conv = make_conv((4, 6), 8, attention=attention, heads=heads)
    x = (torch.randn(4, 4, dtype=torch.double), torch.randn(2, 6, dtype=torch.double))
    edge_index = torch.tensor([[0, 1, 2, 3, 0], [0, 0, 1, 1, 1]])
    assert_module(conv, x, edge_index, expected_size=(2, 8))


@pytest.mark.parametrize("layout", ["csc.t()", "csr", "coo"])
def test_rstg_conv_sparse_tensor_with_edge_attr(layout):
    # In the order of the matrix' values: by target, then by source.
    conv = make_conv(edge_dim=3)
    x, kwargs = make_inputs(conv)
    edge_index = coalesce(EDGES, sort_by_row=False)
    expected = conv(x, edge_index, **kwargs)
    adj_t = sparse_adjacencies(edge_index, (NUM_NODES, NUM_NODES))[layout]
    torch.testing.assert_close(conv(x, adj_t, **kwargs), expected)


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

    weight = torch.randn(NUM_EDGES, dtype=torch.double)
    adj_t = SparseTensor.from_edge_index(EDGES, weight, (NUM_NODES, NUM_NODES)).t()
    torch.testing.assert_close(conv(x, adj_t), conv(x, EDGES, edge_weight=weight))


def test_rstg_conv_edge_index_class_from_a_loader():
    conv = make_conv()
    x, _ = make_inputs(conv, 4)
    edge_index = coalesce(EDGES, sort_by_row=False)
    wrapped = EdgeIndex(edge_index, sparse_size=(NUM_NODES, NUM_NODES), sort_order="col")
    loader = DataLoader([Data(x=sample, edge_index=wrapped) for sample in x], batch_size=2)
    out = []
    for batch in loader:
        assert isinstance(batch.edge_index, EdgeIndex) and batch.edge_index.is_sorted_by_col
        out.append(conv(batch.x, batch.edge_index))
    torch.testing.assert_close(torch.cat(out).view(4, NUM_NODES, 8), conv(x, edge_index))
