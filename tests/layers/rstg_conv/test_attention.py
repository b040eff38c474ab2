"""Attention coefficients: dropout; nothing of them stays in the layer."""

import pytest
import torch
from helpers.conv_cases import EDGES, make_conv, make_inputs


@pytest.mark.usefixtures("path")
def test_rstg_conv_keeps_no_attention_weights():
    conv = make_conv()
    x, _ = make_inputs(conv)
    before = set(vars(conv))
    conv(x, EDGES, return_attention_weights=True)
    assert set(vars(conv)) == before
    assert not [name for name, value in vars(conv).items() if torch.is_tensor(value)]


@pytest.mark.usefixtures("path")
def test_rstg_conv_dropout_only_in_training():
    torch.manual_seed(0)
    conv, plain = make_conv(dropout=0.5), make_conv(dropout=0.0)
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
