import numpy as np
import pytest
import torch
from helpers.random_weights import draw, randomize
from hypothesis import given, settings
from hypothesis import strategies as st

from rstg_pyg import ChannelBatchNorm, JointLayerNorm, ZeroInitNorm
from rstg_pyg.fast.messages import weighted_messages
from rstg_pyg.fast.space import _normalized

SEEDS = st.integers(0, 1000)


def joint_norm(x, axes, weight, bias, eps=1e-12):
    mean = x.mean(axis=axes, keepdims=True)
    var = ((x - mean) ** 2).mean(axis=axes, keepdims=True)
    return (x - mean) / np.sqrt(var + eps) * weight + bias


def numbers(seed, *shape):
    return np.random.default_rng(seed).normal(2.0, 3.0, size=shape)


@settings(max_examples=50, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=4), dims=st.integers(1, 3),
    eps=st.sampled_from([1e-12, 0.1]), seed=SEEDS,
)  # fmt: skip
def test_joint_layer_norm_against_numpy(shape, dims, eps, seed):
    dims = min(dims, len(shape))
    norm = randomize(JointLayerNorm(shape[-1], num_joint_dims=dims, eps=eps).double())
    x, weight, bias = numbers(seed, *shape), norm.weight.detach().numpy(), norm.bias.detach().numpy()
    if np.prod(shape[-dims:]) == 1:  # a single number is normed away
        expected = np.broadcast_to(bias, shape)
    else:
        expected = joint_norm(x, tuple(range(-dims, 0)), weight, bias, eps)
    np.testing.assert_allclose(norm(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-10)


@settings(max_examples=50, deadline=None)
@given(graphs=st.lists(st.integers(0, 4), min_size=1, max_size=12), more=st.integers(0, 2), seed=SEEDS)
def test_joint_layer_norm_with_batch_against_numpy(graphs, more, seed):
    """Of rows in any order, with graphs that have no row among them."""
    norm, batch = randomize(JointLayerNorm(4).double()), np.array(graphs)
    weight, bias = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    x = numbers(seed, len(batch), 4) * (1 + batch[:, None])
    expected = np.empty_like(x)
    for graph in set(graphs):
        rows = batch == graph
        expected[rows] = joint_norm(x[rows], (0, 1), weight, bias)
    size = int(batch.max()) + 1 + more if more else None
    out = norm(torch.from_numpy(x), torch.from_numpy(batch), batch_size=size)
    np.testing.assert_allclose(out.detach().numpy(), expected, atol=1e-10)


@settings(max_examples=50, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), channel_dim=st.integers(-1, 2),
    joint=st.sampled_from([None, 2, 3]), unbiased=st.booleans(), seed=SEEDS,
)  # fmt: skip
def test_channel_batch_norm_is_batch_norm_call_after_call(shape, channel_dim, joint, unbiased, seed):
    """Leading dimensions are calls of their own, one after the other, as a loop of batch norms."""
    shape, channel_dim = [*shape, 4], min(channel_dim, len(shape))
    norm = ChannelBatchNorm(4, num_joint_dims=joint, unbiased=unbiased, channel_dim=channel_dim)
    loop = torch.nn.BatchNorm1d(4, eps=1e-3, momentum=0.01).double()
    randomize(norm.double())
    loop.load_state_dict(norm.state_dict())
    var, count = norm.running_var.clone(), 0
    for step in range(2):
        x = torch.from_numpy(numbers(seed + step, *shape)) * (1 + step)
        kept = len(shape) if joint is None else min(joint, len(shape))
        calls, outs = x.reshape(-1, int(np.prod(shape[len(shape) - kept : -1])), 4), []
        for call in calls:
            one = call.size(0) == 1  # which torch refuses; its variance is zero
            outs.append(loop.bias.expand_as(call) if one else loop(call))
            var = 0.99 * var + 0.01 * call.var(0, correction=1 if unbiased and not one else 0)
            count += 1
        out = norm(x.movedim(-1, channel_dim)).movedim(channel_dim, -1)
        torch.testing.assert_close(out, torch.stack(outs).view(shape))
    if calls.size(1) > 1:
        torch.testing.assert_close(norm.running_mean, loop.running_mean)
    torch.testing.assert_close(norm.running_var, var)
    assert norm.num_batches_tracked == count

    state = {key: value.clone() for key, value in norm.state_dict().items()}
    loop.load_state_dict(state)
    norm.eval(), loop.eval()
    out = norm(x.movedim(-1, channel_dim)).movedim(channel_dim, -1)
    torch.testing.assert_close(out, loop(x.reshape(-1, 4)).view(shape))
    torch.testing.assert_close(norm.state_dict(), state)


