"""Norms of messages, of the gathered messages and of nodes: where they are and what they see."""

import pytest
import torch
from helpers.conv_cases import EDGES, NUM_NODES, make_conv, make_inputs, mlp
from torch_geometric.data import Batch, Data

from rstg_pyg import JointLayerNorm


def make_normed(**kwargs):
    return make_conv(norm=JointLayerNorm, after_aggr=JointLayerNorm, heads=2, **kwargs)


@pytest.mark.parametrize("attention", ["dot", None])
def test_rstg_conv_joint_norm_static_batched_and_single(attention):
    conv = make_normed(attention=attention, pos_channels=2)
    x, kwargs = make_inputs(conv, 3)
    single = torch.stack([conv(sample, EDGES, **kwargs) for sample in x])
    torch.testing.assert_close(conv(x, EDGES, **kwargs), single)

    batch = Batch.from_data_list([Data(x=s, edge_index=EDGES, pos=kwargs["pos"]) for s in x])
    out = conv(batch.x, batch.edge_index, pos=batch.pos, batch=batch.batch)
    torch.testing.assert_close(out.view_as(single), single)
    without = conv(batch.x, batch.edge_index, pos=batch.pos)
    assert not torch.allclose(without.view_as(single), single)


def test_rstg_conv_joint_norm_of_different_graphs():
    conv = make_normed()
    graphs = [
        Data(x=torch.randn(6, 4, dtype=torch.double), edge_index=EDGES),
        Data(x=torch.randn(3, 4, dtype=torch.double), edge_index=torch.tensor([[0, 1], [1, 2]])),
        Data(x=torch.randn(2, 4, dtype=torch.double), edge_index=EDGES[:, :0]),
    ]
    batch = Batch.from_data_list(graphs)
    out = conv(batch.x, batch.edge_index, batch=batch.batch)
    expected = torch.cat([conv(graph.x, graph.edge_index) for graph in graphs])
    torch.testing.assert_close(out, expected)
    # In another order of edges, too.
    perm = torch.arange(batch.num_edges).flip(0)
    out = conv(batch.x, batch.edge_index[:, perm], batch=batch.batch)
    torch.testing.assert_close(out, expected)


def test_rstg_conv_norm_is_where_it_should_be():
    # After the last ReLU of messages and nodes, and on the gathered messages.
    conv = make_conv(norm=JointLayerNorm, after_aggr=JointLayerNorm)
    x, _ = make_inputs(conv)

    def normed(norm, x):
        mean, var = x.mean(), x.var(correction=0)
        return (x - mean) / (var + 1e-12).sqrt() * norm.module.weight + norm.module.bias

    messages = normed(conv.message_norm, mlp(
        conv.send.lins,
        (conv.send.lin_src(x)[EDGES[0]] + conv.send.lin_dst(x)[EDGES[1]]).clamp(min=0),
    ))  # fmt: skip
    _, (_, alpha) = conv(x, EDGES, return_attention_weights=True)
    gathered = x.new_zeros(NUM_NODES, 8).index_add(0, EDGES[1], alpha * messages)
    gathered = normed(conv.after_aggr, gathered)
    out = mlp([lin.lins[0] for lin in conv.update_mlp.lins], torch.cat([x, gathered], dim=-1))
    torch.testing.assert_close(conv(x, EDGES), normed(conv.update_norm, out))


def test_rstg_conv_norm_without_batch_argument():
    conv = make_conv(norm=torch.nn.LayerNorm)
    x, _ = make_inputs(conv, 2)
    batch = torch.zeros(NUM_NODES, dtype=torch.long)
    expected = torch.stack([conv(sample, EDGES) for sample in x])
    torch.testing.assert_close(conv(x, EDGES), expected)
    torch.testing.assert_close(conv(x[0], EDGES, batch=batch), expected[0])
