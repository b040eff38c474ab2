import pytest
import torch
from helpers.random_weights import draw
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GraphNorm

from rstg_pyg import RSTG, ChannelBatchNorm, HomogeneousRSTG, RSTGBlock
from rstg_pyg.graphs import multiscale_grid, space_time_edges

GRID = multiscale_grid((2, 1))


def make(residual=False, **kwargs):
    torch.manual_seed(0)
    return HomogeneousRSTG(4, 6, num_rounds=2, residual=residual, **kwargs)


def nodes(*shape):
    return draw(*shape, dtype=torch.float)


def test_equals_an_explicit_loop_over_nodes_and_their_neighbors():
    """The formulas of the paper on every node of every frame, neighbors in time among the others."""
    frames, model = 3, make(attention="additive", pos_channels=2, shared_rounds=False).double()
    x, pos = nodes(1, frames, 5, 4).double(), GRID.pos.double()
    v = {(t, i): model.lin_in(x[0, t, i]) for t in range(frames) for i in range(5)}
    for conv in model.convs:
        new = {}
        for (t, i), here in v.items():
            near = [(t, int(j)) for j in GRID.edge_index[0][GRID.edge_index[1] == i]]
            near += [(s, i) for s in (t - 1, t + 1) if 0 <= s < frames]
            logits, messages = [], []
            for s, j in near:
                there, send = v[s, j], conv.send
                first = send.source(there[None], pos[j][None]) + send.target(here[None], pos[i][None])
                messages.append(send(first)[0])
                query, key = conv.attend.query(here[None]), conv.attend.key(there[None])
                logits.append(conv.attend(query, key, None).view(()))
            alpha = torch.stack(logits).softmax(0)
            gathered = (alpha[:, None] * torch.stack(messages)).sum(0)
            new[t, i] = conv.update_mlp(here[None], gathered[None], None)[0]
        v = new
    expected = torch.stack([torch.stack([v[t, i] for i in range(5)]) for t in range(frames)])
    torch.testing.assert_close(model(x, GRID.edge_index, pos=pos)[0], expected)


@pytest.mark.parametrize("residual", [False, True])
def test_equals_its_layers_on_a_batch_of_pyg_graphs(residual):
    frames, model = 4, make(residual, num_node_types=2)
    x = nodes(3, frames, 5, 4)
    edges = space_time_edges(GRID.edge_index, 5, frames)
    graph = Batch.from_data_list([Data(x=clip.flatten(0, 1), edge_index=edges) for clip in x])
    v = model.lin_in(graph.x)
    for _ in range(2):
        z = model.conv_norms[0](v) if residual else v
        z = model.convs[0](z, graph.edge_index, node_type=GRID.node_type.repeat(3 * frames))
        v = v + z if residual else z
    v = model.out_norm(v) if residual else v
    out = model(x, GRID.edge_index, node_type=GRID.node_type)
    torch.testing.assert_close(out.flatten(0, 2), v)


def test_weights_are_of_edges_inside_frames_and_norms_of_single_frames():
    frames, model = 3, make(in_norm=GraphNorm).double()
    x, weight = nodes(2, frames, 5, 4).double(), nodes(GRID.num_edges).double().abs()
    of = {(j, i): w for j, i, w in zip(*GRID.edge_index.tolist(), weight.tolist())}
    edges = space_time_edges(GRID.edge_index, 5, frames)
    every = [of[j % 5, i % 5] if j // 5 == i // 5 else 1.0 for j, i in edges.t().tolist()]
    v = torch.stack([torch.stack([model.in_norm(frame) for frame in clip]) for clip in model.lin_in(x)])
    v = v.flatten(1, 2)
    for _ in range(2):
        v = model.convs[0](v, edges, edge_weight=torch.tensor(every).double())
    out = model(x, GRID.edge_index, edge_weight=weight)
    torch.testing.assert_close(out.flatten(1, 2), v)
    assert HomogeneousRSTG(4, 6).num_rounds == 3 and not HomogeneousRSTG(4, 6).residual


def test_a_node_sees_as_many_frames_as_there_are_rounds():
    model, x = make(), nodes(1, 6, 5, 4)
    other = x.clone()
    other[:, 0] += 1
    changed = (model(x, GRID.edge_index) - model(other, GRID.edge_index)).abs().amax((0, 2, 3))
    assert (changed[:3] > 0).all() and (changed[3:] == 0).all()


def test_time_has_no_direction():
    model, x = make(), nodes(2, 5, 5, 4)
    torch.testing.assert_close(
        model(x.flip(1), GRID.edge_index), model(x, GRID.edge_index).flip(1), atol=1e-6, rtol=1e-5
    )


def test_in_a_block_it_takes_the_arguments_of_rstg():
    block = RSTGBlock(
        4, 6, (2, 1), to="vec", graph=HomogeneousRSTG, in_norm=ChannelBatchNorm, topology="complete"
    )
    plain = RSTGBlock(4, 6, (2, 1), to="vec")
    assert isinstance(plain.rstg, RSTG) and plain.streams
    assert not block.streams  # a frame sees the next one
    block(nodes(2, 4, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.parametrize(
    "options, inputs, message",
    [
        ({"num_rounds": 0}, {}, "'num_rounds' to be at least 1"),
        ({"time_stages": "all"}, {}, "time_stages"),
        ({"edge_dim": 2}, {}, "does not support 'edge_dim'"),
        ({}, {"x": torch.zeros(2, 5, 4)}, r"\[B, T, N, 4\]"),
        ({}, {"edge_index": torch.ones(5, 5).to_sparse()}, r"to be a tensor .* torch.sparse_coo\)"),
        ({}, {"edge_index": [GRID.edge_index] * 3}, "to be a tensor .* list"),
        ({}, {"edge_weight": torch.ones(15)}, r"'edge_weight' to have shape \[16\], .* \(got \[15\]\)"),
        ({"pos_channels": 2}, {"pos": torch.ones(3, 5, 2)}, r"'pos' to have shape \[5, 2\], the same"),
        ({"num_node_types": 2}, {"node_type": torch.zeros(4).long()}, r"shape \[5\], .* \(got \[4\]\)"),
    ],
)
def test_mistakes(options, inputs, message):
    inputs = {"x": nodes(2, 3, 5, 4), "edge_index": GRID.edge_index, **inputs}
    with pytest.raises((ValueError, TypeError), match=message):
        HomogeneousRSTG(4, 6, **options)(**inputs)


def test_homogeneous_repr():
    assert str(HomogeneousRSTG(4, 8)) == "HomogeneousRSTG(4, 8, num_rounds=3)"
    model = HomogeneousRSTG(4, 8, 2, residual=True, shared_rounds=False, heads=2, form="paper")
    assert str(model) == (
        "HomogeneousRSTG(4, 8, num_rounds=2, residual=True, shared_rounds=False, form='paper', heads=2)"
    )
