import pytest
import torch

from rstg_pyg import DenseRSTGConv, JointLayerNorm, RSTGConv

OPTIONS = {
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


@pytest.mark.parametrize("value", [1, 2.5, -1, True])
def test_dense_reads_only_zero_or_not(value):
    _, dense = make_twins()
    adj = random_adj(5, 5)
    x = torch.randn(2, 5, 4, dtype=torch.double)
    other = torch.full((5, 5), value).masked_fill(adj == 0, 0)
    torch.testing.assert_close(dense(x, other), dense(x, adj))


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


def test_dense_repr():
    assert str(DenseRSTGConv(-1, 8, heads=4)) == "DenseRSTGConv(-1, 8, hidden_channels=32, heads=4)"
    paper = DenseRSTGConv(4, 8, form="paper")
    assert str(paper) == "DenseRSTGConv(4, 8, hidden_channels=8, heads=1, form='paper')"


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


def test_dense_has_the_same_state_dict():
    kwargs = dict(heads=2, norm=JointLayerNorm, after_aggr=torch.nn.LayerNorm, **OPTIONS["all"])
    sparse, dense = RSTGConv(4, 8, **kwargs), DenseRSTGConv(4, 8, **kwargs)
    dense.load_state_dict(sparse.state_dict())
    sparse.load_state_dict(dense.state_dict())


@pytest.mark.parametrize("attention", ["dot", "additive", None])
def test_dense_batch_of_different_adjacencies_and_rows_without_neighbors(attention):
    sparse, dense = make_twins(attention=attention, heads=2, num_node_types=2)
    adj, types = random_adj(3, 5, 5), torch.tensor([0, 1, 1, 0, 1])
    adj[1] = adj[0, 2] = 0
    x = torch.randn(3, 5, 4, dtype=torch.double, requires_grad=True)
    out, alpha = dense(x, adj, return_attention_weights=True, node_type=types)
    assert alpha.shape == (3, 5, 5, 2) and alpha[1].abs().max() == alpha[0, 2].abs().max() == 0
    for b in range(3):
        torch.testing.assert_close(out[b], sparse(x[b], edges_of(adj[b]), node_type=types))
    out.sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in dense.parameters() if p.grad is not None)
