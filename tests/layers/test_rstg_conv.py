import copy
import pickle

import pytest
import torch
from torch.nn import functional as F
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data
from torch_geometric.explain import AttentionExplainer, Explainer, GNNExplainer
from torch_geometric.nn import Linear, Sequential, to_hetero
from torch_geometric.utils import (
    coalesce,
    to_torch_coo_tensor,
    to_torch_csc_tensor,
    to_torch_csr_tensor,
)

from rstg_pyg import JointLayerNorm, RSTGConv
from rstg_pyg.graphs import multiscale_grid

pytestmark = pytest.mark.usefixtures("path")

# Six nodes in no order; nobody sends to node 2, node 3 hears from two others, node 0 from three.
EDGES = torch.tensor([[5, 1, 2, 0, 4, 3, 2, 0, 5, 1], [3, 0, 0, 1, 0, 1, 3, 5, 4, 4]])
TYPES = torch.tensor([1, 0, 2, 0, 1, 2])
NUM_NODES, NUM_EDGES = 6, EDGES.size(1)

OPTIONS = {
    "plain": {},
    "pos": {"pos_channels": 2},
    "types": {"num_node_types": 3},
    "edge_attr": {"edge_dim": 3},
    "residual": {"residual": True},
    "residual_same": {"in_channels": 8, "residual": True},
    "act_last": {"act_last": False, "in_channels": 8, "residual": True},
    "wide": {"hidden_channels": 12, "num_send_layers": 3, "num_update_layers": 3},
    "shallow": {"num_send_layers": 1, "num_update_layers": 1},
    "no_bias": {"bias": False, "attention_scale": 0.25},
    "all": {
        "hidden_channels": 12,
        "pos_channels": 2,
        "num_node_types": 3,
        "edge_dim": 3,
        "residual": True,
        "act_last": False,
        "attention_scale": 0.5,
    },
}


def make_conv(in_channels=4, out_channels=8, seed=0, dtype=torch.double, **kwargs):
    """A layer whose every parameter matters (biases are zero after construction)."""
    conv = RSTGConv(in_channels, out_channels, **kwargs).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in conv.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.5)
    return conv.eval()


