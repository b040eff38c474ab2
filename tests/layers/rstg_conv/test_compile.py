"""`torch.compile` without a graph break, `torch.export` for any number of nodes and edges."""

import pytest
import torch
from helpers.conv_cases import EDGES, NUM_EDGES, NUM_NODES, OPTIONS, make_conv, make_inputs
from torch._dynamo.testing import CompileCounter
from torch_geometric import EdgeIndex
from torch_geometric.testing import onlyFullTest, onlyLinux
from torch_geometric.utils import coalesce

from rstg_pyg import RSTGConv

pytestmark = pytest.mark.usefixtures("fresh_compiler")


@pytest.mark.slow
@pytest.mark.parametrize("lead", [(), (2,)])
@pytest.mark.parametrize("attention, options", [("dot", "all"), ("additive", "plain"), (None, "plain")])
def test_rstg_conv_compiles_without_graph_break(attention, options, lead):
    """The same numbers and gradients."""
    conv = make_conv(attention=attention, heads=2, **OPTIONS[options])
    x, kwargs = make_inputs(conv, *lead, weight=attention is not None)
    compiled, found, expected = torch.compile(conv, fullgraph=True, backend="aot_eager"), [], []
    for call, grads in ((compiled, found), (conv, expected)):
        out, used = call(x.requires_grad_(), EDGES, **kwargs), [x, *conv.parameters()]
        grads += [out, *torch.autograd.grad(out.square().sum(), used, allow_unused=True)]
    torch.testing.assert_close(found, expected)


@onlyLinux
@onlyFullTest
@pytest.mark.parametrize("options", ["plain", "all"])
def test_rstg_conv_compiles_by_inductor(options):
    conv = make_conv(heads=2, dtype=torch.float, **OPTIONS[options])
    x, kwargs = make_inputs(conv, 2, dtype=torch.float)
    compiled = torch.compile(conv, fullgraph=True)
    torch.testing.assert_close(compiled(x, EDGES, **kwargs), conv(x, EDGES, **kwargs))


def random_graph(nodes, edges):
    generator = torch.Generator().manual_seed(nodes)
    return torch.randint(nodes, (2, edges), generator=generator)


@pytest.mark.slow
@pytest.mark.parametrize("lead", [(), (2,)])
def test_rstg_conv_compiles_once_for_all_sizes(lead):
    conv, counter = make_conv(heads=2, num_node_types=2), CompileCounter()
    compiled = torch.compile(conv, fullgraph=True, backend=counter, dynamic=True)
    for nodes, edges in [(6, 10), (9, 17), (30, 200)]:
        x, kwargs = make_inputs(conv, *lead, nodes=nodes)
        edge_index = random_graph(nodes, edges)
        torch.testing.assert_close(compiled(x, edge_index, **kwargs), conv(x, edge_index, **kwargs))
    assert counter.frame_count == 1


@pytest.mark.parametrize("sort_order", [None, "col"])
def test_rstg_conv_compiles_with_edge_index_class(sort_order):
    """Also a layer that got its sizes from an input."""
    conv, edge_index = RSTGConv(-1, 8).double(), coalesce(EDGES, sort_by_row=False)
    x = torch.randn(NUM_NODES, 4, dtype=torch.double)
    expected = conv(x, edge_index)
    wrapped = EdgeIndex(edge_index, sparse_size=(NUM_NODES, NUM_NODES), sort_order=sort_order)
    compiled = torch.compile(conv, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, wrapped), expected)


@pytest.mark.slow
@pytest.mark.parametrize("lead", [(), (2,)])
@pytest.mark.parametrize("attention, options", [("dot", "all"), ("additive", "types"), (None, "pos")])
def test_rstg_conv_exports_with_dynamic_sizes(attention, options, lead):
    conv = make_conv(attention=attention, heads=2, **OPTIONS[options])
    weight = attention is not None
    x, kwargs = make_inputs(conv, *lead, weight=weight)
    nodes, edges = torch.export.Dim("nodes", min=2), torch.export.Dim("edges", min=2)
    shapes = {name: {0: edges if name.startswith("edge") else nodes} for name in kwargs}
    shapes.update(x={len(lead): nodes}, edge_index={1: edges})
    program = torch.export.export(conv, (x, EDGES), kwargs, dynamic_shapes=shapes).module()
    for n, e in [(NUM_NODES, NUM_EDGES), (9, 17), (30, 200)]:
        x, kwargs = make_inputs(conv, *lead, weight=weight, nodes=n, edges=e)
        edge_index = random_graph(n, e)
        torch.testing.assert_close(program(x, edge_index, **kwargs), conv(x, edge_index, **kwargs))


def test_rstg_conv_torchscript_error():
    with pytest.raises(NotImplementedError, match="'RSTGConv' does not support TorchScript; use"):
        torch.jit.script(torch.nn.ModuleList([RSTGConv(4, 8)]))
