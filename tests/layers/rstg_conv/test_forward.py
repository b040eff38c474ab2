"""Pairs, isolated nodes, empty graphs, aggregation, dropout; no coefficients stay in the layer."""

import pytest
import torch
from helpers.conv_cases import EDGES, NUM_NODES, OPTIONS, make_conv, make_inputs, reference
from helpers.random_weights import draw
from torch_geometric.data import Batch, Data
from torch_geometric.nn.aggr import (
    AttentionalAggregation,
    DeepSetsAggregation,
    LSTMAggregation,
    MultiAggregation,
    QuantileAggregation,
    SoftmaxAggregation,
)
from torch_geometric.utils import coalesce

from rstg_pyg import RSTGConv


def test_rstg_conv_repr():
    assert str(RSTGConv(-1, 8)) == "RSTGConv(-1, 8, hidden_channels=32, heads=1)"
    conv = RSTGConv((4, 6), 8, hidden_channels=12, heads=2, attention=None, num_node_types=3)
    assert str(conv) == (
        "RSTGConv((4, 6), 8, hidden_channels=12, heads=2, attention=None, num_node_types=3)"
    )


def test_rstg_conv_uses_the_generated_templates():
    conv = RSTGConv(4, 8)
    assert conv.propagate.__module__.endswith("RSTGConv_propagate")
    assert conv.edge_updater.__module__.endswith("RSTGConv_edge_updater")
    assert not conv.fuse


def test_rstg_conv_pair_of_the_same_nodes():
    conv, pair = make_conv(4, 8), make_conv((4, 4), 8)
    x, _ = make_inputs(conv)
    for same in (x, x.clone()):
        torch.testing.assert_close(pair((x, same), EDGES), conv(x, EDGES))


@pytest.mark.parametrize("flow", ["source_to_target", "target_to_source"])
@pytest.mark.parametrize("in_channels", [(4, 4), (8, 4), (4, 8)])
@pytest.mark.parametrize("sources", [NUM_NODES, 8])
def test_rstg_conv_pair_of_other_nodes(sources, in_channels, flow, path):
    """As many senders as receivers, with as many channels, are still other nodes."""
    conv = make_conv(in_channels, 8, flow=flow, residual=True)
    x = draw(sources, in_channels[0], seed=1), draw(NUM_NODES, in_channels[1], seed=2)
    edges = EDGES if flow == "source_to_target" else EDGES.flip(0)
    torch.testing.assert_close(conv(x, edges), reference(conv, *x, EDGES)[0])


def test_rstg_conv_one_dimensional_edge_attr():
    conv = make_conv(edge_dim=1)
    for lead in ((), (2,)):
        x, kwargs = make_inputs(conv, *lead)
        attr = kwargs["edge_attr"]
        torch.testing.assert_close(conv(x, EDGES, attr.view(-1)), conv(x, EDGES, attr))


def test_rstg_conv_other_aggregation():
    conv, mean = make_conv(4, 8), make_conv(4, 8, aggr="mean")
    x, _ = make_inputs(conv)
    degree = torch.bincount(EDGES[1], minlength=NUM_NODES).clamp(min=1).double().view(-1, 1)
    gathered = []
    for layer in (conv, mean):
        layer.register_aggregate_forward_hook(lambda module, inputs, out: gathered.append(out))
        layer(x, EDGES)
    torch.testing.assert_close(gathered[1], gathered[0] / degree)


def test_rstg_conv_arguments_by_position():
    conv = make_conv(heads=2, **OPTIONS["all"])
    x, kwargs = make_inputs(conv, weight=True)
    names = ("edge_attr", "pos", "node_type", "edge_weight")
    out = conv(x, EDGES, *(kwargs[name] for name in names))
    torch.testing.assert_close(out, conv(x, EDGES, **kwargs))


LIN = torch.nn.Linear(8, 1)
AGGREGATIONS = [
    "mean", "max", "min", "mul", "std", "median", "softmax", "powermean",
    MultiAggregation(["mean", "std"], mode="sum"), SoftmaxAggregation(learn=True, channels=8),
    AttentionalAggregation(LIN), LSTMAggregation(8, 8), QuantileAggregation(0.3),
    DeepSetsAggregation(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)),
]  # fmt: skip


@pytest.mark.parametrize("aggr", AGGREGATIONS, ids=str)
def test_rstg_conv_aggregations_of_pyg_treat_samples_by_themselves(aggr):
    conv = RSTGConv(4, 8, hidden_channels=8, aggr=aggr).double().eval()
    x, edges = torch.randn(3, NUM_NODES, 4, dtype=torch.double), coalesce(EDGES, sort_by_row=False)
    alone = torch.stack([conv(sample, edges) for sample in x])
    assert alone.shape == (3, NUM_NODES, 8) and alone.isfinite().all()
    torch.testing.assert_close(conv(x, edges), alone)
    batch = Batch.from_data_list([Data(x=sample, edge_index=edges) for sample in x])
    torch.testing.assert_close(conv(batch.x, batch.edge_index).view(alone.shape), alone)


@pytest.mark.parametrize("attention", ["dot", "additive", None])
def test_rstg_conv_without_nodes_and_without_samples(attention):
    conv = make_conv(attention=attention, heads=2, **OPTIONS["all"])
    for lead, nodes in [((), 0), ((2,), 0), ((2, 3), 0), ((0,), 6), ((2, 0), 6)]:
        edges = EDGES if nodes else EDGES[:, :0]
        x, kwargs = make_inputs(conv, *lead, nodes=nodes, edges=edges.size(1))
        out, (_, alpha) = conv(x, edges, return_attention_weights=True, **kwargs)
        assert out.shape == (*lead, nodes, 8) and alpha.shape == (*lead, edges.size(1), 2)


@pytest.mark.usefixtures("path")
def test_rstg_conv_keeps_no_attention_weights():
    conv = make_conv()
    x, _ = make_inputs(conv)
    before = set(vars(conv))
    conv(x, EDGES, return_attention_weights=True)
    assert set(vars(conv)) == before
    assert not [name for name, value in vars(conv).items() if torch.is_tensor(value)]


@pytest.mark.usefixtures("path")
def test_rstg_conv_dropout_only_in_training():
    torch.manual_seed(0)
    conv, plain = make_conv(dropout=0.5), make_conv(dropout=0.0)
    x, _ = make_inputs(conv, 20)
    expected, (_, full) = plain(x, EDGES, return_attention_weights=True)
    torch.testing.assert_close(conv(x, EDGES), expected)

    conv.train()
    out, (_, alpha) = conv(x, EDGES, return_attention_weights=True)
    assert not torch.allclose(out, expected)
    kept = alpha != 0
    assert 0.3 < kept.double().mean() < 0.7
    torch.testing.assert_close(alpha[kept], 2 * full[kept])
    assert not torch.allclose(conv(x, EDGES), out)