def make_inputs(conv, *lead, dtype=torch.double, weight=False, nodes=NUM_NODES, edges=NUM_EDGES):
    generator = torch.Generator().manual_seed(1)

    def randn(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    x = randn(*lead, nodes, conv.in_channels)
    kwargs = {}
    if conv.pos_channels > 0:
        kwargs["pos"] = randn(nodes, conv.pos_channels)
    if conv.num_node_types > 1:
        kwargs["node_type"] = torch.arange(nodes) % conv.num_node_types
    if conv.edge_dim is not None:
        kwargs["edge_attr"] = randn(edges, conv.edge_dim)
    if weight:
        kwargs["edge_weight"] = randn(edges)
    return x, kwargs


def mlp(lins, x, act_last=True):
    for i, lin in enumerate(lins):
        x = F.linear(x, lin.weight, lin.bias)
        x = x.clamp(min=0) if act_last or i + 1 < len(lins) else x
    return x


def reference(conv, x_src, x_dst, edge_index, edge_attr=None, pos=(None, None), node_type=None,
              edge_weight=None):  # fmt: skip
    """The layer's formula, edge by edge and node by node."""
    send, heads, dim = conv.send, conv.heads, conv.hidden_channels
    # The published form: one kernel on [v_j | p_j | v_i | p_i | e_ji].
    blocks = [send.lin_src, send.lin_pos_src, send.lin_dst, send.lin_pos_dst, send.lin_edge]
    kernel = torch.cat([block.weight for block in blocks if block is not None], dim=1)

    messages, logits = [], []
    for k, (j, i) in enumerate(edge_index.t().tolist()):
        parts = [x_src[j], x_dst[i]]
        if pos[0] is not None:
            parts = [x_src[j], pos[0][j], x_dst[i], pos[1][i]]
        if edge_attr is not None:
            parts.append(edge_attr[k])
        hidden = F.linear(torch.cat(parts), kernel, send.lin_dst.bias).clamp(min=0)
        message = mlp(send.lins, hidden)
        if heads > 1:
            message = F.linear(message, conv.lin_value.weight, conv.lin_value.bias)
        messages.append(message)

        if conv.attention is None:
            logits.append(message.new_zeros(heads))
            continue
        query, key = conv.attend.lin_query, conv.attend.lin_key
        query = F.linear(x_dst[i], query.weight, query.bias)
        key = F.linear(x_src[j], key.weight, key.bias)
        w = 1.0 if edge_weight is None else edge_weight[k]
        if conv.attention == "dot":
            dots = [a @ b for a, b in zip(query.chunk(heads), key.chunk(heads))]
            logits.append(w * conv.attention_scale * torch.stack(dots))
        else:
            logits.append(F.leaky_relu(w * (query + key), 0.2) + w)

    out, alphas = [], [None] * edge_index.size(1)
    for i in range(x_dst.size(0)):
        incoming = [k for k in range(edge_index.size(1)) if edge_index[1, k] == i]
        gathered = x_dst.new_zeros(heads, dim // heads)
        if incoming:
            alpha = torch.stack([logits[k] for k in incoming]).softmax(dim=0)  # [edges, heads]
            for a, k in zip(alpha, incoming):
                gathered = gathered + a.unsqueeze(1) * messages[k].view(heads, -1)
                alphas[k] = a
        kind = 0 if node_type is None else int(node_type[i])
        lins = [lin.lins[kind] for lin in conv.update_mlp.lins]
        new = mlp(lins, torch.cat([x_dst[i], gathered.view(-1)]), conv.act_last)
        if conv.residual:
            new = new + (x_dst[i] if conv.lin_res is None else conv.lin_res.weight @ x_dst[i])
        out.append(new)
    return torch.stack(out), torch.stack(alphas)


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


@pytest.mark.parametrize("lead", [(3,), (2, 3), (1, 1)])
@pytest.mark.parametrize("options", ["plain", "all"])
@pytest.mark.parametrize("attention, heads", [("dot", 4), ("additive", 1), (None, 2)])
def test_rstg_conv_static_equals_stacked_samples(attention, heads, options, lead):
    conv = make_conv(attention=attention, heads=heads, **OPTIONS[options])
    x, kwargs = make_inputs(conv, *lead, weight=attention is not None)
    out, (_, alpha) = conv(x, EDGES, return_attention_weights=True, **kwargs)
    assert out.shape == (*lead, NUM_NODES, 8)
    assert alpha.shape == (*lead, NUM_EDGES, heads)
    samples = [
        conv(sample, EDGES, return_attention_weights=True, **kwargs) for sample in x.flatten(0, -3)
    ]
    expected = torch.stack([sample[0] for sample in samples])
    torch.testing.assert_close(out.flatten(0, -3), expected)
    expected = torch.stack([sample[1][1] for sample in samples])
    torch.testing.assert_close(alpha.flatten(0, -3), expected)


def test_rstg_conv_static_with_own_positions_attributes_and_weights():
    conv = make_conv(pos_channels=2, edge_dim=3)
    x = torch.randn(3, NUM_NODES, 4, dtype=torch.double)
    pos = torch.randn(3, NUM_NODES, 2, dtype=torch.double)
    attr = torch.randn(3, NUM_EDGES, 3, dtype=torch.double)
    weight = torch.randn(3, NUM_EDGES, dtype=torch.double)
    out = conv(x, EDGES, attr, pos=pos, edge_weight=weight)
    expected = [conv(x[b], EDGES, attr[b], pos=pos[b], edge_weight=weight[b]) for b in range(x.size(0))]
    torch.testing.assert_close(out, torch.stack(expected))


@pytest.mark.parametrize("attention", ["dot", "additive", None])
def test_rstg_conv_static_equals_block_diagonal_batch(attention):
    conv = make_conv(attention=attention, heads=2, **OPTIONS["all"])
    x, kwargs = make_inputs(conv, 3, weight=attention is not None)
    batch = Batch.from_data_list(
        [Data(x=sample, edge_index=EDGES, **{k: v for k, v in kwargs.items()}) for sample in x]
    )
    flat = {key: batch[key] for key in kwargs}
    out = conv(batch.x, batch.edge_index, **flat)
    torch.testing.assert_close(out.view(3, NUM_NODES, 8), conv(x, EDGES, **kwargs))


def test_rstg_conv_vmap_equals_static():
    conv = make_conv(heads=2)
    x, _ = make_inputs(conv, 3)
    out = torch.func.vmap(lambda sample: conv(sample, EDGES))(x)
    torch.testing.assert_close(out, conv(x, EDGES))


@pytest.mark.parametrize("attention", ["dot", "additive", None])
@pytest.mark.parametrize("lead", [(), (2,)])
def test_rstg_conv_permuted_edges(attention, lead):
    conv = make_conv(attention=attention, heads=2, **OPTIONS["all"])
    x, kwargs = make_inputs(conv, *lead, weight=attention is not None)
    out, (_, alpha) = conv(x, EDGES, return_attention_weights=True, **kwargs)

    perm = torch.randperm(NUM_EDGES, generator=torch.Generator().manual_seed(3))
    for key in ("edge_attr", "edge_weight"):
        if key in kwargs:
            kwargs[key] = kwargs[key][perm]
    permuted, (edge_index, permuted_alpha) = conv(
        x, EDGES[:, perm], return_attention_weights=True, **kwargs
    )
    torch.testing.assert_close(permuted, out)
    assert torch.equal(edge_index, EDGES[:, perm])
    torch.testing.assert_close(permuted_alpha, alpha[..., perm, :])


@pytest.mark.parametrize("attention", ["dot", "additive", None])
def test_rstg_conv_is_equivariant(attention):
    conv = make_conv(attention=attention, heads=2, **OPTIONS["all"])
    x, kwargs = make_inputs(conv, 2)
    out = conv(x, EDGES, **kwargs)
    perm = torch.tensor([4, 2, 5, 0, 3, 1])  # new node n is the old node perm[n]
    for key in ("pos", "node_type"):
        kwargs[key] = kwargs[key][perm]
    torch.testing.assert_close(conv(x[:, perm], perm.argsort()[EDGES], **kwargs), out[:, perm])


@pytest.mark.parametrize("sort_order", [None, "row", "col"])
@pytest.mark.parametrize("lead", [(), (2,)])
@pytest.mark.parametrize("attention", ["dot", None])
def test_rstg_conv_edge_index_class(attention, lead, sort_order):
    conv = make_conv(attention=attention, heads=2)
    x, _ = make_inputs(conv, *lead)
    edge_index = EDGES
    if sort_order is not None:
        edge_index = coalesce(EDGES, sort_by_row=sort_order == "row")
    wrapped = EdgeIndex(edge_index, sparse_size=(NUM_NODES, NUM_NODES), sort_order=sort_order)
    out, (given, alpha) = conv(x, wrapped, return_attention_weights=True)
    expected, (_, expected_alpha) = conv(x, edge_index, return_attention_weights=True)
    assert given is wrapped
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(alpha, expected_alpha)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_rstg_conv_integer_types(dtype):
    conv = make_conv()
    x, _ = make_inputs(conv)
    torch.testing.assert_close(conv(x, EDGES.to(dtype)), conv(x, EDGES))


def sparse_adjacencies(edge_index, size, values=None):
    """The transposed adjacency [targets, sources] in all three layouts."""
    return {
        "csc.t()": to_torch_csc_tensor(edge_index, values, size=size).t(),
        "csr": to_torch_csr_tensor(edge_index.flip(0), values, size=size[::-1]),
        "coo": to_torch_coo_tensor(edge_index.flip(0), values, size=size[::-1]),
    }


@pytest.mark.parametrize("layout", ["csc.t()", "csr", "coo"])
@pytest.mark.parametrize("attention", ["dot", "additive", None])
@pytest.mark.parametrize("heads", [1, 2])
def test_rstg_conv_sparse_tensor(heads, attention, layout):
    conv = make_conv(attention=attention, heads=heads, pos_channels=2, num_node_types=3)
    x, kwargs = make_inputs(conv)
    adj_t = sparse_adjacencies(EDGES, (NUM_NODES, NUM_NODES))[layout]
    torch.testing.assert_close(conv(x, adj_t, **kwargs), conv(x, EDGES, **kwargs))


@pytest.mark.parametrize("layout", ["csc.t()", "csr", "coo"])
def test_rstg_conv_sparse_tensor_bipartite(layout):
    conv = make_conv((4, 6), 8)
    x = (torch.randn(4, 4, dtype=torch.double), torch.randn(2, 6, dtype=torch.double))
    edge_index = torch.tensor([[0, 1, 2, 3, 0], [0, 0, 1, 1, 1]])
    adj_t = sparse_adjacencies(edge_index, (4, 2))[layout]
    torch.testing.assert_close(conv(x, adj_t), conv(x, edge_index))


@pytest.mark.parametrize("layout", ["csc.t()", "csr", "coo"])
@pytest.mark.parametrize("heads", [1, 2])
def test_rstg_conv_sparse_tensor_attention_weights(heads, layout):
    conv = make_conv(heads=heads)
    x, _ = make_inputs(conv)
    adj_t = sparse_adjacencies(EDGES, (NUM_NODES, NUM_NODES))[layout]
    expected, (_, alpha) = conv(x, EDGES, return_attention_weights=True)
    out, (adj_t, _) = conv(x, adj_t, return_attention_weights=True)
    torch.testing.assert_close(out, expected)
    dense = adj_t.to_sparse_coo().to_dense()  # [targets, sources, heads]
    target, source = EDGES[1], EDGES[0]
    torch.testing.assert_close(dense.view(6, 6, heads)[target, source], alpha)


def test_rstg_conv_sparse_values_are_edge_weights():
    # As in every PyG layer with an `edge_weight`: the matrix' values stand for it.
    conv = make_conv(attention="additive")
    x, _ = make_inputs(conv)
    edge_index = coalesce(EDGES)
    weight = torch.randn(NUM_EDGES, dtype=torch.double)
    expected = conv(x, edge_index, edge_weight=weight)
    for adj_t in sparse_adjacencies(edge_index, (NUM_NODES, NUM_NODES), weight).values():
        torch.testing.assert_close(conv(x, adj_t), expected)


@pytest.mark.parametrize("attention", ["dot", "additive", None])
@pytest.mark.parametrize("heads", [1, 2, 8])
def test_rstg_conv_attention_weights(heads, attention):
    conv = make_conv(attention=attention, heads=heads)
    x, _ = make_inputs(conv)
    assert torch.is_tensor(conv(x, EDGES, return_attention_weights=False))
    out, (edge_index, alpha) = conv(x, EDGES, return_attention_weights=True)
    torch.testing.assert_close(out, conv(x, EDGES))
    assert edge_index is EDGES
    assert alpha.shape == (NUM_EDGES, heads)
    assert (alpha > 0).all() and (alpha <= 1).all()
    total = torch.zeros(NUM_NODES, heads, dtype=alpha.dtype).index_add(0, EDGES[1], alpha)
    expected = torch.tensor([1.0, 1, 0, 1, 1, 1], dtype=alpha.dtype).view(-1, 1)
    torch.testing.assert_close(total, expected.expand(-1, heads))
    if attention is None:
        degree = torch.bincount(EDGES[1])[EDGES[1]]
        torch.testing.assert_close(alpha, (1.0 / degree.double()).view(-1, 1).expand(-1, heads))


def test_rstg_conv_keeps_no_attention_weights():
    conv = make_conv()
    x, _ = make_inputs(conv)
    before = set(vars(conv))
    conv(x, EDGES, return_attention_weights=True)
    assert set(vars(conv)) == before
    assert not [name for name, value in vars(conv).items() if torch.is_tensor(value)]


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


@pytest.mark.parametrize("in_channels", [-1, (-1, -1), (4, -1), (-1, 4)])
@pytest.mark.parametrize("attention", ["dot", "additive", None])
def test_rstg_conv_lazy(attention, in_channels):
    kwargs = dict(attention=attention, residual=True, num_node_types=2)
    x = torch.randn(NUM_NODES, 4)
    types = TYPES % 2
    lazy = RSTGConv(in_channels, 8, **kwargs)
    uninitialised = copy.deepcopy(lazy)
    out = lazy(x, EDGES, node_type=types)
    assert out.shape == (NUM_NODES, 8)

    state = lazy.state_dict()
    eager = RSTGConv(4, 8, **kwargs)
    assert {k: v.shape for k, v in eager.state_dict().items()} == {k: v.shape for k, v in state.items()}
    eager.load_state_dict(state)
    torch.testing.assert_close(eager(x, EDGES, node_type=types), out)
    uninitialised.load_state_dict(state)
    torch.testing.assert_close(uninitialised(x, EDGES, node_type=types), out)
    RSTGConv(in_channels, 8, **kwargs).state_dict()  # before the first input


def test_rstg_conv_lazy_bipartite():
    conv = RSTGConv((-1, -1), 8)
    edge_index = torch.tensor([[0, 3, 2, 1], [0, 0, 1, 1]])
    assert conv((torch.randn(4, 5), torch.randn(2, 7)), edge_index).shape == (2, 8)
    assert conv.send.lin_src.in_channels == 5
    assert conv.send.lin_dst.in_channels == 7
    with pytest.raises(ValueError, match=r"source features 'x' to have 5 channels \(got 4\)"):
        conv((torch.randn(4, 4), torch.randn(2, 7)), edge_index)


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


def test_rstg_conv_dropout_only_in_training():
    torch.manual_seed(0)
    conv = make_conv(dropout=0.5)
    plain = make_conv(dropout=0.0)
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


@pytest.mark.parametrize(
    "attention, heads, lead",
    [("dot", 1, ()), ("dot", 2, (2,)), ("additive", 2, ()), (None, 1, (2,))],
)
def test_rstg_conv_gradcheck(attention, heads, lead):
    conv = make_conv(
        2, 2, hidden_channels=4, attention=attention, heads=heads, pos_channels=1,
        num_node_types=2, edge_dim=2, residual=True, act_last=False,
    )  # fmt: skip
    edges = torch.tensor([[1, 2, 0, 2], [0, 0, 1, 1]])
    x, kwargs = make_inputs(conv, *lead, weight=attention is not None, nodes=3, edges=4)
    node_type = kwargs.pop("node_type")
    names = [name for name, _ in conv.named_parameters()]

    def call(x, *tensors):
        inputs = dict(zip(kwargs, tensors), node_type=node_type)
        parameters = dict(zip(names, tensors[len(kwargs) :]))
        return torch.func.functional_call(conv, parameters, (x, edges), inputs)

    tensors = [x, *kwargs.values(), *conv.parameters()]
    tensors = [t.detach().clone().requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(call, tensors)
    call(*tensors).square().sum().backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in tensors)
    moved = [t.grad.abs().sum() > 0 for t in tensors]
    assert sum(moved) >= len(moved) - 2  # a layer may by chance be switched off by its ReLU


@pytest.mark.parametrize("attention", ["dot", "additive"])
def test_rstg_conv_gradgradcheck(attention):
    conv = make_conv(2, 2, attention=attention, act_last=False)
    edges = torch.tensor([[1, 2, 0, 2], [0, 0, 1, 1]])
    x = make_inputs(conv, nodes=3)[0].requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: conv(x, edges), x)
    edge_index = EdgeIndex(edges, sparse_size=(3, 3), sort_order="col")
    assert torch.autograd.gradgradcheck(lambda x: conv(x, edge_index), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half, torch.float, torch.double])
