"""Parameters: lazy sizes, how many, how drawn; copies, pickles, the meta device."""

import copy
import pickle

import pytest
import torch
from helpers.conv_cases import EDGES, NUM_NODES, OPTIONS, TYPES, make_conv, make_inputs

from rstg_pyg import DenseRSTGConv, JointLayerNorm, RSTGConv


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(
    "attention, in_channels", [("dot", -1), ("dot", (-1, -1)), ("additive", (4, -1)), (None, (-1, 4))]
)
def test_rstg_conv_lazy(attention, in_channels):
    kwargs = dict(attention=attention, residual=True, num_node_types=2)
    x = torch.randn(NUM_NODES, 4)
    types = TYPES % 2
    lazy = RSTGConv(in_channels, 8, **kwargs)
    uninitialized = copy.deepcopy(lazy)
    out = lazy(x, EDGES, node_type=types)
    assert out.shape == (NUM_NODES, 8)

    state = lazy.state_dict()
    eager = RSTGConv(4, 8, **kwargs)
    assert {k: v.shape for k, v in eager.state_dict().items()} == {k: v.shape for k, v in state.items()}
    eager.load_state_dict(state)
    torch.testing.assert_close(eager(x, EDGES, node_type=types), out)
    uninitialized.load_state_dict(state)
    torch.testing.assert_close(uninitialized(x, EDGES, node_type=types), out)
    RSTGConv(in_channels, 8, **kwargs).state_dict()  # before the first input


@pytest.mark.parametrize("width", [None, 1, 3])
def test_rstg_conv_lazy_edge_features(width):
    lazy, x = RSTGConv(-1, 8, edge_dim=-1), torch.randn(NUM_NODES, 4)
    attr = torch.randn(EDGES.size(1), width) if width else torch.randn(EDGES.size(1))
    out = lazy(x, EDGES, attr)
    eager = RSTGConv(4, 8, edge_dim=width or 1)
    eager.load_state_dict(lazy.state_dict())
    torch.testing.assert_close(eager(x, EDGES, attr), out)
    with pytest.raises(ValueError, match=rf"'edge_attr' to have shape \[10, {width or 1}\]"):
        lazy(x, EDGES, torch.randn(EDGES.size(1), 2))


@pytest.mark.usefixtures("path")
def test_rstg_conv_lazy_bipartite():
    conv = RSTGConv((-1, -1), 8)
    assert conv((torch.randn(6, 5), torch.randn(6, 7)), EDGES).shape == (6, 8)
    assert (conv.send.lin_src.in_channels, conv.send.lin_dst.in_channels) == (5, 7)
    with pytest.raises(ValueError, match=r"source features 'x' to have 5 channels \(got 4\)"):
        conv((torch.randn(6, 4), torch.randn(6, 7)), EDGES)


def test_rstg_conv_reset_parameters():
    kwargs = dict(heads=2, norm=JointLayerNorm, after_aggr=torch.nn.LayerNorm, **OPTIONS["all"])
    conv = make_conv(**kwargs)
    before = {k: v.clone() for k, v in conv.state_dict().items()}
    states = []
    for seed in (12, 13, 12):
        torch.manual_seed(seed)
        conv.reset_parameters()
        states.append({k: v.clone() for k, v in conv.state_dict().items()})
    first, second, again = states
    assert all(not torch.equal(before[k], first[k]) and torch.equal(again[k], first[k]) for k in before)
    assert any(not torch.equal(second[k], first[k]) for k in before)
    for key, value in first.items():
        if key.endswith("bias"):
            assert value.abs().max() == 0, key
        elif "norm" not in key and "after_aggr" not in key:
            assert value.abs().max() <= (6 / sum(value.shape)) ** 0.5, key  # Glorot uniform


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_rstg_conv_number_of_parameters():
    # Send: 2 (C + P) D + D, D D + D. Dot: 2 (C D + D). Update: (C + D) D + D, D O + O.
    c, d, o, p = 4, 6, 8, 3
    update = (c + d) * d + d + d * o + o
    send = 2 * (c + p) * d + d + d * d + d
    kwargs = dict(hidden_channels=d, pos_channels=p)
    paper = dict(form="paper", **kwargs)
    assert count(RSTGConv(c, o, **paper)) == send + 2 * (c * d + d) + update
    assert count(RSTGConv(c, o, attention="additive", **paper)) == send + 2 * (c + 1) + update
    paper["attention"] = None
    assert count(RSTGConv(c, o, num_node_types=3, **paper)) == send + 3 * update
    assert count(RSTGConv(c, o, residual=True, heads=2, **paper)) == (
        send + update + c * o + (d * d + d)
    )
    # Linear paths: send (C + P) D + D, update C O + O and D O.
    send, update = send + (c + p) * d + d, update + c * o + o + d * o
    assert count(RSTGConv(c, o, **kwargs)) == send + 2 * (c * d + d) + update
    assert count(RSTGConv(c, o, num_node_types=3, heads=2, attention=None, **kwargs)) == (
        send + 3 * update
    )
    for options in ({}, {"attention": "additive"}, {"form": "paper"}):
        options |= dict(hidden_channels=d, bias=False, heads=2, edge_dim=2, residual=True)
        bias_free = RSTGConv(c, o, **options)
        assert not [name for name, _ in bias_free.named_parameters() if "bias" in name]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda conv: pickle.loads(pickle.dumps(conv))])
