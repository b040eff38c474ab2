"""Second derivatives, precisions, autocast, devices."""

import pytest
import torch
from helpers.conv_cases import EDGES, OPTIONS, make_conv, make_inputs
from torch_geometric import EdgeIndex
from torch_geometric.testing import withDevice


@pytest.mark.parametrize("attention", ["dot", "additive"])
def test_rstg_conv_gradgradcheck(attention):
    conv = make_conv(2, 2, attention=attention, act_last=False)
    edges = torch.tensor([[1, 2, 0, 2], [0, 0, 1, 1]])
    x = make_inputs(conv, nodes=3)[0].requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: conv(x, edges), x)
    edge_index = EdgeIndex(edges, sparse_size=(3, 3), sort_order="col")
    assert torch.autograd.gradgradcheck(lambda x: conv(x, edge_index), x)


@withDevice
@pytest.mark.parametrize("options", ["plain", "all"])
def test_rstg_conv_device(options, device):
    conv = make_conv(heads=2, **OPTIONS[options])
    x, kwargs = make_inputs(conv, 2)
    expected = conv(x, EDGES, **kwargs)
    kwargs = {name: value.to(device) for name, value in kwargs.items()}
    out = conv.to(device)(x.to(device), EDGES.to(device), **kwargs)
    assert out.device.type == torch.device(device).type
    torch.testing.assert_close(out.cpu(), expected)


TOLERANCE = {torch.bfloat16: 0.1, torch.half: 0.02, torch.float: 1e-5, torch.double: 0}


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("attention, lead", [("dot", (2,)), ("additive", ()), (None, (2,))])
def test_rstg_conv_dtype_and_autocast(attention, lead, dtype):
    conv = make_conv(attention=attention, heads=2, **OPTIONS["all"])
    x, kwargs = make_inputs(conv, *lead)
    expected = conv(x, EDGES, **kwargs)
    close = dict(rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * expected.abs().max().item())
    kwargs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in kwargs.items()}
    out, (_, alpha) = conv.to(dtype)(x.to(dtype), EDGES, return_attention_weights=True, **kwargs)
    assert out.dtype == alpha.dtype == dtype
    torch.testing.assert_close(out.double(), expected, **close)
    if dtype in (torch.bfloat16, torch.half):
        conv = make_conv(attention=attention, heads=2, dtype=torch.float, **OPTIONS["all"])
        kwargs = {k: v.float() if v.is_floating_point() else v for k, v in kwargs.items()}
        with torch.autocast("cpu", dtype=dtype):
            out = conv(x.float(), EDGES, **kwargs)
        torch.testing.assert_close(out.double(), expected, **close)
