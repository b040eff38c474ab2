"""The layer against its formula; pairs, isolated nodes, empty graphs, flow, aggregation."""

import pytest
import torch
from helpers.conv_cases import (
    EDGES,
    NUM_EDGES,
    NUM_NODES,
    OPTIONS,
    make_conv,
    make_inputs,
    mlp,
    reference,
)

from rstg_pyg import RSTGConv
from rstg_pyg.graphs import multiscale_grid

pytestmark = pytest.mark.usefixtures("path")


def test_rstg_conv_repr():
    assert str(RSTGConv(4, 8)) == "RSTGConv(4, 8, heads=1)"
    assert str(RSTGConv((4, 6), 8, heads=2)) == "RSTGConv((4, 6), 8, heads=2)"
    assert str(RSTGConv(-1, 8)) == "RSTGConv(-1, 8, heads=1)"


def test_rstg_conv_uses_the_generated_templates():
    conv = RSTGConv(4, 8)
    assert conv.propagate.__module__.endswith("RSTGConv_propagate")
    assert conv.edge_updater.__module__.endswith("RSTGConv_edge_updater")
    assert not conv.fuse


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("attention", ["dot", "additive", None])
def test_rstg_conv_against_slow_reference(attention, heads, options):
    conv = make_conv(attention=attention, heads=heads, **OPTIONS[options])
    x, kwargs = make_inputs(conv)
    out, (edge_index, alpha) = conv(x, EDGES, return_attention_weights=True, **kwargs)
    pos = kwargs.pop("pos", None)
    expected, expected_alpha = reference(conv, x, x, EDGES, pos=(pos, pos), **kwargs)
    assert out.shape == (NUM_NODES, 8)
    assert edge_index is EDGES
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(alpha, expected_alpha)


@pytest.mark.parametrize("options", ["plain", "all"])
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("attention", ["dot", "additive"])
def test_rstg_conv_edge_weight_against_slow_reference(attention, heads, options):
    conv = make_conv(attention=attention, heads=heads, **OPTIONS[options])
    x, kwargs = make_inputs(conv, weight=True)
    out, (_, alpha) = conv(x, EDGES, return_attention_weights=True, **kwargs)
    pos = kwargs.pop("pos", None)
    expected, expected_alpha = reference(conv, x, x, EDGES, pos=(pos, pos), **kwargs)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(alpha, expected_alpha)
    kwargs["edge_weight"] = None
    assert not torch.allclose(reference(conv, x, x, EDGES, pos=(pos, pos), **kwargs)[0], expected)


def test_rstg_conv_weights_of_one_change_nothing():
    x = torch.randn(NUM_NODES, 4, dtype=torch.double)
    ones = torch.ones(NUM_EDGES, dtype=torch.double)
    for attention in ("dot", "additive"):
        conv = make_conv(attention=attention)
        torch.testing.assert_close(conv(x, EDGES, edge_weight=ones), conv(x, EDGES))


def test_rstg_conv_published_mask_is_the_adjacency_as_weights():
    # Published: logits of all pairs, multiplied by the 0/1 adjacency, so others keep exp(0) / Z.
    grid = multiscale_grid((2, 1))
    conv = make_conv(4, 8)
    x = torch.randn(5, 4, dtype=torch.double)
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5)).t().flip(0)
    joined = torch.zeros(5, 5, dtype=torch.double)
    joined[grid.edge_index[1], grid.edge_index[0]] = 1
    _, (_, alpha) = conv(x, pairs, edge_weight=joined.view(-1), return_attention_weights=True)
    logits = joined * (conv.attend.lin_query(x) @ conv.attend.lin_key(x).t())
    torch.testing.assert_close(alpha.view(5, 5), logits.softmax(dim=1))
    torch.testing.assert_close(alpha.view(5, 5)[0, 0], alpha.view(5, 5)[0, 3])  # itself, a corner


