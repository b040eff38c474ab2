import pytest
import torch
from torch_geometric.utils import to_dense_adj

from rstg_pyg import DenseRSTGConv, JointLayerNorm, RSTGConv
from rstg_pyg.graphs import multiscale_grid

pytestmark = pytest.mark.usefixtures("path")

OPTIONS = {
    "plain": {},
    "types": {"num_node_types": 3},
    "residual": {"residual": True, "act_last": False},
    "no_bias": {"bias": False, "attention_scale": 0.25, "num_send_layers": 3},
    "all": {
        "hidden_channels": 12,
        "pos_channels": 2,
        "num_node_types": 3,
        "edge_dim": 2,
        "residual": True,
        "attention_scale": 0.5,
    },
}


def make_twins(seed=0, **kwargs):
    """A sparse and a dense layer with the same random parameters (also biases)."""
    sparse, dense = RSTGConv(4, 8, **kwargs).double(), DenseRSTGConv(4, 8, **kwargs).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in sparse.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.double) * 0.5)
    dense.load_state_dict(sparse.state_dict())
    return sparse.eval(), dense.eval()


def random_adj(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(*shape, generator=generator) < 0.4).double()


def edges_of(adj):
    """Edges (sender, receiver) of a dense adjacency whose rows are the receivers."""
    target, source = adj.nonzero(as_tuple=True)
    return torch.stack([source, target])


def make_inputs(conv, nodes, *lead, weight=False):
    """Node inputs for both layers, and pair inputs [N, N, ...] for the dense one."""
    generator = torch.Generator().manual_seed(1)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.double)

    shared, pairs = {}, {}
    if conv.pos_channels > 0:
        shared["pos"] = randn(nodes, conv.pos_channels)
    if conv.num_node_types > 1:
        shared["node_type"] = torch.arange(nodes) % conv.num_node_types
    if conv.edge_dim is not None:
        pairs["edge_attr"] = randn(nodes, nodes, conv.edge_dim)
    if weight:
        pairs["edge_weight"] = randn(nodes, nodes)
    return randn(*lead, nodes, 4), shared, pairs


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("attention, heads", [("dot", 1), ("additive", 2), (None, 4)])
def test_dense_has_the_same_state_dict(attention, heads, options):
    kwargs = dict(attention=attention, heads=heads, norm=JointLayerNorm, **OPTIONS[options])
    kwargs["after_aggr"] = torch.nn.LayerNorm
    sparse, dense = RSTGConv(4, 8, **kwargs), DenseRSTGConv(4, 8, **kwargs)
    assert {k: v.shape for k, v in sparse.state_dict().items()} == {
        k: v.shape for k, v in dense.state_dict().items()
    }
    dense.load_state_dict(sparse.state_dict())
    sparse.load_state_dict(dense.state_dict())


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("attention", ["dot", "additive", None])
def test_dense_equals_sparse(attention, heads, options, lead):
    sparse, dense = make_twins(attention=attention, heads=heads, **OPTIONS[options])
    adj = random_adj(6, 6)
    adj[2] = 0  # nobody sends to node 2
    x, shared, pairs = make_inputs(sparse, 6, *lead, weight=attention is not None)
    edge_index = edges_of(adj)
    edges = {key: value[edge_index[1], edge_index[0]] for key, value in pairs.items()}
    expected, (_, alpha) = sparse(x, edge_index, return_attention_weights=True, **shared, **edges)
    out, dense_alpha = dense(x, adj, return_attention_weights=True, **shared, **pairs)
    torch.testing.assert_close(out, expected)
    assert dense_alpha.shape == (*lead, 6, 6, heads)
    torch.testing.assert_close(dense_alpha[..., edge_index[1], edge_index[0], :], alpha)
    assert dense_alpha[..., adj == 0, :].abs().max() == 0


def test_dense_equals_sparse_on_the_grid():
    grid = multiscale_grid((3, 2, 1))
    sparse, dense = make_twins(pos_channels=2, num_node_types=3, heads=2)
    x = torch.randn(2, 5, 14, 4, dtype=torch.double)
    kwargs = dict(pos=grid.pos.double(), node_type=grid.node_type)
    adj = to_dense_adj(grid.edge_index, max_num_nodes=14)[0]
    torch.testing.assert_close(dense(x, adj, **kwargs), sparse(x, grid.edge_index, **kwargs))