def test_rstg_conv_copies_and_pickles(copied):
    conv = make_conv(heads=2, **OPTIONS["all"])
    x, kwargs = make_inputs(conv)
    expected, other = conv(x, EDGES, **kwargs), copied(conv)
    torch.testing.assert_close(other(x, EDGES, **kwargs), expected)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    assert other(x, EDGES, **kwargs).abs().sum() == 0
    torch.testing.assert_close(conv(x, EDGES, **kwargs), expected)


def test_rstg_conv_resets_a_learned_aggregation():
    conv = RSTGConv(4, 8, aggr="softmax", aggr_kwargs=dict(learn=True))
    torch.nn.init.constant_(conv.aggr_module.t, 3.0)
    conv.reset_parameters()
    assert conv.aggr_module.t.item() == 1.0


@pytest.mark.parametrize("in_channels", [4, -1])
@pytest.mark.parametrize("layer", [RSTGConv, DenseRSTGConv])
def test_rstg_conv_built_on_the_meta_device(layer, in_channels):
    kwargs = dict(heads=2, norm=JointLayerNorm, after_aggr=torch.nn.LayerNorm, **OPTIONS["all"])
    kwargs["edge_dim"] = None
    trained = layer(4, 8, **kwargs)
    for assign in (False, True):
        with torch.device("meta"):
            conv = layer(in_channels, 8, **kwargs)
        assert all(p.is_meta for p in conv.parameters())
        if not assign and in_channels > 0:
            conv.to_empty(device="cpu")
        conv.load_state_dict(trained.state_dict(), assign=assign or in_channels == -1)
        edges = EDGES if layer is RSTGConv else torch.ones(NUM_NODES, NUM_NODES)
        inputs = dict(pos=torch.randn(NUM_NODES, 2), node_type=TYPES)
        x = torch.randn(2, NUM_NODES, 4)
        torch.testing.assert_close(conv(x, edges, **inputs), trained(x, edges, **inputs))


def test_rstg_conv_takes_parametrizations_and_adapters_of_linear_layers():
    def wrapped():
        conv = RSTGConv(4, 8)
        for lin in (conv.send.lins[0], conv.attend.lin_query):
            torch.nn.utils.parametrizations.weight_norm(lin)
        return conv

    conv, other, x = wrapped(), wrapped(), torch.randn(NUM_NODES, 4)
    assert "send.lins.0.weight" not in conv.state_dict()
    other.load_state_dict(conv.state_dict())
    torch.testing.assert_close(other(x, EDGES), conv(x, EDGES))
    lazy = RSTGConv(-1, 8, heads=2, form="paper")
    lins = [m for m in lazy.modules() if isinstance(m, torch.nn.Linear)]
    assert len(lins) == 8 and lins[0].in_features == -1 and lins[0].out_features == 8
