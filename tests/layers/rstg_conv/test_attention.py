"""Attention coefficients: their order, their sum, dropout; nothing of them stays in the layer."""

import pytest
import torch
from helpers.conv_cases import EDGES, NUM_NODES, make_conv, make_inputs, sparse_adjacencies

pytestmark = pytest.mark.usefixtures("path")


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


def test_rstg_conv_keeps_no_attention_weights():
    conv = make_conv()
    x, _ = make_inputs(conv)
    before = set(vars(conv))
    conv(x, EDGES, return_attention_weights=True)
    assert set(vars(conv)) == before
    assert not [name for name, value in vars(conv).items() if torch.is_tensor(value)]


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