@pytest.mark.parametrize("lead", [(), (2,)])
@pytest.mark.parametrize("attention", ["dot", "additive", None])
def test_rstg_conv_dtype(attention, lead, dtype):
    conv = make_conv(attention=attention, heads=2, **OPTIONS["all"])
    x, kwargs = make_inputs(conv, *lead)
    expected = conv(x, EDGES, **kwargs)
    kwargs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in kwargs.items()}
    conv = conv.to(dtype)
    out, (_, alpha) = conv(x.to(dtype), EDGES, return_attention_weights=True, **kwargs)
    assert out.dtype == alpha.dtype == dtype
    tolerance = {torch.bfloat16: 0.1, torch.half: 0.02, torch.float: 1e-5, torch.double: 0}[dtype]
    torch.testing.assert_close(
        out.double(), expected, rtol=tolerance, atol=tolerance * expected.abs().max().item()
    )


@pytest.mark.parametrize("attention", ["dot", None])
def test_rstg_conv_autocast(attention):
    conv = make_conv(attention=attention, dtype=torch.float)
    x, _ = make_inputs(conv, 2, dtype=torch.float)
    expected = conv(x, EDGES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = conv(x, EDGES)
    torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.1 * expected.abs().max().item())


def test_rstg_conv_copies_and_pickles():
    conv = make_conv(heads=2, **OPTIONS["all"])
    x, kwargs = make_inputs(conv)
    expected = conv(x, EDGES, **kwargs)
    for other in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert other is not conv
        torch.testing.assert_close(other(x, EDGES, **kwargs), expected)
        with torch.no_grad():
            for p in other.parameters():
                p.zero_()
        assert other(x, EDGES, **kwargs).abs().sum() == 0
    torch.testing.assert_close(conv(x, EDGES, **kwargs), expected)