@settings(max_examples=25, deadline=None)
@given(rest=st.lists(st.integers(2, 4), max_size=3), channel_dim=st.sampled_from([1, -1]), seed=SEEDS)
def test_zero_init_norm_against_numpy(rest, channel_dim, seed):
    norm, x = ZeroInitNorm(4, channel_dim=channel_dim).double(), numbers(seed, 2, 4, *rest)
    given = torch.from_numpy(x).movedim(1, channel_dim).requires_grad_()
    out = norm(given)
    assert out.abs().max() == 0  # at first
    (out * torch.randn_like(out)).sum().backward()
    assert norm.scale.grad.abs().min() > 0  # and it can leave zero
    channels = (1, 4) + (1,) * len(rest)
    scale, bias = (p.detach().numpy().reshape(channels) for p in randomize(norm).parameters())
    expected = scale * joint_norm(x, tuple(range(1, x.ndim)), 1.0, bias)  # the offset is inside
    found = norm(given).movedim(channel_dim, 1).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_norms_of_constants_are_the_offset():
    for norm, shape in (
        (randomize(JointLayerNorm(4)), (3, 4)),
        (randomize(ZeroInitNorm(4)), (2, 4, 3)),
    ):
        x = torch.full(shape, 2.0, requires_grad=True)
        if len(shape) == 2:
            expected = norm.bias.expand(shape)
            torch.testing.assert_close(norm(x, torch.zeros(3, dtype=torch.long)), expected)
        else:
            expected = (norm.scale * norm.bias).view(1, 4, 1).expand(shape)
        torch.testing.assert_close(norm(x), expected)
        norm(x).sum().backward()
        assert x.grad.isfinite().all()


