"""RSTG on dense sequences with absent nodes, irregular lengths and graphs that change."""

import pytest
import torch
from helpers.random_weights import draw
from torch_geometric import EdgeIndex

from rstg_pyg import RSTG, ChannelBatchNorm, JointLayerNorm, RSTGConv, published_arguments
from rstg_pyg.graphs import multiscale_grid

GRID = multiscale_grid((2, 1))
BATCH, STEPS, NODES, EDGES = 2, 5, 5, GRID.num_edges


def some():
    """A mask with nodes that come and go; one never comes, one frame is empty."""
    mask = torch.rand(BATCH, STEPS, NODES, generator=torch.Generator().manual_seed(5)) < 0.6
    mask[0, :, 3] = False
    mask[1, 2] = False
    return mask


def test_what_an_absent_node_holds_matters_to_nobody(make, form):
    model = make(in_norm=ChannelBatchNorm, **form).train()
    x, mask = draw(BATCH, STEPS, NODES, 4), some()
    out = model(x.requires_grad_(), GRID.edge_index, mask=mask)
    assert (out[~mask] == 0).all() and (out[mask] != 0).any(-1).all()
    out.square().sum().backward()
    assert (x.grad[~mask] == 0).all() and (x.grad[mask] != 0).any(-1).all()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()

    other = x.detach().clone()
    other[~mask] = float("nan")
    again = model(other.requires_grad_(), GRID.edge_index, mask=mask)
    assert torch.equal(again, out)
    again.square().sum().backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients))


@pytest.mark.parametrize("edges", [0, 1])
def test_features_over_time_of_hardly_any_edges(make, edges):
    model = make(edge_dim=3)
    edge_index, attr = torch.tensor([[2], [4]])[:, :edges], draw(STEPS, edges, 3)
    x, mask = draw(BATCH, STEPS, NODES, 4), some()
    mask[..., [2, 4]] = True
    out = model(x, edge_index, attr, mask=mask)
    torch.testing.assert_close(out, model(x, [edge_index] * STEPS, list(attr), mask=mask))


@pytest.mark.parametrize("masked", [False, True])
def test_one_number_per_edge_is_a_feature(make, masked):
    """As the snapshots of PyTorch Geometric Temporal have it; and lists beside one graph for all."""
    model, x, attr = make(edge_dim=1), draw(BATCH, STEPS, NODES, 4), draw(EDGES)
    mask = torch.ones(BATCH, STEPS, NODES).bool() if masked else None
    expected = model(x, GRID.edge_index, attr.unsqueeze(-1))
    for graphs, values in [
        (GRID.edge_index, attr), (GRID.edge_index, [attr] * STEPS),
        (GRID.edge_index, [attr.unsqueeze(-1)] * STEPS), ([GRID.edge_index] * STEPS, [attr] * STEPS),
    ]:  # fmt: skip
        torch.testing.assert_close(model(x, graphs, values, mask=mask), expected)


def test_state_goes_between_masked_and_unmasked_calls(make):
    model = make()
    x, mask = draw(BATCH, STEPS, NODES, 4), some()
    mask[:, 2:] = True
    expected = model(x, GRID.edge_index, mask=mask)
    _, state = model(x[:, :2], GRID.edge_index, mask=mask[:, :2], return_state=True)
    torch.testing.assert_close(model(x[:, 2:], GRID.edge_index, state=state), expected[:, 2:])


def test_nobody_there(make):
    model = make()
    x, nobody = draw(BATCH, STEPS, NODES, 4), torch.zeros(BATCH, STEPS, NODES).bool()
    out, state = model(x, GRID.edge_index, mask=nobody, return_state=True)
    assert (out == 0).all() and out.shape == (BATCH, STEPS, NODES, 6)
    assert all((part == 0).all() for pair in state for part in pair)
    assert state[0][0].shape == (1, BATCH * NODES, 6)
    assert model(x[:, :0], [], mask=nobody[:, :0]).shape == (BATCH, 0, NODES, 6)


def test_edge_index_of_pyg_and_float32(make):
    model = make().float()
    x, mask = draw(BATCH, STEPS, NODES, 4).float(), some()
    edges = EdgeIndex(GRID.edge_index, sparse_size=(NODES, NODES))
    out = model(x, edges, mask=mask)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, model(x, GRID.edge_index, mask=mask))