@pytest.mark.parametrize("attention", ["dot", "additive", None])
@pytest.mark.parametrize("heads", [1, 4])
def test_rstg_conv_bipartite(heads, attention):
    conv = make_conv((4, 6), 8, attention=attention, heads=heads, residual=True, num_node_types=2)
    x = (torch.randn(4, 4, dtype=torch.double), torch.randn(3, 6, dtype=torch.double))
    edge_index = torch.tensor([[0, 3, 2, 1, 0], [0, 0, 2, 2, 2]])
    node_type = torch.tensor([1, 0, 1])
    out = conv(x, edge_index, node_type=node_type)
    assert out.shape == (3, 8)
    torch.testing.assert_close(out, reference(conv, *x, edge_index, node_type=node_type)[0])
    static = tuple(torch.stack([part, 2 * part]) for part in x)
    out = conv(static, edge_index, node_type=node_type)
    assert out.shape == (2, 3, 8)
    torch.testing.assert_close(out[0], conv(x, edge_index, node_type=node_type))


def test_rstg_conv_bipartite_with_positions():
    conv = make_conv((4, 6), 8, pos_channels=2, edge_dim=1)
    x = (torch.randn(4, 4, dtype=torch.double), torch.randn(2, 6, dtype=torch.double))
    pos = (torch.randn(4, 2, dtype=torch.double), torch.randn(2, 2, dtype=torch.double))
    edge_index = torch.tensor([[0, 3, 2, 1], [0, 0, 1, 1]])
    edge_attr = torch.randn(4, dtype=torch.double)
    out = conv(x, edge_index, edge_attr, pos=pos)
    expected = reference(conv, *x, edge_index, edge_attr=edge_attr.view(-1, 1), pos=pos)[0]
    torch.testing.assert_close(out, expected)


def test_rstg_conv_pair_of_the_same_nodes():
    conv, pair = make_conv(4, 8), make_conv((4, 4), 8)
    x, _ = make_inputs(conv)
    torch.testing.assert_close(pair((x, x), EDGES), conv(x, EDGES))
    torch.testing.assert_close(pair((x, x.clone()), EDGES), conv(x, EDGES))


def test_rstg_conv_one_dimensional_edge_attr():
    conv = make_conv(edge_dim=1)
    x, kwargs = make_inputs(conv)
    attr = kwargs["edge_attr"]
    torch.testing.assert_close(conv(x, EDGES, attr.view(-1)), conv(x, EDGES, attr))
    x, _ = make_inputs(conv, 2)
    torch.testing.assert_close(conv(x, EDGES, attr.view(-1)), conv(x, EDGES, attr))


@pytest.mark.parametrize("attention", ["dot", "additive", None])
@pytest.mark.parametrize("lead", [(), (2,)])
def test_rstg_conv_isolated_nodes_update_from_zero(attention, lead):
    conv = make_conv(attention=attention, heads=2)
    x, _ = make_inputs(conv, *lead)
    zeros = x.new_zeros(*lead, NUM_NODES, 8)
    alone = mlp([lin.lins[0] for lin in conv.update_mlp.lins], torch.cat([x, zeros], dim=-1))
    out = conv(x, EDGES)
    torch.testing.assert_close(out[..., 2, :], alone[..., 2, :])
    assert not torch.allclose(out[..., 0, :], alone[..., 0, :])

    out, (_, alpha) = conv(x, EDGES[:, :0], return_attention_weights=True)
    torch.testing.assert_close(out, alone)
    assert alpha.shape == (*lead, 0, 2)


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
@pytest.mark.parametrize("options", ["plain", "all"])
@pytest.mark.parametrize("attention", ["dot", "additive", None])
def test_rstg_conv_without_nodes(attention, options, lead):
    conv = make_conv(attention=attention, heads=2, **OPTIONS[options])
    x, kwargs = make_inputs(conv, *lead, nodes=0, edges=0)
    assert conv(x, EDGES[:, :0], **kwargs).shape == (*lead, 0, 8)


