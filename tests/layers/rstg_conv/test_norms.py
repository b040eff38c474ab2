"""Norms: where they are, and that whatever form the graphs have, each graph is normalized by itself."""

from functools import partial

import pytest
import torch
import torch_geometric.nn
from helpers.conv_cases import EDGES, NUM_NODES, make_conv
from helpers.random_weights import draw, randomize
from torch_geometric.data import Batch, Data

from rstg_pyg import RSTG, BiasReLU, DenseRSTGConv, HomogeneousRSTG, JointLayerNorm, RSTGConv
from rstg_pyg.graphs import join_sequences

#: Those of PyG that want more than rows and graphs.
REFUSED = {"MessageNorm", "HeteroBatchNorm", "HeteroLayerNorm"}
NORMS = {
    **{name: getattr(torch_geometric.nn.norm, name) for name in torch_geometric.nn.norm.__all__},
    "DiffGroupNorm": partial(torch_geometric.nn.DiffGroupNorm, groups=2),
    "LayerNorm of nodes": partial(torch_geometric.nn.LayerNorm, mode="node"),
    "PairNorm individually": partial(torch_geometric.nn.PairNorm, scale_individually=True),
    "torch's LayerNorm": torch.nn.LayerNorm,
    "torch's RMSNorm": torch.nn.RMSNorm,
    "torch's BatchNorm1d": torch.nn.BatchNorm1d,
    "torch's GroupNorm": lambda channels: torch.nn.GroupNorm(2, channels),
    "JointLayerNorm": JointLayerNorm,
    "two of them": lambda c: torch.nn.Sequential(torch_geometric.nn.PairNorm(), torch.nn.LayerNorm(c)),
    "inside ours": partial(BiasReLU, norm=torch_geometric.nn.PairNorm),
}
WORKING = [name for name in NORMS if name not in REFUSED]


def lively(model):
    """Random weights and running statistics."""
    for name, value in randomize(model.double()).named_buffers():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2.0)
        elif name.endswith("running_mean"):
            value.normal_()
    return model.eval()


def modes(model):
    """In training, too, unless batch norms are there, which then look at all rows."""
    yield model.eval()
    if not any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        yield model.train()


# As many nodes as channels, so that no dimension can be taken for another.
@pytest.mark.parametrize("name", WORKING)
def test_a_layer_in_every_form_gives_the_numbers_of_each_graph_alone(name):
    options = dict(norm=NORMS[name], after_aggr=NORMS[name], heads=2)
    conv = lively(make_conv(6, 6, **options))
    dense = DenseRSTGConv(6, 6, **options).double()
    dense.load_state_dict(conv.state_dict())
    x = torch.randn(3, NUM_NODES, 6, dtype=torch.double) * torch.tensor([1.0, 3, 0.1]).view(3, 1, 1)
    edges = [EDGES, EDGES[:, :4] % 4, EDGES[:, :0]]  # the others are smaller
    sizes = [6, 4, 2]
    adj, mask = torch.zeros(3, 6, 6), torch.zeros(3, 6, dtype=torch.bool)
    for b, (ends, size) in enumerate(zip(edges, sizes)):
        adj[b, ends[1], ends[0]], mask[b, :size] = 1, True
    for _ in modes(conv):
        dense.train(conv.training)
        alone = torch.stack([conv(sample, EDGES) for sample in x])
        torch.testing.assert_close(conv(x, EDGES), alone)
        torch.testing.assert_close(conv(x.view(1, 3, 6, 6), EDGES)[0], alone)
        torch.testing.assert_close(dense(x, adj[0]), alone)
        torch.testing.assert_close(dense(x, adj[:1].expand(3, 6, 6)), alone)

        graphs = [Data(x=x[b, :n], edge_index=e) for b, (e, n) in enumerate(zip(edges, sizes))]
        alone = torch.cat([conv(graph.x, graph.edge_index) for graph in graphs])
        batch = Batch.from_data_list(graphs)
        perm = torch.arange(batch.num_edges).flip(0)  # in whatever order
        for ends in (batch.edge_index, batch.edge_index[:, perm]):
            torch.testing.assert_close(conv(batch.x, ends, batch=batch.batch), alone)
        torch.testing.assert_close(dense(x, adj, mask)[mask], alone)
        if conv.training:
            conv(x, EDGES[:, :0]).sum().backward()
            assert all(p.grad is not None for p in conv.message_norm.parameters())


