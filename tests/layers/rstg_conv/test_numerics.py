"""Derivatives, precisions, autocast, devices."""

import pytest
import torch
from helpers.conv_cases import EDGES, OPTIONS, make_conv, make_inputs
from torch_geometric import EdgeIndex
from torch_geometric.testing import withDevice


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
