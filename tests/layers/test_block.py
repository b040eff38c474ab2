
import pytest
import torch
from torch_geometric.nn import GraphNorm

from rstg_pyg import RSTG, JointLayerNorm, RSTGBlock, ZeroInitNorm
from rstg_pyg.graphs import AreaPool, AreaUnpool, complete_graph, multiscale_grid


def make_block(*args, seed=0, **kwargs):
    """A block in float64 whose every parameter matters (its scale is zero after construction)."""
    block = RSTGBlock(*args, **kwargs).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in block.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.double) * 0.5)
    return block.eval()


def feature_map(channels=4, steps=3, size=(6, 7), dtype=torch.double):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, steps, *size, generator=generator, dtype=dtype)


def nodes_of(block, x, scales):
    """Nodes [B, T, N, C] after the graph and the projection back, from the parts."""
    grid = multiscale_grid(scales)
    nodes = block.rstg(
        AreaPool(scales)(x),
        grid.edge_index,
        pos=grid.pos_map.to(x.dtype) if block.positions else None,
        node_type=grid.node_type if block.typed_update else None,
    )
    if block.lin_out is None:
        return nodes
    return nodes @ block.lin_out.weight.t() + block.lin_out.bias


@pytest.mark.parametrize(
    "hidden, kwargs", [(None, {}), (4, {"residual": True}), (6, {"typed_update": True, "heads": 2})]
)
def test_block_to_map_starts_as_identity(hidden, kwargs):
    torch.manual_seed(0)
    block = RSTGBlock(4, hidden, scales=(2, 1), **kwargs)
    x = torch.randn(2, 4, 3, 6, 5)
    out = block(x)
    assert out.shape == x.shape
    assert torch.equal(x + out, x)


def test_block_to_map_leaves_the_identity_by_training():
    torch.manual_seed(0)
    block = RSTGBlock(4, 6, scales=(2, 1))
    x, target = torch.randn(2, 4, 3, 6, 5), torch.randn(2, 4, 3, 6, 5)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    losses = []
    for _ in range(2):
        loss = (x + block(x) - target).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[1] < losses[0]
    assert not torch.allclose(x + block(x), x)
    block.reset_parameters()
    assert torch.equal(x + block(x), x)


@pytest.mark.parametrize("positions, typed_update, hidden, scales", [
    (True, False, None, (3, 2, 1)), (False, True, 6, (1, 2)), (True, True, 6, ((2, 3), 1)),
    (False, False, None, ((1, 4),)),
])  # fmt: skip
def test_block_to_map_definition(positions, typed_update, hidden, scales):
    block = make_block(4, hidden, scales, positions=positions, typed_update=typed_update)
    x = feature_map()
    spread = AreaUnpool(scales)(nodes_of(block, x, scales), (6, 7))
    flat = spread.flatten(1)
    mean, std = flat.mean(1), flat.var(1, correction=0).add(1e-12).sqrt()
    normed = (spread - mean.view(-1, 1, 1, 1, 1)) / std.view(-1, 1, 1, 1, 1)
    expected = block.norm.scale.view(4, 1, 1, 1) * (normed + block.norm.bias.view(4, 1, 1, 1))
    out = block(x)
    assert out.shape == x.shape
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("hidden, scales", [(None, (3, 2, 1)), (6, ((2, 3), 1))], ids=str)
def test_block_to_vec_definition(hidden, scales):
    block = make_block(4, hidden, scales, to="vec")
    x = feature_map()
    out = block(x)
    assert out.shape == (2, 4)
    torch.testing.assert_close(out, nodes_of(block, x, scales).mean(1).sum(1))
    if hidden is not None:
        # The bias of the projection back enters once per node.
        before = out.detach()
        with torch.no_grad():
            block.lin_out.bias += 1
        torch.testing.assert_close(block(x), before + block.pool.num_nodes)


@pytest.mark.parametrize("to", ["map", "vec"])
def test_block_zero_init(to):
    torch.manual_seed(0)
    x = feature_map()
    assert (RSTGBlock(4, to=to).norm is None) == (to == "vec")
    zero = RSTGBlock(4, to=to, out_norm=ZeroInitNorm).double()
    assert zero(x).abs().max() == 0
    plain = RSTGBlock(4, to=to, out_norm=None).double()
    assert plain.norm is None and plain(x).abs().max() > 0


