import pytest
import torch
from torch.nn import functional as F

from rstg_pyg.backbones import SimpleConv


def test_simple_conv_default_is_the_published_network():
    backbone = SimpleConv()
    assert list(backbone.stages) == ["conv0", "conv1", "conv2"]
    assert backbone.channels == {"conv0": 512, "conv1": 512, "conv2": 512}
    shapes = [tuple(p.shape) for p in backbone.parameters()]
    assert shapes == [
        (512, 1, 3, 3), (512,), (512, 512, 3, 3), (512,), (512, 512, 3, 3), (512,),
    ]  # fmt: skip


def test_simple_conv_sizes():
    backbone = SimpleConv(1, (4, 5, 6))
    x, sizes = torch.randn(2, 1, 3, 64, 64), []
    for stage in backbone.stages.values():
        x = stage(x)
        sizes.append(tuple(x.shape))
    assert sizes == [(2, 4, 3, 31, 31), (2, 5, 3, 14, 14), (2, 6, 3, 6, 6)]
    assert backbone.channels == {"conv0": 4, "conv1": 5, "conv2": 6}


@pytest.mark.parametrize(
    "padding, pool, size",
    [
        (0, True, (2, 3)),
        (1, True, (4, 5)),
        (0, False, (12, 16)),
        (1, False, (16, 20)),
        (0, (False, True), (6, 8)),
        (1, [True, False], (8, 10)),
    ],
)
@pytest.mark.parametrize("in_channels", [1, 3])
def test_simple_conv_equals_plain_layers_per_frame(in_channels, padding, pool, size):
    torch.manual_seed(0)
    backbone = SimpleConv(in_channels, (4, 5), padding=padding, pool=pool)
    for p in backbone.parameters():
        torch.nn.init.normal_(p, std=0.5)
    clip = torch.randn(2, in_channels, 3, 16, 20)
    out = backbone(clip)
    assert out.shape == (2, 5, 3, *size)

    pools = [pool, pool] if isinstance(pool, bool) else pool
    weights = list(backbone.parameters())
    for b in range(2):
        for t in range(3):
            frame = clip[b, :, t]
            for i, halve in enumerate(pools):
                frame = F.conv2d(frame, weights[2 * i], weights[2 * i + 1], padding=padding).relu()
                frame = F.max_pool2d(frame, 2) if halve else frame
            torch.testing.assert_close(out[b, :, t], frame, atol=1e-5, rtol=1e-5)


def test_simple_conv_state_dict_and_reset():
    backbone = SimpleConv(1, (4, 4))
    assert set(backbone.state_dict()) == {
        "stages.conv0.conv.weight", "stages.conv0.conv.bias",
        "stages.conv1.conv.weight", "stages.conv1.conv.bias",
    }  # fmt: skip
    stage = backbone.stages["conv1"]
    torch.manual_seed(1)
    stage.reset_parameters()
    weight = stage.conv.weight.clone()
    bound = (6 / (2 * 4 * 9)) ** 0.5  # Glorot uniform: fan in = fan out = 4 channels of 9 cells
    assert 0.8 * bound < weight.abs().max() <= bound
    assert stage.conv.bias.abs().max() == 0
    stage.reset_parameters()
    assert not torch.equal(stage.conv.weight, weight)
    torch.manual_seed(1)
    stage.reset_parameters()
    assert torch.equal(stage.conv.weight, weight)


def test_simple_conv_gradients():
    torch.manual_seed(0)
    backbone = SimpleConv(1, (3, 3), padding=1)
    clip = torch.randn(1, 1, 2, 8, 8, requires_grad=True)
    backbone(clip).sum().backward()
    assert clip.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in backbone.parameters())


@pytest.mark.parametrize("pool, got", [((True,), 1), ((True, False, True), 3), ((), 0)])
def test_simple_conv_rejects_other_numbers_of_pools(pool, got):
    with pytest.raises(ValueError, match=rf"one value for each of 2 stages \(got {got}\)"):
        SimpleConv(1, (4, 4), pool=pool)