@pytest.mark.parametrize("lead", [(), (2,)])
@pytest.mark.parametrize("attention, options", [("dot", "all"), ("additive", "plain"), (None, "plain")])
def test_rstg_conv_compiles_without_graph_break(attention, options, lead):
    torch._dynamo.reset()
    conv = make_conv(attention=attention, heads=2, **OPTIONS[options])
    x, kwargs = make_inputs(conv, *lead)
    compiled = torch.compile(conv, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, EDGES, **kwargs), conv(x, EDGES, **kwargs))


class Net(torch.nn.Module):
    def __init__(self, **kwargs):
        super().__init__()
        self.conv = RSTGConv(4, 8, **kwargs)
        self.lin = torch.nn.Linear(8, 3)

    def forward(self, x, edge_index):
        return self.lin(self.conv(x, edge_index))


def explain(model, algorithm, x, edge_index):
    explainer = Explainer(
        model=model,
        algorithm=algorithm,
        explanation_type="model",
        edge_mask_type="object",
        model_config={
            "mode": "multiclass_classification",
            "task_level": "node",
            "return_type": "raw",
        },
    )
    return explainer(x, edge_index).edge_mask


@pytest.mark.parametrize("attention", ["dot", "additive", None])
@pytest.mark.parametrize("heads", [1, 2])
def test_rstg_conv_attention_explainer(heads, attention):
    torch.manual_seed(0)
    model = Net(attention=attention, heads=heads).eval()
    x = torch.randn(NUM_NODES, 4)
    mask = explain(model, AttentionExplainer(reduce="mean"), x, EDGES)
    _, (_, alpha) = model.conv(x, EDGES, return_attention_weights=True)
    assert mask.shape == (NUM_EDGES,)
    torch.testing.assert_close(mask, alpha.mean(dim=-1))
    perm = torch.arange(NUM_EDGES).flip(0)
    permuted = explain(model, AttentionExplainer(reduce="mean"), x, EDGES[:, perm])
    torch.testing.assert_close(permuted, mask[perm])


