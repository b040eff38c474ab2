from functools import partial

import pytest
import torch
from helpers.random_weights import draw, randomize
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.nn import GraphNorm

from rstg_pyg import RSTG, JointLayerNorm, RSTGBlock, ZeroInitNorm
from rstg_pyg.graphs import AreaPool, AreaUnpool, complete_graph, multiscale_grid


def make_block(*args, **kwargs):
    """A block in float64 whose every parameter matters (its scale is zero after construction)."""
    return randomize(RSTGBlock(*args, **kwargs).double(), std=0.5).eval()


def feature_map(channels=4, steps=3, size=(6, 7)):
    return draw(2, channels, steps, *size)


def joint_norm(norm, spread):
    flat = spread.flatten(1)
    mean, std = flat.mean(1), flat.var(1, correction=0).add(1e-12).sqrt()
    normed = (spread - mean.view(-1, 1, 1, 1, 1)) / std.view(-1, 1, 1, 1, 1)
    return norm.scale.view(-1, 1, 1, 1) * (normed + norm.bias.view(-1, 1, 1, 1))


@settings(max_examples=40, deadline=None)
@given(
    to=st.sampled_from(["map", "vec"]),
    widths=st.sampled_from([(None, None), (6, None), (6, 6), (6, 3), (None, 3), (3, 4)]),
    scales=st.sampled_from([(3, 2, 1), (1, 2), ((2, 3), 1), ((1, 4),)]),
    positions=st.booleans(),
    typed_update=st.booleans(),
    topology=st.sampled_from(["grid", "complete"]),
    attention=st.sampled_from(["dot", "additive"]),
    out_norm=st.sampled_from(["auto", "auto", None, partial(torch.nn.GroupNorm, 1)]),
    steps=st.integers(1, 4),
    size=st.sampled_from([(6, 7), (3, 5), (8, 5), (14, 14)]),
)
def test_block_definition(to, widths, scales, positions, typed_update, topology, attention, out_norm,
                          steps, size):  # fmt: skip
    """From its parts: pooled regions, the graph, the projection back, the map or vector, the norm. With
    the complete graph all pairs exchange messages, with the 0/1 adjacency as weights of the logits.
    """
    hidden, out_channels = widths
    options = dict(positions=positions, typed_update=typed_update, topology=topology, to=to)
    options |= dict(attention=attention, out_norm=out_norm, out_channels=out_channels)
    block = make_block(4, hidden, scales, **options)
    wanted = 4 if out_channels is None else out_channels
    assert (block.hidden_channels, block.out_channels) == (hidden or 4, wanted)
    assert (block.lin_out is None) == (block.hidden_channels == wanted)
    assert (block.rstg.lin_in is None) == (block.hidden_channels == 4)

    grid, x = multiscale_grid(scales), feature_map(steps=steps, size=size)
    grid = complete_graph(grid) if topology == "complete" else grid
    nodes = block.rstg(
        AreaPool(scales)(x), grid.edge_index, pos=grid.pos_map.double() if positions else None,
        node_type=grid.node_type if typed_update else None,
        edge_weight=grid.edge_weight.double() if topology == "complete" else None,
    )  # fmt: skip
    if block.lin_out is not None:
        nodes = nodes @ block.lin_out.weight.t() + block.lin_out.bias
    torch.testing.assert_close(block.nodes(x), nodes)
    expected = nodes.mean(1).sum(1) if to == "vec" else AreaUnpool(scales)(nodes, size)
    if out_norm == "auto":
        assert (block.norm is None) == (to == "vec")
        expected = expected if to == "vec" else joint_norm(block.norm, expected)
    elif out_norm is not None:
        expected = torch.nn.functional.group_norm(expected, 1, block.norm.weight, block.norm.bias)
    torch.testing.assert_close(block(x), expected)
    assert expected.shape == ((2, wanted, steps, *size) if to == "map" else (2, wanted))


@pytest.mark.parametrize(
    "hidden, kwargs", [(None, {}), (4, {"residual": True}), (6, {"typed_update": True, "heads": 2})]
)
def test_block_to_map_starts_as_identity_and_leaves_it_by_training(hidden, kwargs):
    torch.manual_seed(0)
    block = RSTGBlock(4, hidden, scales=(2, 1), **kwargs)
    x, target, losses = torch.randn(2, 4, 3, 6, 5), torch.randn(2, 4, 3, 6, 5), []
    assert torch.equal(x + block(x), x)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    for step in range(2):
        loss = (x + block(x) - target).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        moved = {name for name, p in block.named_parameters() if p.grad.abs().max() > 0}
        assert step > 0 or moved == {"norm.scale"}  # only the scale at first
        optimizer.step()
    assert losses[1] < losses[0] and not torch.allclose(x + block(x), x)
    block.reset_parameters()
    assert torch.equal(x + block(x), x)
    assert RSTGBlock(4, to="vec", out_norm=ZeroInitNorm)(x).abs().max() == 0


