import pytest
import torch
from torch.nn import functional as F

from rstg_pyg.backbones import SimpleConv, simple_conv
from rstg_pyg.fast import winograd


def test_default_is_the_published_network():
    backbone = SimpleConv()
    assert backbone.channels == {"conv0": 512, "conv1": 512, "conv2": 512}
    shapes = {name: tuple(p.shape) for name, p in backbone.named_parameters()}
    assert shapes == {
        "stages.conv0.conv.weight": (512, 1, 3, 3), "stages.conv0.conv.bias": (512,),
        "stages.conv1.conv.weight": (512, 512, 3, 3), "stages.conv1.conv.bias": (512,),
        "stages.conv2.conv.weight": (512, 512, 3, 3), "stages.conv2.conv.bias": (512,),
    }  # fmt: skip
    x, sizes = torch.empty(2, 1, 3, 64, 64), []
    for stage in SimpleConv(1, (4, 5, 6)).stages.values():
        x = stage(x)
        sizes.append(tuple(x.shape))
    assert sizes == [(2, 4, 3, 31, 31), (2, 5, 3, 14, 14), (2, 6, 3, 6, 6)]


@pytest.mark.parametrize(
    "in_channels, padding, pool, size",
    [
        (1, 0, True, (2, 3)),
        (3, 1, True, (4, 5)),
        (3, 0, False, (12, 16)),
        (1, 1, False, (16, 20)),
        (1, 0, (False, True), (6, 8)),
        (3, 1, [True, False], (8, 10)),
    ],
)
@pytest.mark.parametrize("way", ["all frames", "two or less", "winograd"])
def test_equals_plain_layers_per_frame(in_channels, padding, pool, size, way, monkeypatch):
    if way == "winograd":
        take_winograd(monkeypatch, least_channels=4)  # conv1
    monkeypatch.setattr(simple_conv, "BLOCK_SIZE", 2500 if way == "two or less" else 2**20)
    torch.manual_seed(0)
    backbone = SimpleConv(in_channels, (4, 5), padding=padding, pool=pool)
    for p in backbone.parameters():
        torch.nn.init.normal_(p, std=0.5)
    clip = torch.randn(2, in_channels, 3, 16, 20, requires_grad=True)
    out = backbone(clip)
    assert out.shape == (2, 5, 3, *size)

    frames, weights = clip.transpose(1, 2).flatten(0, 1), list(backbone.parameters())
    for i, halve in enumerate([pool, pool] if isinstance(pool, bool) else pool):
        frames = F.conv2d(frames, weights[2 * i], weights[2 * i + 1], padding=padding).relu()
        frames = F.max_pool2d(frames, 2) if halve else frames
    expected = frames.unflatten(0, (2, 3)).transpose(1, 2)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    inputs = [clip, *weights]
    for ours, theirs in zip(*(torch.autograd.grad(y.square().sum(), inputs) for y in (out, expected))):
        assert theirs.abs().sum() > 0
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


def take_winograd(monkeypatch, least_channels=1):
    """Also for narrow filters."""
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", least_channels)
    monkeypatch.setattr(winograd, "BLOCK_TILES", 40)  # two frames of 9 x 9 or less


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("height, width", [(3, 3), (4, 7), (9, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_winograd(padding, height, width, bias, monkeypatch):
    torch.manual_seed(0)
    conv = winograd.Conv3x3(5, 7, padding, bias)
    x = torch.randn(5, 5, height, width, requires_grad=True)
    assert not conv.wide(x)
    take_winograd(monkeypatch)
    assert conv.wide(x)
    inputs = [x, *conv.parameters()]

    def values(convolve):
        out = convolve()
        first = torch.autograd.grad(out.sin().sum(), inputs, create_graph=True)
        return [out, *first, *torch.autograd.grad(first[0].square().sum(), inputs[:2])]

    exact = values(lambda: F.conv2d(x.double(), *(w.double() for w in inputs[1:]), padding=padding))
    for ours, theirs in zip(values(lambda: conv(x)), exact):
        assert theirs.abs().sum() > 0
        torch.testing.assert_close(ours.double(), theirs.double(), atol=2e-5, rtol=1e-5)


def test_gradients_of_winograd_that_nobody_asks_for(monkeypatch):
    take_winograd(monkeypatch)
    conv = winograd.Conv3x3(2, 3)
    conv.weight.requires_grad_(False)
    x = torch.randn(1, 2, 4, 4)
    conv(x).sum().backward()
    assert conv.weight.grad is None and x.grad is None
    torch.testing.assert_close(conv.bias.grad, torch.full((3,), 4.0))


def test_winograd_is_for_wide_filters_in_float32(monkeypatch):
    assert winograd.LEAST_CHANNELS > 256
    take_winograd(monkeypatch, least_channels=4)
    x = torch.randn(2, 4, 6, 6)
    assert winograd.Conv3x3(4, 4).wide(x)
    assert not winograd.Conv3x3(4, 3).wide(x)
    assert not winograd.Conv3x3(4, 4).wide(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert not winograd.Conv3x3(4, 4).wide(x)
        assert winograd.Conv3x3(4, 4)(x).dtype == torch.bfloat16


def test_difference_from_the_frame_before():
    torch.manual_seed(0)
    backbone = SimpleConv(2, (4, 5), difference=True)
    clip = torch.randn(3, 2, 4, 12, 12)
    before = clip[:, :, [0, 0, 1, 2]]
    plain = SimpleConv(4, (4, 5))
    plain.load_state_dict(backbone.state_dict())
    torch.testing.assert_close(backbone(clip), plain(torch.cat([clip, clip - before], dim=1)))
    assert plain.per_frame and not backbone.per_frame


def test_reset():
    stage = SimpleConv(1, (4, 4)).stages["conv1"]
    torch.manual_seed(1)
    stage.reset_parameters()
    weight = stage.conv.weight.clone()
    bound = (6 / (2 * 4 * 9)) ** 0.5  # Glorot uniform: fan in = fan out = 4 channels of 9 cells
    assert 0.8 * bound < weight.abs().max() <= bound
    assert stage.conv.bias.abs().max() == 0
    stage.reset_parameters()
    assert not torch.equal(stage.conv.weight, weight)


@pytest.mark.parametrize("pool, got", [((True,), 1), ((True, False, True), 3), ((), 0)])
def test_other_numbers_of_pools(pool, got):
    with pytest.raises(ValueError, match=rf"one value for each of 2 stages \(got {got}\)"):
        SimpleConv(1, (4, 4), pool=pool)