def test_rstg_conv_gnn_explainer():
    torch.manual_seed(0)
    model = Net(heads=2).eval()
    x = torch.randn(NUM_NODES, 4)
    expected = model(x, EDGES)
    mask = explain(model, GNNExplainer(epochs=3), x, EDGES)
    assert mask.shape == (NUM_EDGES,)
    assert (mask >= 0).all() and (mask <= 1).all() and mask.max() > 0
    torch.testing.assert_close(model(x, EDGES), expected)  # the model is as before


def test_rstg_conv_message_hook():
    conv = make_conv()
    x, _ = make_inputs(conv)
    seen = []
    handle = conv.register_message_forward_hook(lambda module, inputs, out: seen.append(out.shape))
    conv(x, EDGES)
    handle.remove()
    conv(x, EDGES)
    assert seen == [(NUM_EDGES, 8)]


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


def test_rstg_conv_in_sequential():
    conv, lin = RSTGConv(4, 8, edge_dim=2), Linear(8, 3)
    layers = [(conv, "x, edge_index, edge_attr -> x"), (lin, "x -> x")]
    model = Sequential("x, edge_index, edge_attr", layers)
    x, edge_attr = torch.randn(NUM_NODES, 4), torch.randn(NUM_EDGES, 2)
    torch.testing.assert_close(model(x, EDGES, edge_attr), lin(conv(x, EDGES, edge_attr)))