def test_block_passes_arguments_to_the_graph():
    block = RSTGBlock(
        4, 6, scales=(3, 1), num_rounds=2, cell="gru", attention="additive", heads=2,
        typed_update=True, map_size=8, residual=True,
    )  # fmt: skip
    conv = block.rstg.convs[0]
    assert (block.rstg.num_rounds, block.rstg.cell, block.rstg.residual) == (2, "gru", True)
    found = (conv.attention, conv.heads, conv.num_node_types, conv.pos_channels)
    assert found == ("additive", 2, 2, 64)
    conv = RSTGBlock(4, positions=False).rstg.convs[0]
    assert (conv.pos_channels, conv.num_node_types) == (0, 1)
    assert RSTGBlock(4).pool.scales == ((3, 3), (2, 2), (1, 1))


def test_block_state_dict_has_no_graph_buffers():
    block = RSTGBlock(4, 6, scales=(2, 1), typed_update=True)
    assert {name for name, _ in block.named_buffers()} == {"edge_index", "node_type", "pos"}
    # The same weights fit another grid with the same number of types, and the complete graph.
    for more in (dict(scales=(3, 1)), dict(scales=(2, 1), topology="complete")):
        RSTGBlock(4, 6, typed_update=True, **more).load_state_dict(block.state_dict())
    graph = RSTG(4, 6, pos_channels=36, num_node_types=2)
    expected = {f"rstg.{name}" for name, _ in graph.named_parameters()}
    expected |= {"lin_out.weight", "lin_out.bias", "norm.scale", "norm.bias"}
    assert set(block.state_dict()) == expected


@pytest.mark.parametrize("to", ["map", "vec"])
@pytest.mark.parametrize("residual", [False, True])
def test_block_gives_every_parameter_a_gradient(residual, to):
    block = make_block(4, 6, scales=(2, 1), to=to, residual=residual, typed_update=True)
    x = feature_map().requires_grad_()
    out = block(x)
    (out * torch.randn(out.shape, dtype=torch.double)).sum().backward()
    for name, p in (("x", x), *block.named_parameters()):
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("to", ["map", "vec"])
def test_block_moves_to_other_types(to):
    block = make_block(4, 6, scales=(2, 1), to=to, typed_update=True, topology="complete")
    x = feature_map()
    expected = block(x)
    assert block.pos.dtype == block.edge_weight.dtype == expected.dtype == torch.double
    block.float()
    assert block.pos.dtype == block.edge_weight.dtype == torch.float
    assert block.edge_index.dtype == block.node_type.dtype == torch.long
    out = block(x.float())
    assert out.dtype == torch.float
    torch.testing.assert_close(out.double(), expected, atol=1e-4, rtol=1e-4)
    out = block.bfloat16()(x.bfloat16())
    assert out.dtype == torch.bfloat16 and out.isfinite().all()


def test_block_repr():
    block = RSTGBlock(4, scales=(2, 1), to="vec", positions=False)
    assert "channels=4, to='vec', positions=False" in str(block)
    assert "RSTG(4, 4, num_rounds=1, time_stages='all')" in str(block)
    block = RSTGBlock(4, scales=(2, 1), topology="complete", typed_update=True, cell="gru")
    assert "positions=True, topology='complete'\n" in str(block)
    assert "cell='gru', pos_channels=36, num_node_types=2, edge_weight_on='logits')" in str(block)


def test_block_out_norm():
    """Any norm of the output, made from its channels."""
    made = []

    def norm(channels):
        made.append(channels)
        return torch.nn.GroupNorm(1, channels)

    block = make_block(4, 6, (2, 1), out_channels=3, out_norm=norm)
    assert made == [3]
    block.reset_parameters()
    assert block.norm.weight.tolist() == [1.0] * 3
    assert block.lin_out.bias.tolist() == [0.0] * 3
    assert block.lin_out.weight.abs().max() <= (6 / (6 + 3)) ** 0.5  # Glorot uniform


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"to": "graph"}, r"'to' to be 'map' or 'vec' \(got 'graph'\)"),
        ({"scales": ()}, "non-empty"),
        ({"map_size": 2}, "'map_size' to be at least 3"),
        ({"num_round": 2}, "unexpected keyword argument"),
        ({"topology": "full"}, r"'topology' to be 'grid' or 'complete' \(got 'full'\)"),
        ({"topology": "complete", "attention": None}, "'attention' to be set .* 'topology'='complete'"),
        ({"out_norm": "layer"}, r"'out_norm' to be 'auto', a callable or None \(got 'layer'"),
        ({"out_norm": torch.nn.LayerNorm(4)}, "'out_norm' to be given by what makes it"),
        ({"to": "vec", "out_norm": GraphNorm}, "not 'GraphNorm': it would .* clips of a batch"),
        ({"to": "vec", "out_norm": JointLayerNorm}, "not 'JointLayerNorm': it would"),
        ({"topology": "complete", "edge_weight_on": "attention"},
         "'edge_weight_on' to be 'logits' with 'topology'='complete'"),
    ],
)  # fmt: skip
def test_block_errors(kwargs, message):
    with pytest.raises((ValueError, TypeError), match=message):
        RSTGBlock(4, **kwargs)


def test_block_errors_of_maps():
    for shape, message in [
        ((1, 3, 2, 6, 6), r"shape \[B, 4, T, H, W\] \(got \[1, 3, 2, 6, 6\]\)"),
        ((4, 2, 6, 6), r"shape \[B, 4, T, H, W\] \(got \[4, 2, 6, 6\]\)"),
        ((1, 4, 2, 2, 2), "got a scale of 3 x 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            RSTGBlock(4)(torch.randn(shape))