@pytest.mark.parametrize("rounds, residual", [(3, False), (1, "time")])
def test_autocast_gives_about_the_same(make, rounds, residual):
    model = make(num_rounds=rounds, residual=residual).float()
    x, mask = draw(BATCH, STEPS, NODES, 4).float(), some()
    _, state = model(x, GRID.edge_index, mask=mask, return_state=True)
    expected = model(x, GRID.edge_index, mask=mask, state=state)
    with torch.autocast("cpu", torch.bfloat16):
        out, after = model(x, GRID.edge_index, mask=mask, state=state, return_state=True)
    torch.testing.assert_close(out.float(), expected, atol=0.05, rtol=0.05)
    assert after[0][0].shape == state[0][0].shape


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gradients(make, cell):
    model = make(num_rounds=1, cell=cell, edge_dim=2)
    x, mask, attr = draw(1, 3, NODES, 4), some()[:1, :3], draw(EDGES, 2)

    def outputs(x, attr):
        return model(x, GRID.edge_index, attr, mask=mask)

    assert torch.autograd.gradcheck(outputs, (x.requires_grad_(), attr.requires_grad_()))


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(in_norm=lambda c: ChannelBatchNorm(c, num_joint_dims=3)),
        dict(in_norm=lambda c: JointLayerNorm(c, num_joint_dims=3)),
        dict(norm=lambda c: ChannelBatchNorm(c, num_joint_dims=3)),
        dict(norm=lambda c: ChannelBatchNorm(c, num_joint_dims=2)),
        {k: v for k, v in published_arguments("additive").items() if k == "in_norm"},
    ],
)
def test_norms_that_need_all_nodes_in_all_frames_are_refused(make, kwargs):
    model = make(**kwargs)
    x, mask = draw(BATCH, STEPS, NODES, 4), some()
    model(x, GRID.edge_index)
    with pytest.raises(ValueError, match="over frames as a dimension, and where nodes come and go"):
        model(x, GRID.edge_index, mask=mask)


FRAMES = [GRID.edge_index] * STEPS


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(mask=torch.ones(BATCH, STEPS, NODES)), ValueError, r"bool and of shape \[2, 5, 5\]"),
        (dict(mask=torch.ones(STEPS, NODES).bool()), ValueError, r"\(got torch.bool, \[5, 5\]\)"),
        (dict(lengths=[1]), ValueError, r"2 numbers of frames from 0 to 5 \(got \[1\]\)"),
        (dict(lengths=[1, 6]), ValueError, r"2 numbers of frames from 0 to 5 \(got \[1, 6\]\)"),
        (dict(lengths=[1, -1]), ValueError, "2 numbers of frames from 0 to 5"),
        (dict(lengths=[1.0, 2.5]), ValueError, "2 numbers of frames from 0 to 5"),
        (dict(edge_index=FRAMES[:3]), ValueError, r"one for each of 5 frames \(got 3\)"),
        (dict(edge_index=FRAMES), ValueError, "'edge_attr' to be a list like 'edge_index'"),
        (
            dict(edge_index=FRAMES, edge_attr=[torch.ones(EDGES, 3)] * 4 + [torch.ones(2, 3)]),
            ValueError, r"of \[16, 16, 16, 16, 16\] edges \(got \[16, 16, 16, 16, 2\]\)",
        ),
        (dict(edge_index=GRID.edge_index + 1, lengths=[1, 2]), IndexError, "but there are 5 nodes"),
        (dict(edge_index=GRID.edge_index.float(), lengths=[1, 2]), ValueError, "to hold integers"),
        (dict(edge_index=torch.eye(5).to_sparse(), lengths=[1, 2]), ValueError, r"\[2, num_edges\]"),
        (dict(edge_attr=torch.ones(4, EDGES, 3)), ValueError, r"'edge_attr' to be the same in all"),
        (dict(edge_attr=torch.ones(4, EDGES, 3), lengths=[1, 2]), ValueError, r"\[5\] \(frames\)"),
        (dict(edge_attr=[torch.ones(t, 3) for t in range(5)]), ValueError, "to have one shape in"),
        (dict(edge_attr=torch.ones(7, 3), lengths=[1, 2]), ValueError, r"16 edges \(got 7\)"),
        (dict(pos=torch.ones(3, 2), lengths=[1, 2]), ValueError, "'pos' to have 5 rows"),
        (dict(node_type=torch.zeros(3), lengths=[1, 2]), ValueError, r"'node_type' to have shape"),
    ],
)  # fmt: skip
def test_errors(change, error, message):
    model = RSTG(4, 4, edge_dim=3, pos_channels=2, num_node_types=2)
    kwargs = dict(
        x=torch.ones(BATCH, STEPS, NODES, 4), edge_index=GRID.edge_index,
        edge_attr=torch.ones(EDGES, 3), pos=GRID.pos, node_type=GRID.node_type,
    )  # fmt: skip
    model(**kwargs)
    with pytest.raises(error, match=message):
        model(**{**kwargs, **change})


def test_each_round_is_one_call_of_an_ordinary_layer(make):
    """The layer sees a plain PyG batch, through PyG's generated code."""
    model = make()
    conv = model.convs[0]
    assert isinstance(conv, RSTGConv) and conv.propagate.__module__.endswith("RSTGConv_propagate")
    calls = []
    conv.register_forward_hook(lambda module, inputs, out: calls.append(inputs[0].shape))
    mask = some()
    graphs = [GRID.edge_index[:, : 5 * t] for t in range(STEPS)]  # one for every frame
    model(draw(BATCH, STEPS, NODES, 4), graphs, mask=mask)
    assert calls == [(int(mask.sum()), 6)] * 3