def test_rstg_conv_to_hetero():
    class GNN(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = RSTGConv((-1, -1), 8)

        def forward(self, x, edge_index):
            return self.conv(x, edge_index)

    relations = [("p", "a", "r"), ("r", "b", "p")]
    model = to_hetero(GNN(), (["p", "r"], relations))
    x = {"p": torch.randn(4, 5), "r": torch.randn(3, 7)}
    edges = {relations[0]: torch.tensor([[0, 1, 3], [0, 2, 2]]),
             relations[1]: torch.tensor([[2, 1], [0, 3]])}  # fmt: skip
    out = model(x, edges)
    assert {key: value.shape for key, value in out.items()} == {"p": (4, 8), "r": (3, 8)}
    conv = model.conv["p__a__r"]
    torch.testing.assert_close(out["r"], conv((x["p"], x["r"]), edges[relations[0]]))


def test_rstg_conv_reset_parameters():
    kwargs = dict(heads=2, norm=JointLayerNorm, after_aggr=torch.nn.LayerNorm, **OPTIONS["all"])
    conv = make_conv(**kwargs)
    before = {k: v.clone() for k, v in conv.state_dict().items()}
    torch.manual_seed(12)
    conv.reset_parameters()
    first = {k: v.clone() for k, v in conv.state_dict().items()}
    assert all(not torch.equal(before[k], first[k]) for k in before)
    conv.reset_parameters()
    assert any(not torch.equal(v, first[k]) for k, v in conv.state_dict().items())
    torch.manual_seed(12)
    conv.reset_parameters()
    assert all(torch.equal(v, first[k]) for k, v in conv.state_dict().items())
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
    conv = RSTGConv(c, o, hidden_channels=d, pos_channels=p)
    assert count(conv) == send + 2 * (c * d + d) + update
    conv = RSTGConv(c, o, hidden_channels=d, pos_channels=p, attention="additive")
    assert count(conv) == send + 2 * (c + 1) + update
    conv = RSTGConv(c, o, hidden_channels=d, pos_channels=p, attention=None, num_node_types=3)
    assert count(conv) == send + 3 * update
    conv = RSTGConv(c, o, hidden_channels=d, pos_channels=p, attention=None, residual=True, heads=2)
    assert count(conv) == send + update + c * o + (d * d + d)
    bias_free = RSTGConv(c, o, hidden_channels=d, bias=False, heads=2, edge_dim=2, residual=True)
    assert not [name for name, _ in bias_free.named_parameters() if "bias" in name]


# --- Norms ---------------------------------------------------------------------------------------


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


# --- Errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"decomposed_layers": 2}, "'RSTGConv' does not support 'decomposed_layers'"),
        ({"heads": 3}, r"'hidden_channels' \(got 8\) must be divisible by the number of heads "
                       r"\(got 3\)"),
        ({"attention": "cosine"}, "'attention' to be 'dot', 'additive' or None"),
        ({"num_send_layers": 0}, r"'num_send_layers' to be at least 1 \(got 0\)"),
        ({"num_update_layers": 0}, "'num_update_layers' to be at least 1"),
        ({"heads": 0}, "'heads' to be at least 1"),
        ({"hidden_channels": 0}, "'hidden_channels' to be at least 1"),
        ({"pos_channels": -1}, "'pos_channels' to be at least 0"),
        ({"num_node_types": 0}, "'num_node_types' to be at least 1"),
        ({"flow": "sideways"}, "Expected 'flow' to be either"),
    ],
)  # fmt: skip
def test_rstg_conv_constructor_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        RSTGConv(4, 8, **kwargs)