@pytest.mark.parametrize("attention", ["dot", "additive"])
def test_dense_complete_graph_with_edge_weights(attention):
    # The published code: all pairs, also a node with itself, and the adjacency as weights.
    grid = multiscale_grid((2, 1))
    sparse, dense = make_twins(attention=attention)
    weight = to_dense_adj(grid.edge_index, max_num_nodes=5)[0].double()
    x = torch.randn(3, 5, 4, dtype=torch.double)
    everybody = torch.ones(5, 5)
    out, alpha = dense(x, everybody, edge_weight=weight, return_attention_weights=True)
    expected = sparse(x, edges_of(everybody), edge_weight=weight.view(-1))
    torch.testing.assert_close(out, expected)
    assert (alpha > 0).all()  # non-neighbors keep exp(0) of the softmax
    assert not torch.allclose(out, dense(x, everybody))


@pytest.mark.parametrize("value", [1, 2.5, -1, True])
def test_dense_reads_only_zero_or_not(value):
    _, dense = make_twins()
    adj = random_adj(5, 5)
    x = torch.randn(2, 5, 4, dtype=torch.double)
    other = torch.full((5, 5), value).masked_fill(adj == 0, 0)
    torch.testing.assert_close(dense(x, other), dense(x, adj))


@pytest.mark.parametrize("attention", ["dot", "additive", None])
@pytest.mark.parametrize("heads", [1, 2])
def test_dense_batch_of_different_adjacencies(heads, attention):
    sparse, dense = make_twins(attention=attention, heads=heads, num_node_types=2)
    adj = random_adj(3, 5, 5)
    adj[1] = 0
    x, shared, _ = make_inputs(sparse, 5, 3)
    out, alpha = dense(x, adj, return_attention_weights=True, **shared)
    assert alpha.shape == (3, 5, 5, heads)
    for b in range(3):
        torch.testing.assert_close(out[b], sparse(x[b], edges_of(adj[b]), **shared))
        torch.testing.assert_close(out[b], dense(x[b], adj[b], **shared))


@pytest.mark.parametrize("attention", ["dot", "additive", None])
def test_dense_rows_without_neighbors(attention):
    sparse, dense = make_twins(attention=attention, heads=2)
    adj = random_adj(5, 5)
    adj[1] = adj[3] = 0
    x = torch.randn(2, 5, 4, dtype=torch.double, requires_grad=True)
    out, alpha = dense(x, adj, return_attention_weights=True)
    assert out.isfinite().all() and alpha.isfinite().all()
    assert alpha[:, [1, 3]].abs().max() == 0
    out.sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in dense.parameters() if p.grad is not None)

    nobody = torch.zeros(5, 5)
    torch.testing.assert_close(dense(x, nobody), sparse(x, edges_of(nobody)))


def test_dense_mask():
    _, dense = make_twins()
    adj = random_adj(3, 5, 5)
    x = torch.randn(3, 5, 4, dtype=torch.double)
    mask = torch.arange(5) < torch.tensor([5, 3, 1]).view(-1, 1)
    expected = dense(x, adj)
    out = dense(x, adj, mask)
    assert out.dtype == torch.double
    assert out[~mask].abs().max() == 0
    torch.testing.assert_close(out[mask], expected[mask])
    torch.testing.assert_close(dense(x, adj, mask=mask.float()), out)


def test_dense_padded_graphs_equal_their_own():
    # Padding nodes without edges, as from `to_dense_batch` and `to_dense_adj`.
    sparse, dense = make_twins(heads=2)
    sizes = [5, 3, 4]
    x = torch.randn(3, 5, 4, dtype=torch.double)
    adj = random_adj(3, 5, 5)
    mask = torch.arange(5) < torch.tensor(sizes).view(-1, 1)
    adj = adj * mask.unsqueeze(1) * mask.unsqueeze(2)
    out = dense(x, adj, mask)
    for b, size in enumerate(sizes):
        alone = sparse(x[b, :size], edges_of(adj[b, :size, :size]))
        torch.testing.assert_close(out[b, :size], alone)


