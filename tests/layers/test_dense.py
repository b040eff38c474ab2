"""What only the dense layer has; its numbers are in ``test_oracle.py`` and ``test_norms.py``."""

import pytest
import torch
from helpers.conv_cases import OPTIONS, TYPES, make_conv
from helpers.random_weights import draw

from rstg_pyg import DenseRSTGConv, JointLayerNorm, RSTGConv


def make_twins(**kwargs):
    """A sparse and a dense layer with the same random parameters (also biases)."""
    sparse, dense = make_conv(**kwargs), DenseRSTGConv(4, 8, **kwargs).double().eval()
    dense.load_state_dict(sparse.state_dict())
    return sparse, dense


def random_adj(*shape):
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(0)) < 0.4).double()


@pytest.mark.parametrize("value", [1, 2.5, -1, True])
def test_dense_reads_only_zero_or_not(value):
    _, dense = make_twins()
    adj, x = random_adj(5, 5), draw(2, 5, 4)
    other = torch.full((5, 5), value).masked_fill(adj == 0, 0)
    torch.testing.assert_close(dense(x, other), dense(x, adj))


@pytest.mark.parametrize("attention", ["dot", "additive", None])
def test_dense_batch_of_different_graphs_and_rows_without_neighbors(attention):
    """Padding nodes without edges, as from `to_dense_batch` and `to_dense_adj`."""
    sparse, dense = make_twins(attention=attention, heads=2, num_node_types=3)
    sizes, types = torch.tensor([5, 3, 4]), TYPES[:5]
    mask = torch.arange(5) < sizes.view(-1, 1)
    adj, x = random_adj(3, 5, 5) * mask.unsqueeze(1) * mask.unsqueeze(2), draw(3, 5, 4).requires_grad_()
    adj[1] = adj[0, 2] = 0
    out, alpha = dense(x, adj, mask, return_attention_weights=True, node_type=types)
    assert out.dtype == torch.double and (out[~mask] == 0).all()
    torch.testing.assert_close(dense(x, adj, mask=mask.float(), node_type=types), out)
    assert alpha.shape == (3, 5, 5, 2) and alpha[1].abs().max() == alpha[0, 2].abs().max() == 0
    for b, n in enumerate(sizes):
        target, source = adj[b, :n, :n].nonzero(as_tuple=True)
        alone = sparse(x[b, :n], torch.stack([source, target]), node_type=types[:n])
        torch.testing.assert_close(out[b, :n], alone)
    torch.testing.assert_close(dense(x, adj, node_type=types)[mask], out[mask])
    out.sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in dense.parameters() if p.grad is not None)


def test_dense_adjacency_and_mask_of_every_clip():
    """Also where there are as many frames as clips."""
    _, dense = make_twins()
    x, adj, mask = draw(3, 3, 6, 4), random_adj(3, 6, 6), torch.rand(3, 6) < 0.7
    out = dense(x, adj, mask)
    for i in range(3):
        torch.testing.assert_close(out[i], dense(x[i], adj[i], mask[i].expand(3, 6)))
    every = random_adj(3, 3, 6, 6)
    torch.testing.assert_close(dense(x, every)[1, 2], dense(x[1, 2], every[1, 2]))


def test_dense_dropout_only_in_training():
    torch.manual_seed(0)
    (_, plain), (_, dense) = make_twins(), make_twins(dropout=0.5)
    adj, x = torch.ones(6, 6), draw(8, 6, 4)
    torch.testing.assert_close(dense(x, adj), plain(x, adj))
    out = dense.train()(x, adj)
    assert not torch.allclose(out, plain(x, adj))
    assert not torch.allclose(dense(x, adj), out)


def test_dense_lazy():
    dense = DenseRSTGConv(-1, 8, residual=True)
    assert dense(torch.randn(2, 5, 4), torch.ones(5, 5)).shape == (2, 5, 8)
    missing = RSTGConv(4, 8, residual=False).load_state_dict(dense.state_dict(), strict=False)
    assert missing.missing_keys == [] and missing.unexpected_keys == ["lin_res.weight"]