def test_block_projection():
    block = RSTGBlock(4)
    assert block.hidden_channels == 4
    assert block.lin_out is None and block.rstg.lin_in is None
    assert RSTGBlock(4, 4).lin_out is None
    block = RSTGBlock(4, 6)
    assert tuple(block.rstg.lin_in.weight.shape) == (6, 4)
    assert tuple(block.lin_out.weight.shape) == (4, 6)
    assert block.rstg.hidden_channels == 6


def test_block_passes_arguments_to_the_graph():
    block = RSTGBlock(
        4, 6, scales=(3, 1), num_rounds=2, cell="gru", attention="additive", heads=2,
        typed_update=True, map_size=8, residual=True,
    )  # fmt: skip
    conv = block.rstg.convs[0]
    assert (block.rstg.num_rounds, block.rstg.cell, block.rstg.residual) == (2, "gru", True)
    assert (conv.attention, conv.heads, conv.num_node_types, conv.pos_channels) == (
        "additive", 2, 2, 64,
    )  # fmt: skip
    block = RSTGBlock(4, positions=False)
    assert block.rstg.convs[0].pos_channels == 0
    assert block.rstg.convs[0].num_node_types == 1


def test_block_state_dict_has_no_graph_buffers():
    block = RSTGBlock(4, 6, scales=(2, 1), typed_update=True)
    assert set(block.state_dict()) == {name for name, _ in block.named_parameters()}
    buffers = {name for name, _ in block.named_buffers()}
    assert buffers == {"edge_index", "node_type", "pos"}
    # The same weights fit another grid with the same number of types.
    RSTGBlock(4, 6, scales=(3, 1), typed_update=True).load_state_dict(block.state_dict())
    expected = {
        f"rstg.{name}" for name, _ in RSTG(4, 6, pos_channels=36, num_node_types=2).named_parameters()
    }
    expected |= {"lin_out.weight", "lin_out.bias", "norm.scale", "norm.bias"}
    assert set(block.state_dict()) == expected


@pytest.mark.parametrize("to", ["map", "vec"])
@pytest.mark.parametrize("residual", [False, True])
def test_block_gives_every_parameter_a_gradient(residual, to):
    block = make_block(4, 6, scales=(2, 1), to=to, residual=residual, typed_update=True)
    x = feature_map().requires_grad_()
    out = block(x)
    (out * torch.randn(out.shape, dtype=torch.double)).sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0
    for name, p in block.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
        assert p.grad.abs().sum() > 0, name


def test_block_only_the_scale_moves_at_first():
    torch.manual_seed(0)
    block = RSTGBlock(4, 6, scales=(2, 1)).double()
    block(feature_map()).sum().backward()
    assert block.norm.scale.grad.abs().max() > 0
    for name, p in block.named_parameters():
        if name != "norm.scale":
            assert p.grad.abs().max() == 0, name


def test_block_serves_maps_of_any_size_and_length():
    block = make_block(4, scales=(3, 1))
    for steps, size in [(1, (3, 3)), (4, (8, 5)), (2, (14, 14))]:
        x = feature_map(steps=steps, size=size)
        assert block(x).shape == x.shape


@pytest.mark.parametrize("to", ["map", "vec"])
def test_block_moves_to_other_types(to):
    block = make_block(4, 6, scales=(2, 1), to=to, typed_update=True)
    x = feature_map()
    expected = block(x)
    assert block.pos.dtype == expected.dtype == torch.double
    block.float()
    assert block.pos.dtype == torch.float
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


def test_block_errors():
    with pytest.raises(ValueError, match=r"'to' to be 'map' or 'vec' \(got 'graph'\)"):
        RSTGBlock(4, to="graph")
    with pytest.raises(ValueError, match="non-empty"):
        RSTGBlock(4, scales=())
    with pytest.raises(ValueError, match="'map_size' to be at least 3"):
        RSTGBlock(4, map_size=2)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        RSTGBlock(4, num_round=2)
    block = RSTGBlock(4)
    with pytest.raises(ValueError, match=r"shape \[B, 4, T, H, W\] \(got \[1, 3, 2, 6, 6\]\)"):
        block(torch.randn(1, 3, 2, 6, 6))
    with pytest.raises(ValueError, match=r"shape \[B, 4, T, H, W\] \(got \[4, 2, 6, 6\]\)"):
        block(torch.randn(4, 2, 6, 6))
    with pytest.raises(ValueError, match="got a scale of 3 x 3"):
        block(torch.randn(1, 4, 2, 2, 2))