@pytest.mark.parametrize("attention, heads", [("dot", 2), ("additive", 1), (None, 2)])
@pytest.mark.parametrize("options", ["plain", "all"])
def test_dense_gradients_equal_sparse(options, attention, heads):
    sparse, dense = make_twins(attention=attention, heads=heads, **OPTIONS[options])
    adj = random_adj(6, 6)
    adj[2] = 0
    x, shared, pairs = make_inputs(sparse, 6, 2, weight=attention is not None)
    edge_index = edges_of(adj)
    edges = {key: value[edge_index[1], edge_index[0]] for key, value in pairs.items()}
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    probe = torch.randn(2, 6, 8, dtype=torch.double)
    (sparse(a, edge_index, **shared, **edges) * probe).sum().backward()
    (dense(b, adj, **shared, **pairs) * probe).sum().backward()
    assert a.grad.abs().sum() > 0
    torch.testing.assert_close(b.grad, a.grad)
    for (name, p), q in zip(sparse.named_parameters(), dense.parameters()):
        if p.grad is None:
            assert q.grad is None or q.grad.abs().max() == 0, name
        else:
            torch.testing.assert_close(q.grad, p.grad, msg=lambda text, k=name: f"{k}: {text}")


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_dense_norms_equal_sparse(lead):
    sparse, dense = make_twins(norm=JointLayerNorm, after_aggr=JointLayerNorm, heads=2)
    adj = random_adj(6, 6)
    x, _, _ = make_inputs(sparse, 6, *lead)
    torch.testing.assert_close(dense(x, adj), sparse(x, edges_of(adj)))
    adj[:] = 1
    torch.testing.assert_close(dense(x, adj), sparse(x, edges_of(adj)))


def test_dense_dropout_only_in_training():
    torch.manual_seed(0)
    _, plain = make_twins()
    _, dense = make_twins(dropout=0.5)
    adj, x = torch.ones(6, 6), torch.randn(8, 6, 4, dtype=torch.double)
    torch.testing.assert_close(dense(x, adj), plain(x, adj))
    dense.train()
    out = dense(x, adj)
    assert not torch.allclose(out, plain(x, adj))
    assert not torch.allclose(dense(x, adj), out)


def test_dense_lazy():
    dense = DenseRSTGConv(-1, 8, residual=True)
    x, adj = torch.randn(2, 5, 4), torch.ones(5, 5)
    out = dense(x, adj)
    sparse = RSTGConv(4, 8, residual=False)
    assert out.shape == (2, 5, 8)
    missing = sparse.load_state_dict(dense.state_dict(), strict=False)
    assert missing.missing_keys == [] and missing.unexpected_keys == ["lin_res.weight"]


@pytest.mark.parametrize("edge_dim", [1, -1])
def test_dense_one_number_per_pair(edge_dim):
    """As RSTGConv takes one per edge; not taken for features of the receivers."""
    dense, x, attr = DenseRSTGConv(4, 8, edge_dim=edge_dim), torch.randn(5, 4), torch.randn(5, 5)
    adj = torch.ones(5, 5)
    torch.testing.assert_close(
        dense(x, adj, edge_attr=attr), dense(x, adj, edge_attr=attr.unsqueeze(-1))
    )
    assert dense.send.lin_edge.in_channels == 1


def test_dense_float_and_bfloat16():
    _, dense = make_twins(heads=2)
    adj = random_adj(5, 5)
    x = torch.randn(2, 5, 4, dtype=torch.double)
    expected = dense(x, adj)
    for dtype, tolerance in [(torch.float, 1e-5), (torch.bfloat16, 0.1)]:
        out = dense.to(dtype)(x.to(dtype), adj)
        assert out.dtype == dtype
        scale = expected.abs().max().item()
        torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance * scale)


def test_dense_reset_parameters():
    _, dense = make_twins(heads=2, norm=JointLayerNorm, **OPTIONS["all"])
    torch.manual_seed(5)
    dense.reset_parameters()
    first = {k: v.clone() for k, v in dense.state_dict().items()}
    dense.reset_parameters()
    assert any(not torch.equal(v, first[k]) for k, v in dense.state_dict().items())
    torch.manual_seed(5)
    dense.reset_parameters()
    assert all(torch.equal(v, first[k]) for k, v in dense.state_dict().items())


