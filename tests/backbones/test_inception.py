"""BN-Inception, ECO-Lite, I3D and S3D-G: sizes, counts, padding, blocks in their stages."""

import functools

import pytest
import torch
from torch.nn import functional as F

from rstg_pyg import RelationHead, RSTGBlock, VideoClassifier, WindowMean
from rstg_pyg.backbones import (
    BNInception,
    ECOLite,
    FrozenBatchNorm,
    InceptionVideo,
    OffsetBatchNorm,
    inception_i3d,
    s3dg,
    s3dg_howto100m,
)
from rstg_pyg.backbones.inception import (
    FeatureGate,
    SameConv3d,
    SameMaxPool3d,
    SpaceToDepth,
    same_padding,
)

SMALL = {
    "bn_inception": lambda: BNInception(16),
    "eco_lite": lambda: ECOLite(16),
    "i3d": lambda: inception_i3d(width=16),
    "s3dg": lambda: s3dg(width=16),
    "howto": lambda: s3dg_howto100m(width=16),
}


@pytest.mark.parametrize(
    "make, classes, head, parameters",
    [
        (BNInception, 174, lambda: RelationHead(1024, 8), 13_141_218),
        (BNInception, 27, lambda: RelationHead(1024, 3, multi_scale=False), 10_940_219),
        (ECOLite, 174, None, 37_387_918),
        (inception_i3d, 174, lambda: WindowMean(1024), 12_465_614),
        (functools.partial(inception_i3d, norm=OffsetBatchNorm), 174, None, 12_458_334),
        (s3dg, 174, None, 9_324_830),
        (s3dg_howto100m, 512, None, 9_670_800),
    ],
)
def test_numbers_of_parameters_are_those_of_the_public_code(make, classes, head, parameters):
    with torch.device("meta"):
        model = VideoClassifier(make(), classes, head=head and head())
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", SMALL)
def test_stages_have_the_channels_they_say_and_take_blocks(name):
    torch.manual_seed(0)
    backbone = SMALL[name]()
    clip = torch.rand(2, 3, 8, 64, 64)
    x = clip
    for stage, module in backbone.stages.items():
        x = module(x)
        assert x.size(1) == backbone.channels[stage], stage
    assert torch.equal(x, backbone.train()(clip)) and x.shape[-2:] == (2, 2)
    stage = list(backbone.stages)[-2]
    block = RSTGBlock(backbone.channels[stage], 8, (1,), num_rounds=1)
    model = VideoClassifier(backbone, 5, blocks={stage: block})
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(6):
        loss = F.cross_entropy(model(clip), torch.tensor([1, 3]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is not None for p in block.parameters())


@pytest.mark.parametrize("size", [(1, 7, 8), (2, 5, 6), (3, 9, 16), (5, 14, 15)])
@pytest.mark.parametrize(
    "kernel, stride", [((7, 7, 7), 2), ((3, 3, 3), 2), ((2, 2, 2), 2), ((1, 3, 3), 1)]
)
def test_same_padding_puts_the_extra_point_at_the_end(size, kernel, stride):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    padding = same_padding(size, kernel, (stride,) * 3)
    assert all(0 <= after - before <= 1 for before, after in padding)
    flat = [n for pair in reversed(padding) for n in pair]
    conv = SameConv3d(3, 4, kernel, stride, bias=False).double()
    out = F.conv3d(F.pad(x, flat), conv.weight, None, stride)
    assert out.shape[2:] == tuple(-(-n // stride) for n in size)
    torch.testing.assert_close(conv(x), out)
    lowest = F.pad(x, flat, value=float("-inf"))
    torch.testing.assert_close(
        SameMaxPool3d(kernel, (stride,) * 3)(x), F.max_pool3d(lowest, kernel, stride)
    )


def test_same_padding_of_the_first_convolution():
    assert same_padding((224, 112, 7), (7, 3, 2), (2, 2, 2)) == [(2, 3), (0, 1), (0, 1)]


def test_parts():
    x = torch.randn(2, 3, 4, 6, 8)
    deep = SpaceToDepth()(x)
    assert deep.shape == (2, 24, 2, 3, 4)
    dt, dh, dw, c = 1, 0, 1, 2
    assert torch.equal(deep[:, ((dt * 2 + dh) * 2 + dw) * 3 + c], x[:, c, 1::2, 0::2, 1::2])
    gate = FeatureGate(3, bias=True)
    factor = torch.sigmoid(x.mean((2, 3, 4)) @ gate.lin.weight.t() + gate.lin.bias)
    torch.testing.assert_close(gate(x), x * factor.view(2, 3, 1, 1, 1))
    norm = OffsetBatchNorm(3)
    assert [name for name, _ in norm.named_parameters()] == ["bias"]
    var, mean = torch.var_mean(x, (0, 2, 3, 4), correction=0, keepdim=True)
    y = (x - mean) / (var + 1e-3).sqrt()
    torch.testing.assert_close(norm(x), y)
    norm.reset_parameters()
    assert norm.running_mean.abs().max() == 0


@pytest.mark.parametrize("size", [(9, 45, 39), (1, 32, 33)])
def test_i3d_and_s3dg_take_any_size(size):
    for make in (inception_i3d, s3dg):
        out = make(width=16).eval()(torch.rand(1, 3, *size))
        assert out.shape == (1, 256, -(-size[0] // 8), *(-(-n // 32) for n in size[1:]))


@pytest.mark.parametrize(
    "name, size, message",
    [
        (
            "bn_inception",
            (2, 200, 224),
            r"224 x 224 pixels or another multiple of 32.*\(got 200 x 224\)",
        ),
        ("bn_inception", (2, 64, 16), r"BN-Inception: .* 32 \(got 64 x 16\)"),
        ("eco_lite", (6, 224, 224), r"4, 8, 12, 16 or another multiple of 4 frames \(got 6\)"),
        ("howto", (3, 64, 64), r"even number of frames, rows and columns \(got 3 x 64 x 64\)"),
    ],
)
def test_sizes_that_do_not_fit_are_named(name, size, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        SMALL[name]()(torch.empty(1, 3, *size))


def test_bn_inception_takes_all_sizes_whose_branches_fit():
    backbone = BNInception(16).to("meta").eval()
    check = backbone.stages["conv1"].input
    for side in range(31, 104):
        clip, found = torch.empty(1, 3, 1, side, side, device="meta"), []
        for check.halved, error in ((True, ValueError), (False, RuntimeError)):
            try:
                found.append(backbone(clip) is not None)
            except error:
                found.append(False)
        assert found[0] == found[1], side


def test_the_networks_of_frames_turn_red_green_blue_around():
    torch.manual_seed(1)
    clip, stage = torch.rand(1, 3, 4, 64, 64), BNInception(16).eval().stages["conv1"]
    conv = stage.get_submodule("7x7_s2.conv")
    seen = []
    conv.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    stage(clip)
    assert torch.equal(seen[0], clip[:, [2, 1, 0]])


def test_bn_inception_streams():
    torch.manual_seed(2)
    model = VideoClassifier(BNInception(16), 4).eval()
    clip = torch.rand(1, 3, 3, 64, 64)
    state = None
    for t in range(3):
        logits, state = model.stream(clip[:, :, t : t + 1], state)
    torch.testing.assert_close(logits, model(clip))


def test_norms_can_be_chosen():
    model = InceptionVideo(width=16, norm=functools.partial(FrozenBatchNorm, eps=1e-3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.rand(1, 3, 4, 32, 32))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