def test_rstg_conv_out_channels_error():
    with pytest.raises(ValueError, match="'out_channels' to be at least 1"):
        RSTGConv(4, 0, hidden_channels=4)
    assert RSTGConv(4, 8, decomposed_layers=1).decomposed_layers == 1


@pytest.mark.parametrize(
    "options, x, inputs, message",
    [
        ({}, (6, 5), {}, r"source features 'x' to have 4 channels \(got 5\)"),
        ({}, (2, 6, 3), {}, r"source features 'x' to have 4 channels \(got 3\)"),
        ({}, (4,), {}, r"'x' to have shape \[\*, num_nodes, channels\]"),
        ({}, (6, 4), {"pos": (6, 2)}, r"'pos' to have shape None \(got \(6, 2\)\)"),
        ({"pos_channels": 2}, (6, 4), {}, r"'pos' to have shape \(6, 2\) \(got None\)"),
        ({"pos_channels": 2}, (6, 4), {"pos": (6, 3)}, r"shape \(6, 2\) \(got \(6, 3\)\)"),
        ({"pos_channels": 2}, (6, 4), {"pos": (5, 2)}, r"shape \(6, 2\) \(got \(5, 2\)\)"),
        ({"pos_channels": 2}, (6, 4), {"pos": (1, 2)}, r"shape \(6, 2\) \(got \(1, 2\)\)"),
        ({}, (6, 4), {"edge_attr": (10, 3)}, r"'edge_attr' exactly if 'edge_dim' is set"),
        ({"edge_dim": 3}, (6, 4), {}, r"'edge_dim' is set \(got none, 'edge_dim' is 3\)"),
        ({"num_node_types": 3}, (6, 4), {}, r"'node_type' to give one of 3 types .*\(got none\)"),
        ({"attention": None}, (6, 4), {"edge_weight": (10,)}, "Expected no 'edge_weight'"),
    ],
)
def test_rstg_conv_input_errors(options, x, inputs, message):
    conv = RSTGConv(4, 8, **options)
    inputs = {key: torch.randn(shape) for key, shape in inputs.items()}
    with pytest.raises(ValueError, match=message):
        conv(torch.randn(x), EDGES, **inputs)


def test_rstg_conv_node_type_errors():
    conv = RSTGConv(4, 8, num_node_types=3)
    with pytest.raises(ValueError, match=r"for each of the 6 nodes \(got \[5\]\)"):
        conv(torch.randn(6, 4), EDGES, node_type=TYPES[:5])


def test_rstg_conv_node_type_out_of_range():
    # Not a smaller output with the nodes of unknown type left out.
    conv = RSTGConv(4, 8, num_node_types=2)
    for kind in (2, -1):
        with pytest.raises((ValueError, IndexError)):
            conv(torch.randn(6, 4), EDGES, node_type=torch.tensor([0, 1, 0, 1, 0, kind]))