def test_the_graphs_of_a_pair_are_those_of_the_receivers():
    conv = make_conv((4, 4), 8, norm=JointLayerNorm)
    senders, receivers = draw(5, 4, seed=1), draw(4, 4, seed=2)
    edges = torch.tensor([[0, 1, 2, 3, 4], [0, 1, 1, 2, 3]])  # of two graphs
    both = conv((senders, receivers), edges, batch=(torch.arange(5) // 3, torch.arange(4) // 2))
    first = conv((senders[:3], receivers[:2]), edges[:, :3])
    second = conv((senders[3:], receivers[2:]), edges[:, 3:] - torch.tensor([[3], [2]]))
    torch.testing.assert_close(both, torch.cat([first, second]))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["norm", "in_norm"])
@pytest.mark.parametrize("name", WORKING)
def test_a_sequence_in_every_form_gives_the_numbers_of_each_clip_and_frame_alone(name, where):
    """The first frames alone, clips alone, a mask of all, a list of graphs, rows, a stream."""
    clips, steps, nodes = 2, 4, 6
    x = torch.randn(clips, steps, nodes, 6, dtype=torch.double)
    x = x * torch.rand(clips, steps, 1, 1, dtype=torch.double) * 4
    graphs = [[Data(x=frame, edge_index=EDGES) for frame in clip] for clip in x]
    rows = join_sequences(graphs)
    for model in modes(lively(RSTG(6, 6, num_rounds=2, **{where: NORMS[name]}))):
        out = model(x, EDGES)
        torch.testing.assert_close(torch.cat([model(clip, EDGES) for clip in x.split(1)]), out)
        mask = torch.ones(clips, steps, nodes, dtype=torch.bool)
        torch.testing.assert_close(model(x, EDGES, mask=mask), out)
        torch.testing.assert_close(model(x, [EDGES] * steps), out)
        flat = model(rows.x, rows.edge_index, node=rows.node, batch=rows.batch)
        torch.testing.assert_close(flat.view(out.shape), out)
        pieces, state = [], None
        for piece in x.split([1, 3], dim=1):
            piece, state = model(piece, EDGES, state=state, return_state=True)
            pieces.append(piece)
        torch.testing.assert_close(torch.cat(pieces, dim=1), out)
    for model in modes(lively(HomogeneousRSTG(6, 6, num_rounds=2, **{where: NORMS[name]}))):
        torch.testing.assert_close(torch.cat([model(c, EDGES) for c in x.split(1)]), model(x, EDGES))


class Wrapped(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = torch_geometric.nn.GraphNorm(channels)

    def forward(self, x):
        return self.norm(x)


@pytest.mark.parametrize(
    "norm, name",
    [
        (torch_geometric.nn.MessageNorm, "MessageNorm"),
        (partial(torch_geometric.nn.HeteroBatchNorm, num_types=2), "HeteroBatchNorm"),
        (lambda c: torch_geometric.nn.HeteroLayerNorm(c, 2), "HeteroLayerNorm"),
        ("message_norm", "MessageNorm"),
        (torch.nn.InstanceNorm1d, "InstanceNorm1d': .* 'torch_geometric.nn.InstanceNorm' does not"),
        (torch.nn.BatchNorm2d, "BatchNorm2d"),
        (torch.nn.LocalResponseNorm, "LocalResponseNorm"),
        (Wrapped, "'Wrapped' to have an argument 'batch' .* 'GraphNorm' inside"),
    ],
)
def test_norms_that_make_no_sense_are_refused_by_name(norm, name):
    for layer, where in [(RSTGConv, "norm"), (RSTGConv, "after_aggr"), (DenseRSTGConv, "norm"),
                         (RSTG, "norm"), (RSTG, "in_norm"), (HomogeneousRSTG, "in_norm")]:  # fmt: skip
        with pytest.raises(ValueError, match=name):
            layer(4, 8, **{where: norm})


def test_norms_and_activations_by_name():
    conv = RSTGConv(4, 8, norm="batch_norm", norm_kwargs=dict(momentum=0.5), act="leaky_relu",
                    act_kwargs=dict(negative_slope=0.3))  # fmt: skip
    assert conv.update_norm.module.module.momentum == conv.message_norm.module.module.momentum == 0.5
    assert conv.send.act.negative_slope == conv.update_mlp.act.negative_slope == 0.3
    assert RSTG(4, 8, in_norm="pair").in_norm.scale == 1.0  # not the number of channels
    x = torch.randn(6, 4)
    for act in (None, torch.nn.PReLU, torch.nn.GELU(), torch.tanh):
        assert RSTGConv(4, 8, act=act)(x, EDGES).isfinite().all()
    assert torch.equal(RSTGConv(4, 8, act=None, bias=False)(-0 * x, EDGES), torch.zeros(6, 8))
    given = torch.nn.PReLU()  # both MLPs get copies of it
    conv = RSTGConv(4, 8, act=given)
    assert len({id(act.weight) for act in (given, conv.send.act, conv.update_mlp.act)}) == 3


def test_a_norm_of_ones_own_gets_rows_and_graphs_if_it_asks():
    seen = []

    class Own(torch.nn.Module):
        def forward(self, x, batch):
            seen.append((x.shape, batch.tolist()))
            return x

    conv = make_conv(norm=(None, lambda channels: Own()))
    conv(torch.randn(2, 6, 4, dtype=torch.double), EDGES)
    assert seen == [((12, 8), [0] * 6 + [1] * 6)]
