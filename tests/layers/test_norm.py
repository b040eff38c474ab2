import numpy as np
import pytest
import torch
from helpers.random_weights import randomize

from rstg_pyg import ChannelBatchNorm, JointLayerNorm, ZeroInitNorm


def joint_norm(x, axes, weight, bias, eps=1e-12):
    mean = x.mean(axis=axes, keepdims=True)
    var = ((x - mean) ** 2).mean(axis=axes, keepdims=True)
    return (x - mean) / np.sqrt(var + eps) * weight + bias


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("eps", [1e-12, 0.1])
def test_joint_layer_norm_against_numpy(dims, eps):
    norm = randomize(JointLayerNorm(4, num_joint_dims=dims, eps=eps).double())
    x = np.random.default_rng(0).normal(2.0, 3.0, size=(2, 3, 5, 4))
    weight, bias = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    expected = joint_norm(x, tuple(range(-dims, 0)), weight, bias, eps)
    np.testing.assert_allclose(norm(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("sizes", [[3, 1, 4], [8], [2, 0, 5]])
@pytest.mark.parametrize("shuffle", [False, True])
def test_joint_layer_norm_with_batch_against_numpy(shuffle, sizes):
    norm = randomize(JointLayerNorm(4).double())
    weight, bias = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    rng = np.random.default_rng(0)
    batch = np.repeat(np.arange(len(sizes)), sizes)
    if shuffle:
        batch = rng.permutation(batch)
    x = rng.normal(1.0, 2.0, size=(len(batch), 4)) * (1 + batch[:, None])
    expected = np.empty_like(x)
    for graph in set(batch.tolist()):
        rows = batch == graph
        expected[rows] = joint_norm(x[rows], (0, 1), weight, bias)
    out = norm(torch.from_numpy(x), torch.from_numpy(batch))
    np.testing.assert_allclose(out.detach().numpy(), expected, atol=1e-10)
    out = norm(torch.from_numpy(x), torch.from_numpy(batch), batch_size=len(sizes) + 2)
    np.testing.assert_allclose(out.detach().numpy(), expected, atol=1e-10)


def test_joint_layer_norm_with_one_graph_equals_without_batch():
    norm = randomize(JointLayerNorm(4))
    x = torch.randn(6, 4)
    torch.testing.assert_close(norm(x, torch.zeros(6, dtype=torch.long)), norm(x))


def test_joint_layer_norm_statistics():
    out = JointLayerNorm(8).double()(3 + 5 * torch.randn(10, 6, 8, dtype=torch.double))
    torch.testing.assert_close(out.mean((1, 2)), torch.zeros(10, dtype=torch.double))
    torch.testing.assert_close(out.var((1, 2), correction=0), torch.ones(10, dtype=torch.double))
    # Not per row and not over the batch.
    assert out.mean(2).abs().max() > 0.1


def test_joint_layer_norm_of_constants_is_the_offset():
    norm = randomize(JointLayerNorm(4))
    x = torch.full((3, 4), 2.0, requires_grad=True)
    expected = norm.bias.expand(3, 4)
    torch.testing.assert_close(norm(x), expected)
    torch.testing.assert_close(norm(x, torch.zeros(3, dtype=torch.long)), expected)
    norm(x).sum().backward()
    assert x.grad.isfinite().all()


def test_joint_layer_norm_gradcheck():
    norm = randomize(JointLayerNorm(3, eps=1e-3).double())
    x = torch.randn(4, 3, dtype=torch.double, requires_grad=True)
    batch = torch.tensor([0, 1, 1, 0])
    assert torch.autograd.gradcheck(norm, x)
    assert torch.autograd.gradcheck(lambda x: norm(x, batch), x)


def test_joint_layer_norm_parameters():
    norm = JointLayerNorm(4)
    assert str(norm) == "JointLayerNorm(4, num_joint_dims=2)"
    assert norm.weight.tolist() == [1.0] * 4 and norm.bias.tolist() == [0.0] * 4
    randomize(norm).reset_parameters()
    assert norm.weight.tolist() == [1.0] * 4 and norm.bias.tolist() == [0.0] * 4
    assert norm.double()(torch.randn(2, 4, dtype=torch.double)).dtype == torch.double


@pytest.mark.parametrize("shape", [(6, 4), (2, 3, 4), (2, 3, 5, 4)])
def test_channel_batch_norm_equals_batch_norm(shape):
    norm = randomize(ChannelBatchNorm(4))
    expected = torch.nn.BatchNorm1d(4, eps=1e-3, momentum=0.01)
    expected.load_state_dict(norm.state_dict())
    for _ in range(3):
        x = 2 + 3 * torch.randn(shape)
        out = norm(x)
        assert out.shape == shape
        torch.testing.assert_close(out, expected(x.view(-1, 4)).view(shape))
        torch.testing.assert_close(norm.state_dict(), expected.state_dict())
    assert norm.num_batches_tracked == 3
    assert norm.running_mean.abs().min() > 0

    norm.eval()
    expected.eval()
    state = {k: v.clone() for k, v in norm.state_dict().items()}
    x = torch.randn(shape)
    torch.testing.assert_close(norm(x), expected(x.view(-1, 4)).view(shape))
    torch.testing.assert_close(norm.state_dict(), state)
    norm.train()
    assert not torch.allclose(norm(x), expected(x.view(-1, 4)).view(shape))


def test_channel_batch_norm_running_statistics():
    norm = ChannelBatchNorm(3)
    x = torch.randn(2, 5, 3)
    norm(x)
    rows = x.view(-1, 3)
    torch.testing.assert_close(norm.running_mean, 0.01 * rows.mean(0))
    torch.testing.assert_close(norm.running_var, 0.99 + 0.01 * rows.var(0))  # unbiased


def test_channel_batch_norm_of_a_transposed_input():
    norm = ChannelBatchNorm(4)
    x = torch.randn(3, 2, 4).transpose(0, 1)
    torch.testing.assert_close(norm(x), norm(x.contiguous()))


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 3), (2, 4, 3, 5, 6)])
def test_zero_init_norm_starts_at_zero(shape):
    norm = ZeroInitNorm(4)
    x = torch.randn(shape, requires_grad=True)
    out = norm(x)
    assert out.shape == shape and out.abs().max() == 0
    (out * torch.randn(shape)).sum().backward()
    assert norm.scale.grad.abs().min() > 0  # it can leave zero


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 3), (2, 4, 3, 5, 6)])
def test_zero_init_norm_against_numpy(shape):
    norm = randomize(ZeroInitNorm(4).double())
    x = np.random.default_rng(0).normal(1.0, 2.0, size=shape)
    channels = (1, 4) + (1,) * (len(shape) - 2)
    scale, bias = (p.detach().numpy().reshape(channels) for p in (norm.scale, norm.bias))
    axes = tuple(range(1, len(shape)))
    expected = scale * joint_norm(x, axes, 1.0, bias)  # the offset lies inside the product
    np.testing.assert_allclose(norm(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-12)


def test_zero_init_norm_channel_dim():
    first, last = randomize(ZeroInitNorm(4)), randomize(ZeroInitNorm(4, channel_dim=-1))
    x = torch.randn(2, 4, 3, 5)
    torch.testing.assert_close(last(x.movedim(1, -1)), first(x).movedim(1, -1))


def test_zero_init_norm_parameters():
    norm = ZeroInitNorm(4)
    assert str(norm) == "ZeroInitNorm(4)"
    assert set(norm.state_dict()) == {"scale", "bias"}
    randomize(norm).reset_parameters()
    assert norm.scale.tolist() == norm.bias.tolist() == [0.0] * 4


def test_zero_init_norm_of_constants_is_finite():
    norm = randomize(ZeroInitNorm(4))
    x = torch.zeros(2, 4, 3, requires_grad=True)
    out = norm(x)
    torch.testing.assert_close(out, (norm.scale * norm.bias).view(1, 4, 1).expand(2, 4, 3))
    out.sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("lead", [(5,), (3, 2), ()], ids=str)
def test_channel_batch_norm_of_calls(lead, unbiased):
    """Leading dimensions are calls of their own, one after the other, as a loop of batch norms."""
    norm = randomize(ChannelBatchNorm(4, num_joint_dims=3, unbiased=unbiased).double())
    loop = torch.nn.BatchNorm1d(4, eps=1e-3, momentum=0.01).double()
    loop.load_state_dict(norm.state_dict())
    biased_var = loop.running_var.clone()
    for step in range(2):
        x = (1 + step) * torch.randn(*lead, 3, 7, 4, dtype=torch.double) + step
        out = norm(x)
        assert out.shape == x.shape
        calls = x.view(-1, 21, 4)
        expected = torch.stack([loop(call) for call in calls]).view(x.shape)
        torch.testing.assert_close(out, expected)
        for call in calls:
            biased_var = 0.99 * biased_var + 0.01 * call.var(0, correction=0)
    torch.testing.assert_close(norm.running_mean, loop.running_mean)
    loop.running_var = loop.running_var if unbiased else biased_var
    torch.testing.assert_close(norm.running_var, loop.running_var)
    assert norm.num_batches_tracked == loop.num_batches_tracked == 2 * int(np.prod(lead))

    state = {key: value.clone() for key, value in norm.state_dict().items()}
    norm.eval(), loop.eval()
    torch.testing.assert_close(norm(x), loop(x.view(-1, 4)).view(x.shape))
    torch.testing.assert_close(norm.state_dict(), state)


def test_channel_batch_norm_order_of_calls():
    """The last call weighs most in the running statistics."""
    norm = ChannelBatchNorm(1, num_joint_dims=2, momentum=0.5)
    norm(torch.tensor([[[0.0], [0.0]], [[8.0], [8.0]]]))
    torch.testing.assert_close(norm.running_mean, torch.tensor([4.0]))
    norm(torch.tensor([[[8.0], [8.0]], [[0.0], [0.0]]]))
    torch.testing.assert_close(norm.running_mean, torch.tensor([0.25 * 4 + 0.25 * 8]))


def test_channel_batch_norm_biased_over_everything():
    norm = ChannelBatchNorm(3, unbiased=False)
    x = torch.randn(2, 5, 3)
    expected = torch.nn.functional.batch_norm(x.view(-1, 3), None, None, training=True, eps=1e-3)
    torch.testing.assert_close(norm(x), expected.view(x.shape))
    rows = x.view(-1, 3)
    torch.testing.assert_close(norm.running_mean, 0.01 * rows.mean(0))
    torch.testing.assert_close(norm.running_var, 0.99 + 0.01 * rows.var(0, correction=0))


@pytest.mark.parametrize("kwargs", [{}, {"unbiased": False}])
@pytest.mark.parametrize("dim", [1, 2, -2])
def test_channel_batch_norm_channel_dim(dim, kwargs):
    last = randomize(ChannelBatchNorm(4, **kwargs))
    other = randomize(ChannelBatchNorm(4, channel_dim=dim, **kwargs))
    for training in (True, False):
        x = torch.randn(2, 3, 5, 4)
        expected = last.train(training)(x).movedim(-1, dim)
        torch.testing.assert_close(other.train(training)(x.movedim(-1, dim)), expected)
    torch.testing.assert_close(other.state_dict(), last.state_dict())


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
@pytest.mark.parametrize("kwargs", [{"num_joint_dims": 2}, {"unbiased": False}])
def test_channel_batch_norm_in_half_precision(dtype, kwargs):
    """Statistics are taken in float32: values around 300 would overflow as squares in float16."""
    norm = ChannelBatchNorm(4, **kwargs)
    x = (300 + 20 * torch.randn(3, 50, 4)).to(dtype)
    expected = norm(x.float())
    half = ChannelBatchNorm(4, **kwargs).to(dtype)
    out = half(x)
    assert out.dtype == dtype and out.isfinite().all()
    torch.testing.assert_close(out.float(), expected, atol=0.05, rtol=0.05)
    assert half.running_mean.isfinite().all() and half.running_var.isfinite().all()
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


def test_channel_batch_norm_gradcheck_of_calls():
    norm = randomize(ChannelBatchNorm(2, num_joint_dims=2, unbiased=False).double())
    x = torch.randn(2, 4, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(norm, x)


def test_channel_batch_norm_running_statistics_carry_no_gradient():
    norm = ChannelBatchNorm(2, num_joint_dims=2)
    x = torch.randn(3, 4, 2, requires_grad=True)
    norm(norm(x)).sum().backward()
    assert not norm.running_mean.requires_grad and norm.running_mean.grad_fn is None
    assert norm.num_batches_tracked == 6


def test_joint_layer_norm_in_half_precision():
    x = (300 + 20 * torch.randn(3, 50, 4)).half()
    out = JointLayerNorm(4).half()(x)
    assert out.dtype == torch.float16 and out.isfinite().all()
    torch.testing.assert_close(out.float(), JointLayerNorm(4)(x.float()), atol=0.01, rtol=0.01)
    norm = randomize(ZeroInitNorm(4)).half()
    out = norm(x.movedim(-1, 1))
    assert out.dtype == torch.float16 and out.isfinite().all()


def test_a_single_number_is_normed_away():
    norm = randomize(JointLayerNorm(1, num_joint_dims=1).double())
    torch.testing.assert_close(norm(torch.tensor([[5.0]]).double()), norm.bias.view(1, 1))