@pytest.mark.parametrize("shape", [(10, 2), (9, 3), (1, 3), (10, 3, 1)])
def test_rstg_conv_edge_attr_shape_errors(shape):
    conv = RSTGConv(4, 8, edge_dim=3)
    with pytest.raises(ValueError, match="'edge_attr'"):
        conv(torch.randn(6, 4), EDGES, torch.randn(shape))


@pytest.mark.parametrize("shape", [(9,), (1,), (10, 1)])
def test_rstg_conv_edge_weight_shape_errors(shape):
    conv = RSTGConv(4, 8)
    with pytest.raises(ValueError, match="'edge_weight'"):
        conv(torch.randn(6, 4), EDGES, edge_weight=torch.randn(shape))


def test_rstg_conv_bipartite_errors():
    conv = RSTGConv((4, 6), 8)
    src, dst = torch.randn(6, 4), torch.randn(6, 6)
    for pair in [(src, None), (None, dst)]:
        with pytest.raises(ValueError, match="needs the features of source and target nodes"):
            conv(pair, EDGES)
    with pytest.raises(ValueError, match=r"target features 'x' to have 6 channels \(got 5\)"):
        conv((src, dst[:, :5]), EDGES)
    with pytest.raises(ValueError, match=r"equal in all leading dimensions \(got \[2, 6, 4\]"):
        conv((src.expand(2, 6, 4), dst), EDGES)
    with pytest.raises(ValueError, match="equal in all leading dimensions"):
        conv((src.expand(2, 6, 4), dst.expand(3, 6, 6)), EDGES)
    with pytest.raises(ValueError, match="'x' to have shape"):
        conv((src, dst[0]), EDGES)
    conv = RSTGConv((4, 6), 8, pos_channels=2)
    with pytest.raises(ValueError, match=r"'pos' to have shape \(3, 2\) \(got \(6, 2\)\)"):
        conv((src, dst[:3]), EDGES[:, :0], pos=torch.randn(6, 2))


def test_rstg_conv_sparse_static_error():
    conv = RSTGConv(4, 8)
    adj_t = to_torch_csc_tensor(EDGES, size=(6, 6)).t()
    with pytest.raises(ValueError, match="a tensor of shape .* and no 'batch' for the static"):
        conv(torch.randn(2, 6, 4), adj_t)
    with pytest.raises(ValueError, match="a tensor of shape .* and no 'batch' for the static"):
        conv(torch.randn(2, 6, 4), EDGES, batch=torch.zeros(6, dtype=torch.long))


@pytest.mark.parametrize("lead", [(), (2,)])
def test_rstg_conv_edge_index_errors(lead):
    conv = RSTGConv(4, 8)
    x = torch.randn(*lead, 6, 4)
    with pytest.raises(ValueError, match=r"of integer type \(got 'torch.float32'\)"):
        conv(x, EDGES.float())
    with pytest.raises(ValueError, match=r"to be two-dimensional \(got 1 dimensions\)"):
        conv(x, EDGES.view(-1))
    with pytest.raises(ValueError, match=r"size '2' in the first dimension \(got '10'\)"):
        conv(x, EDGES.t())
    with pytest.raises(IndexError, match=r"larger than 5 \(got 6\)"):
        conv(x, torch.tensor([[0, 6], [1, 2]]))
    with pytest.raises(IndexError, match=r"larger than 5 \(got 7\)"):
        conv(x, torch.tensor([[0, 1], [1, 7]]))
    with pytest.raises(IndexError, match=r"negative indices in 'edge_index' \(got -1\)"):
        conv(x, torch.tensor([[0, -1], [1, 2]]))


@pytest.mark.parametrize(
    "edges, message",
    [
        ([[0, 6], [1, 2]], r"larger than 5 \(got 6\)"),
        ([[0, 1], [1, 7]], r"larger than 5 \(got 7\)"),
        ([[0, -1], [1, 2]], r"negative indices in 'edge_index' \(got -1\)"),
        ([[0, 1], [1, -2]], r"negative indices in 'edge_index' \(got -2\)"),
    ],
)
@pytest.mark.parametrize("attention", ["dot", "additive", None])
def test_rstg_conv_missing_nodes(attention, edges, message):
    conv = RSTGConv(4, 8, attention=attention)
    with pytest.raises(IndexError, match=message):
        conv(torch.randn(6, 4), torch.tensor(edges))


def test_rstg_conv_sparse_with_reverse_flow_error():
    conv = RSTGConv(4, 8, flow="target_to_source")
    with pytest.raises(ValueError, match='Flow direction "target_to_source" is invalid'):
        conv(torch.randn(6, 4), to_torch_csc_tensor(EDGES, size=(6, 6)).t())