@pytest.mark.parametrize(
    "attention, positions, typed_update", [("dot", True, False), ("additive", False, True)]
)
def test_block_complete_topology(attention, positions, typed_update):
    """All pairs exchange messages, with the 0/1 adjacency as weights of the logits."""
    kwargs = dict(positions=positions, typed_update=typed_update, attention=attention, to="vec")
    block = make_block(4, 6, (2, 1), topology="complete", **kwargs)
    grid, x = complete_graph(multiscale_grid((2, 1))), feature_map()
    nodes = block.rstg(
        AreaPool((2, 1))(x),
        grid.edge_index,
        pos=grid.pos_map.double() if positions else None,
        node_type=grid.node_type if typed_update else None,
        edge_weight=grid.edge_weight.double(),
    )
    nodes = block.lin_out(nodes)
    torch.testing.assert_close(block.nodes(x), nodes)
    torch.testing.assert_close(block(x), nodes.mean(1).sum(1))
    other = make_block(4, 6, (2, 1), **kwargs)
    assert other.state_dict().keys() == block.state_dict().keys()
    other.load_state_dict(block.state_dict())
    assert not torch.allclose(other(x), block(x))


def test_block_complete_topology_moves_with_the_block():
    block = make_block(4, scales=(2, 1), topology="complete")
    assert "edge_weight" in dict(block.named_buffers()) and "edge_weight" not in block.state_dict()
    assert block.edge_weight.dtype == torch.double and block.edge_weight.sum() == 16
    assert block.float().edge_weight.dtype == torch.float
    assert RSTGBlock(4).edge_weight is None


@pytest.mark.parametrize("to", ["map", "vec"])
@pytest.mark.parametrize("hidden, out", [(6, 6), (6, 3), (None, 3), (None, None), (3, 4)])
def test_block_out_channels(to, hidden, out):
    block = make_block(4, hidden, (2, 1), to=to, out_channels=out)
    expected = 4 if out is None else out
    assert block.out_channels == expected
    assert (block.lin_out is None) == (block.hidden_channels == expected)
    x = feature_map()
    shape = (2, expected, 3, 6, 7) if to == "map" else (2, expected)
    assert block(x).shape == shape
    nodes = block.nodes(x)
    assert nodes.shape == (2, 3, 5, expected)
    torch.testing.assert_close(nodes, nodes_of(block, x, (2, 1)))


@pytest.mark.parametrize("to", ["map", "vec"])
def test_block_out_norm(to):
    """Any norm of the output, made from its channels."""
    made = []

    def norm(channels):
        made.append(channels)
        return torch.nn.GroupNorm(1, channels)

    block = make_block(4, 6, (2, 1), to=to, out_channels=3, out_norm=norm)
    assert made == [3]
    x = feature_map()
    plain = make_block(4, 6, (2, 1), to=to, out_channels=3, out_norm=None)
    plain.load_state_dict(block.state_dict(), strict=False)
    torch.testing.assert_close(block(x), block.norm(plain(x)))
    torch.nn.init.constant_(block.norm.weight, 5)
    block.reset_parameters()
    assert block.norm.weight.tolist() == [1.0] * 3


def test_block_errors_of_the_published_form():
    with pytest.raises(ValueError, match=r"'topology' to be 'grid' or 'complete' \(got 'full'\)"):
        RSTGBlock(4, topology="full")
    with pytest.raises(ValueError, match="'attention' to be set .* with 'topology'='complete'"):
        RSTGBlock(4, topology="complete", attention=None)
    with pytest.raises(ValueError, match=r"'out_norm' to be 'auto', a callable or None \(got 'layer'"):
        RSTGBlock(4, out_norm="layer")
    with pytest.raises(ValueError, match="'out_norm' to be given by what makes it"):
        RSTGBlock(4, out_norm=torch.nn.LayerNorm(4))
    for norm in (GraphNorm, JointLayerNorm):
        with pytest.raises(ValueError, match=f"not '{norm.__name__}': it would .* clips of a batch"):
            RSTGBlock(4, to="vec", out_norm=norm)
    with pytest.raises(ValueError, match="'edge_weight_on' to be 'logits' with 'topology'='complete'"):
        RSTGBlock(4, topology="complete", edge_weight_on="attention")