def test_dense_repr():
    assert str(DenseRSTGConv(4, 8)) == "DenseRSTGConv(4, 8, heads=1)"
    assert str(DenseRSTGConv(-1, 8, heads=4)) == "DenseRSTGConv(-1, 8, heads=4)"


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"heads": 3}, r"'hidden_channels' \(got 8\) must be divisible by the number of heads"),
        ({"attention": "cosine"}, "'attention' to be 'dot', 'additive' or None"),
        ({"num_send_layers": 0}, "'num_send_layers' to be at least 1"),
    ],
)
def test_dense_constructor_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DenseRSTGConv(4, 8, **kwargs)


@pytest.mark.parametrize(
    "options, x, adj, inputs, message",
    [
        ({}, (5, 3), (5, 5), {}, r"'x' to have 4 channels \(got 3\)"),
        ({}, (4,), (5, 5), {}, r"'x' to have shape \[\*, num_nodes, channels\]"),
        ({}, (5, 4), (5, 4), {}, r"'adj' to be a dense tensor of shape \[\*, 5, 5\] \(got \[5, 4\]\)"),
        ({}, (2, 5, 4), (2, 4, 4), {}, r"of shape \[\*, 5, 5\] \(got \[2, 4, 4\]\)"),
        ({}, (5, 4), (5, 5), {"pos": (5, 2)}, r"no 'pos' \(got \(5, 2\)\)"),
        ({"pos_channels": 2}, (5, 4), (5, 5), {}, r"'pos' to have shape \(5, 2\) \(got None\)"),
        ({"num_node_types": 3}, (5, 4), (5, 5), {}, "'node_type' to give one of 3 types"),
        ({"norm": JointLayerNorm}, (2, 5, 4), (2, 5, 5), {}, r"one adjacency \[N, N\]"),
    ],
)
def test_dense_input_errors(options, x, adj, inputs, message):
    dense = DenseRSTGConv(4, 8, **options)
    inputs = {key: torch.randn(shape) for key, shape in inputs.items()}
    with pytest.raises(ValueError, match=message):
        dense(torch.randn(x), torch.ones(adj), **inputs)


def test_dense_input_type_errors():
    dense, x, adj = DenseRSTGConv(4, 8), torch.randn(5, 4), torch.ones(5, 5)
    with pytest.raises(ValueError, match=r"'x' to be a tensor .* \(got 'ndarray'\)"):
        dense(x.numpy(), adj)
    with pytest.raises(ValueError, match=r"'adj' to be a dense tensor .* \(got ndarray\)"):
        dense(x, adj.numpy())
    with pytest.raises(ValueError, match=r"'adj' to be a dense tensor .* \(got torch.sparse_coo\)"):
        dense(x, adj.to_sparse())


def test_dense_compiles_with_node_types():
    torch._dynamo.reset()
    dense, x = DenseRSTGConv(4, 8, num_node_types=2), torch.randn(2, 3, 5, 4)
    inputs = dict(node_type=torch.tensor([0, 1, 1, 0, 1]))
    compiled = torch.compile(dense, fullgraph=True, backend="eager")
    adj = random_adj(5, 5)
    torch.testing.assert_close(compiled(x, adj, **inputs), dense(x, adj, **inputs))


# Inputs that the sparse layer refuses with a ValueError ("Raises: if sizes do not match").
@pytest.mark.parametrize(
    "options, inputs",
    [
        ({"pos_channels": 2}, {"pos": (1, 2)}),
        ({"pos_channels": 2}, {"pos": (5, 3)}),
        ({"edge_dim": 2}, {}),
        ({}, {"edge_attr": (5, 5, 2)}),
        ({"attention": None}, {"edge_weight": (5, 5)}),
        ({"num_node_types": 2}, {"node_type": (3,)}),
    ],
    ids=["pos_rows", "pos_channels", "no_edge_attr", "edge_attr", "edge_weight", "node_type"],
)
def test_dense_refuses_what_sparse_refuses(options, inputs):
    inputs = {key: torch.zeros(shape) for key, shape in inputs.items()}
    if "node_type" in inputs:
        inputs["node_type"] = inputs["node_type"].long()
    x, adj = torch.randn(5, 4), torch.ones(5, 5)
    edges = {k: v.flatten(0, 1) if k.startswith("edge") else v for k, v in inputs.items()}
    with pytest.raises(ValueError):
        RSTGConv(4, 8, **options)(x, edges_of(adj), **edges)
    with pytest.raises(ValueError):
        DenseRSTGConv(4, 8, **options)(x, adj, **inputs)