def test_gradchecks():
    joint, x = randomize(JointLayerNorm(3, eps=1e-3).double()), draw(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(joint, x)
    assert torch.autograd.gradcheck(lambda x: joint(x, torch.tensor([0, 1, 1, 0])), x)
    calls = randomize(ChannelBatchNorm(2, num_joint_dims=2, unbiased=False).double())
    assert torch.autograd.gradcheck(calls, draw(2, 4, 2).requires_grad_())


def test_parameters():
    joint, zero = JointLayerNorm(4), ZeroInitNorm(4)
    assert (str(joint), str(zero)) == ("JointLayerNorm(4, num_joint_dims=2)", "ZeroInitNorm(4)")
    for _ in range(2):
        assert joint.weight.tolist() == [1.0] * 4
        assert {name: v.tolist() for name, v in zero.state_dict().items()} == {
            "scale": [0.0] * 4, "bias": joint.bias.tolist()
        }  # fmt: skip
        randomize(joint).reset_parameters(), randomize(zero).reset_parameters()
    assert joint.double()(draw(2, 4)).dtype == torch.double


def test_channel_batch_norm_order_of_calls():
    """The last call weighs most in the running statistics."""
    norm = ChannelBatchNorm(1, num_joint_dims=2, momentum=0.5)
    norm(torch.tensor([[[0.0], [0.0]], [[8.0], [8.0]]]))
    torch.testing.assert_close(norm.running_mean, torch.tensor([4.0]))
    norm(torch.tensor([[[8.0], [8.0]], [[0.0], [0.0]]]))
    torch.testing.assert_close(norm.running_mean, torch.tensor([0.25 * 4 + 0.25 * 8]))
    norm = ChannelBatchNorm(1, num_joint_dims=2, momentum=0.5)
    norm(torch.tensor([[[0.0], [2.0]], [[0.0], [4.0]]]))  # unbiased variances of two rows: 2 and 8
    torch.testing.assert_close(norm.running_var, torch.tensor([(1 * 0.5 + 0.5 * 2) * 0.5 + 0.5 * 8]))


def test_channel_batch_norm_zero_init():
    norm = ChannelBatchNorm(4, zero_init=True)
    x = torch.randn(3, 5, 4)
    assert norm.weight.tolist() == [0.0] * 4 and norm(x).abs().max() == 0
    norm(x).square().sum().backward()
    (norm(x) * torch.randn(3, 5, 4)).sum().backward()
    assert norm.weight.grad.abs().min() > 0  # it can leave zero
    randomize(norm).reset_parameters()
    assert norm.weight.tolist() == norm.bias.tolist() == [0.0] * 4
    assert norm.running_mean.tolist() == [0.0] * 4 and norm.running_var.tolist() == [1.0] * 4
    assert norm.num_batches_tracked == 0
    assert ChannelBatchNorm(4).weight.tolist() == [1.0] * 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    """Statistics are taken in float32: values around 300 would overflow as squares in float16."""
    x = (300 + 20 * torch.randn(3, 50, 4)).to(dtype)
    for made in (
        lambda: ChannelBatchNorm(4, num_joint_dims=2), lambda: ChannelBatchNorm(4, unbiased=False),
        lambda: JointLayerNorm(4), lambda: randomize(ZeroInitNorm(4, channel_dim=-1)),
    ):  # fmt: skip
        half = made().to(dtype)
        out = half(x)
        assert out.dtype == dtype
        torch.testing.assert_close(out.float(), made()(x.float()), atol=0.05, rtol=0.05)
        assert all(value.isfinite().all() for value in half.state_dict().values())
        assert half.eval()(x).dtype == dtype


def test_channel_batch_norm_of_one_row_per_call():
    """One row has no variance; the running variance takes zero, as TensorFlow's."""
    norm = ChannelBatchNorm(2, num_joint_dims=2)
    x = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]], requires_grad=True)
    out = norm(x)
    assert out.abs().max() == 0
    torch.testing.assert_close(norm.running_var, torch.full((2,), 0.99**2))
    out.sum().backward()
    assert x.grad.isfinite().all()


def test_channel_batch_norm_running_statistics_carry_no_gradient():
    norm = ChannelBatchNorm(2, num_joint_dims=2)
    x = torch.randn(3, 4, 2, requires_grad=True)
    norm(norm(x)).sum().backward()
    assert not norm.running_mean.requires_grad and norm.running_mean.grad_fn is None
    assert norm.num_batches_tracked == 6


def test_joint_layer_norm_of_messages_that_are_all_alike():
    """On the fast path their variance is a difference of two equal numbers, often below zero."""
    torch.manual_seed(0)
    norm, (copies, width, edges) = JointLayerNorm(7, eps=1e-5), (500, 7, 11)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    value = torch.linspace(0.5, 50, copies).view(1, -1, 1)  # of all messages of a copy
    index, alpha = torch.zeros(edges, dtype=torch.long), torch.rand(edges, copies, 1)
    weight = torch.ones(width, 1)
    out, moments = weighted_messages(value, 0 * value, alpha, weight, None, index, index)
    mean, square = moments
    assert (square - mean**2).min() < -norm.eps
    total = alpha.sum(0).view(1, 1, copies, 1)
    found = _normalized(norm, out, moments, total)
    torch.testing.assert_close(found, (total * norm.bias).expand_as(found), atol=0.1, rtol=0)
    # As the norm has it where every message is at hand.
    plain = norm(value.view(copies, 1, 1).expand(copies, edges, width)).transpose(0, 1)
    torch.testing.assert_close(found[0, 0], (plain * alpha).sum(0), atol=0.1, rtol=0)