@pytest.mark.parametrize("edge_dim", [1, -1])
def test_dense_one_number_per_pair(edge_dim):
    """As RSTGConv takes one per edge; not taken for features of the receivers."""
    dense, x, attr = DenseRSTGConv(4, 8, edge_dim=edge_dim), torch.randn(5, 4), torch.randn(5, 5)
    out = dense(x, torch.ones(5, 5), edge_attr=attr)
    torch.testing.assert_close(out, dense(x, torch.ones(5, 5), edge_attr=attr.unsqueeze(-1)))
    assert dense.send.lin_edge.in_channels == 1


def test_dense_float_and_bfloat16():
    _, dense = make_twins(heads=2)
    adj, x = random_adj(5, 5), draw(2, 5, 4)
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


NODES = torch.ones(5, 4)


@pytest.mark.parametrize(
    "options, x, adj, inputs, message",
    [
        ({}, (5, 3), (5, 5), {}, r"'x' to have 4 channels \(got 3\)"),
        ({}, (4,), (5, 5), {}, r"'x' to have shape \[\*, num_nodes, channels\]"),
        ({}, NODES.numpy(), (5, 5), {}, r"'x' to be a tensor .* \(got 'ndarray'\)"),
        ({}, (5, 4), (5, 4), {}, r"'adj' to be a dense tensor of shape \[\*, 5, 5\] \(got \[5, 4\]\)"),
        ({}, (2, 5, 4), (2, 4, 4), {}, r"of shape \[\*, 5, 5\] \(got \[2, 4, 4\]\)"),
        ({}, (2, 3, 5, 4), (3, 5, 5), {}, r"\* is nothing, \[2\] or \[2, 3\]"),
        ({}, (2, 5, 4), (2, 5, 5), {"mask": (3, 5)}, r"'mask' .* of shape \[\*, 5\] \(got \[3, 5\]\)"),
        ({}, (5, 4), NODES.numpy(), {}, r"'adj' to be a dense tensor .* \(got ndarray\)"),
        ({}, (5, 4), torch.eye(5).to_sparse(), {}, r"a dense tensor .* \(got torch.sparse_coo\)"),
        ({}, (5, 4), (5, 5), {"pos": (5, 2)}, r"no 'pos' \(got \(5, 2\)\)"),
        ({"pos_channels": 2}, (5, 4), (5, 5), {}, r"'pos' to have shape \(5, 2\) \(got None\)"),
        ({"num_node_types": 3}, (5, 4), (5, 5), {}, "'node_type' to give one of 3 types"),
    ],
)
def test_dense_input_errors(options, x, adj, inputs, message):
    inputs = {key: torch.randn(shape) for key, shape in inputs.items()}
    x, adj = (torch.ones(value) if isinstance(value, tuple) else value for value in (x, adj))
    with pytest.raises(ValueError, match=message):
        DenseRSTGConv(4, 8, **options)(x, adj, **inputs)


@pytest.mark.usefixtures("fresh_compiler")
def test_dense_compiles_with_node_types():
    dense, x = DenseRSTGConv(4, 8, num_node_types=3), torch.randn(2, 3, 5, 4)
    compiled = torch.compile(dense, fullgraph=True, backend="eager")
    adj = random_adj(5, 5)
    torch.testing.assert_close(
        compiled(x, adj, node_type=TYPES[:5]), dense(x, adj, node_type=TYPES[:5])
    )


def test_dense_has_the_same_state_dict():
    kwargs = dict(heads=2, norm=JointLayerNorm, after_aggr=torch.nn.LayerNorm, **OPTIONS["all"])
    sparse, dense = RSTGConv(4, 8, **kwargs), DenseRSTGConv(4, 8, **kwargs)
    dense.load_state_dict(sparse.state_dict())
    sparse.load_state_dict(dense.state_dict())