@pytest.mark.parametrize("lead", [(0,), (2, 0)])
def test_rstg_conv_without_samples(lead):
    conv = make_conv(heads=2)
    x, _ = make_inputs(conv, *lead)
    out, (_, alpha) = conv(x, EDGES, return_attention_weights=True)
    assert out.shape == (*lead, NUM_NODES, 8)
    assert alpha.shape == (*lead, NUM_EDGES, 2)


@pytest.mark.parametrize("lead", [(), (2,)])
@pytest.mark.parametrize("attention", ["dot", "additive", None])
def test_rstg_conv_flow(attention, lead):
    options = dict(OPTIONS["all"], attention=attention, heads=2)
    conv, flipped = make_conv(**options), make_conv(flow="target_to_source", **options)
    x, kwargs = make_inputs(conv, *lead)
    torch.testing.assert_close(flipped(x, EDGES.flip(0), **kwargs), conv(x, EDGES, **kwargs))


def test_rstg_conv_flow_bipartite():
    conv, flipped = make_conv((4, 6), 8), make_conv((4, 6), 8, flow="target_to_source")
    x = (torch.randn(4, 4, dtype=torch.double), torch.randn(2, 6, dtype=torch.double))
    edge_index = torch.tensor([[0, 3, 2, 1], [0, 0, 1, 1]])
    torch.testing.assert_close(flipped(x, edge_index.flip(0)), conv(x, edge_index))


def test_rstg_conv_other_aggregation():
    conv, mean = make_conv(4, 8), make_conv(4, 8, aggr="mean")
    x, _ = make_inputs(conv)
    degree = torch.bincount(EDGES[1], minlength=NUM_NODES).clamp(min=1).double().view(-1, 1)
    gathered = []
    conv.register_aggregate_forward_hook(lambda module, inputs, out: gathered.append(out))
    mean.register_aggregate_forward_hook(lambda module, inputs, out: gathered.append(out))
    conv(x, EDGES)
    mean(x, EDGES)
    torch.testing.assert_close(gathered[1], gathered[0] / degree)


@pytest.mark.parametrize("attention", ["dot", "additive", None])
def test_rstg_conv_is_equivariant(attention):
    conv = make_conv(attention=attention, heads=2, **OPTIONS["all"])
    x, kwargs = make_inputs(conv, 2)
    out = conv(x, EDGES, **kwargs)
    perm = torch.tensor([4, 2, 5, 0, 3, 1])  # new node n is the old node perm[n]
    for key in ("pos", "node_type"):
        kwargs[key] = kwargs[key][perm]
    torch.testing.assert_close(conv(x[:, perm], perm.argsort()[EDGES], **kwargs), out[:, perm])


def test_rstg_conv_repeated_edges_and_loops_count_as_given():
    conv = make_conv(heads=2)
    x, _ = make_inputs(conv)
    edge_index = torch.cat([EDGES, EDGES[:, :3], torch.tensor([[0, 2], [0, 2]])], dim=1)
    out, (_, alpha) = conv(x, edge_index, return_attention_weights=True)
    expected, expected_alpha = reference(conv, x, x, edge_index)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(alpha, expected_alpha)
    assert not torch.allclose(out, conv(x, EDGES))


def test_rstg_conv_arguments_by_position():
    conv = make_conv(heads=2, **OPTIONS["all"])
    x, kwargs = make_inputs(conv, weight=True)
    names = ("edge_attr", "pos", "node_type", "edge_weight")
    out = conv(x, EDGES, *(kwargs[name] for name in names))
    torch.testing.assert_close(out, conv(x, EDGES, **kwargs))


@pytest.mark.parametrize("aggr", ["max", "softmax", "median", ["mean", "std"]])
def test_rstg_conv_aggregations_of_pyg(aggr):
    aggr_kwargs = dict(mode="sum") if isinstance(aggr, list) else None
    conv = RSTGConv(4, 8, aggr=aggr, aggr_kwargs=aggr_kwargs)
    x = torch.randn(NUM_NODES, 4)
    out = conv(x, EDGES)
    assert out.shape == (NUM_NODES, 8) and out.isfinite().all()
    torch.testing.assert_close(conv(x, EDGES.flip(1)), out)
