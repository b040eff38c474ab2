"""The published form as arguments of the ordinary layers."""

import pytest
import torch
from helpers.random_weights import draw, randomize

from rstg_pyg import ChannelBatchNorm, JointLayerNorm, RSTGBlock, ZeroInitNorm, published_arguments
from rstg_pyg.published import BiasReLU


def test_bias_relu():
    module = randomize(BiasReLU(4))
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(module(x), (x + module.bias).clamp(min=0))
    module.reset_parameters()
    assert module.bias.tolist() == [0.0] * 4 and module.norm is None
    torch.testing.assert_close(module(x), x.relu())
    assert [name for name, _ in module.named_parameters()] == ["bias"]


def test_bias_relu_with_a_norm():
    """The norm comes after the bias and before the ReLU."""
    module = randomize(BiasReLU(4, norm=JointLayerNorm).double())
    x = draw(2, 3, 4).requires_grad_()
    torch.testing.assert_close(module(x), module.norm(x + module.bias).relu())
    assert not torch.allclose(module(x), (module.norm(x) + module.bias).relu())
    assert torch.autograd.gradcheck(module, x)
    module(x).sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())
    module.reset_parameters()
    assert module.norm.weight.tolist() == [1.0] * 4
    assert module.bias.abs().max() == module.norm.bias.abs().max() == 0


@pytest.mark.parametrize("key", ["norm", "out_norm"])
def test_errors(key):
    for value in ("LN", "instance", "", 3):
        message = rf"'{key}' to be 'layer', 'batch' or None \(got {value!r}\)"
        with pytest.raises(ValueError, match=message):
            published_arguments(**{key: value})


def test_an_unknown_attention_is_an_error_of_the_layer():
    with pytest.raises(ValueError, match="'attention' to be 'dot', 'additive' or None"):
        RSTGBlock(4, **published_arguments("simple"))
    with pytest.raises(ValueError, match="'attention' to be set .* with 'topology'='complete'"):
        RSTGBlock(4, **published_arguments(None))


@pytest.mark.parametrize("attention", ["dot", "additive"])
@pytest.mark.parametrize("norm", ["layer", "batch", None])
@pytest.mark.parametrize("first", [True, False])
def test_where_the_norms_are(attention, norm, first):
    block = RSTGBlock(4, **published_arguments(attention, norm, first_batch_norm=first))
    kind = {"layer": JointLayerNorm, "batch": ChannelBatchNorm}.get(norm)
    before = [type(module) for module in block.rstg.in_norm] if block.rstg.in_norm is not None else []
    assert before == [ChannelBatchNorm] * first + ([] if kind is None else [kind])
    conv = block.rstg.convs[0]
    inside = [conv.message_norm, conv.update_norm]
    assert [n if n is None else type(n.module) for n in inside] == [kind, kind]
    assert isinstance(conv.after_aggr.module, BiasReLU)
    after = conv.after_aggr.module.norm
    assert (after is None) == (norm is None or attention == "dot")
    assert after is None or isinstance(after, kind)
    assert block.norm is None and block.topology == "complete"
    if norm == "layer":
        # All frames before the graph, then frame by frame.
        assert block.rstg.in_norm[-1].num_joint_dims == 3
        assert conv.message_norm.module.num_joint_dims == 2
    if norm == "batch":
        unbiased = [block.rstg.in_norm[-1], conv.message_norm.module, conv.update_norm.module]
        assert [n.unbiased for n in unbiased] == [True, True, False]  # four dimensions, or three
        assert [n.num_joint_dims for n in unbiased] == [None, 3, 3]


@pytest.mark.parametrize("to", ["map", "vec"])
@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_the_norm_after_the_graph_starts_at_zero(norm, to):
    torch.manual_seed(0)  # with few channels all of them may be below zero, and have no gradient
    block = RSTGBlock(4, scales=(2, 1), to=to, **published_arguments(out_norm=norm))
    assert isinstance(block.norm, ZeroInitNorm if norm == "layer" else ChannelBatchNorm)
    x = torch.randn(3, 4, 2, 4, 4)
    assert block(x).abs().max() == 0
    (block(x) * torch.randn_like(block(x))).sum().backward()
    gain = block.norm.scale if norm == "layer" else block.norm.weight
    assert gain.grad.abs().max() > 0
    if norm == "batch":  # a map has five dimensions, a vector two: the biased variance
        seen = []
        block.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        block.norm.reset_running_stats()
        block(x)
        variance = seen[0].transpose(0, 1).flatten(1).var(1, correction=0)
        torch.testing.assert_close(block.norm.running_var, 0.99 + 0.01 * variance, rtol=1e-7, atol=1e-7)
    torch.nn.init.ones_(gain)
    block.eval()
    assert block(x).shape == ((3, 4, 2, 4, 4) if to == "map" else (3, 4)) and block(x).abs().max() > 0


@pytest.mark.parametrize("norm", ["layer", "batch", None])
def test_pairs_that_are_no_neighbors_take_part(norm):
    """Logit zero, not minus infinity: every node hears every other, itself included."""
    torch.manual_seed(0)
    block = RSTGBlock(4, scales=(3, 1), to="vec", **published_arguments("dot", norm)).double().eval()
    conv, x = block.rstg.convs[0], torch.randn(10, 4, dtype=torch.double)
    pos = block.pos.double()
    _, (_, alpha) = conv(
        x, block.edge_index, pos=pos, edge_weight=block.edge_weight, return_attention_weights=True
    )
    alpha, joined = alpha.view(10, 10), block.edge_weight.view(10, 10) > 0
    assert alpha.min() > 0
    torch.testing.assert_close(alpha.sum(1), torch.ones(10, dtype=torch.double))
    for i in range(10):  # all pairs that are not joined weigh the same
        other = alpha[i][~joined[i]]
        torch.testing.assert_close(other, other[:1].expand_as(other))


def test_in_training_every_frame_is_a_call_of_its_own():
    """K rounds over T frames push K * T updates into the running statistics."""
    arguments = published_arguments("additive", "batch", first_batch_norm=True)
    block = RSTGBlock(4, scales=(2, 1), to="vec", num_rounds=3, **arguments)
    block(torch.randn(2, 4, 5, 4, 4))
    conv = block.rstg.convs[0]
    inside = (conv.message_norm.module, conv.update_norm.module, conv.after_aggr.module.norm)
    assert [int(n.num_batches_tracked) for n in inside] == [15, 15, 15]
    assert [int(n.num_batches_tracked) for n in block.rstg.in_norm] == [1, 1]
    block.eval()(torch.randn(2, 4, 5, 4, 4))
    assert int(inside[0].num_batches_tracked) == 15


def test_reset_parameters_reaches_everything():
    arguments = published_arguments("additive", "batch", first_batch_norm=True, out_norm="batch")
    block = RSTGBlock(4, 6, scales=(2, 1), **arguments)
    for tensor in block.state_dict().values():
        tensor.fill_(3)
    block.reset_parameters()
    for name, tensor in block.state_dict().items():
        zero = name.endswith(("bias", "running_mean", "num_batches_tracked")) or "bias_" in name
        if zero or name == "norm.weight":
            assert tensor.abs().max() == 0, name
        elif name.endswith("running_var") or ("norm" in name and name.endswith("weight")):
            assert (tensor == 1).all(), name
        else:
            assert (tensor != 3).all(), name
