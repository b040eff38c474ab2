import copy
import math

import pytest
import torch
from helpers.random_weights import draw
from torch.nn import functional as F

from rstg_pyg import VideoClassifier
from rstg_pyg.backbones import (
    C2D_KERNELS,
    I3D_KERNELS,
    VideoResNet,
    c2d_resnet50,
    i3d_resnet50,
    nonlocal_resnet50,
)
from rstg_pyg.backbones.conv import Conv, Conv3d, FrozenBatchNorm, normed
from rstg_pyg.backbones.resnet import Bottleneck, NonLocalBlock, Stem

BLOCKS = [f"res{s}_{b}" for s, depth in zip((2, 3, 4, 5), (3, 4, 6, 3)) for b in range(depth)]


def randomize(module, seed=0):
    """Every parameter and statistic differs from what construction leaves."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if value.dim() > 1:
            value.copy_(noise * (2 / value[0].numel()) ** 0.5)
        elif name.endswith(("weight", "running_var")):
            value.copy_(noise.sigmoid() + 0.5)
        elif value.is_floating_point():
            value.copy_(noise * (1.0 if ".theta" in name or ".phi" in name else 0.1))
    return module.double()


def on_meta(build, **kwargs):
    with torch.device("meta"):
        return build(**kwargs)


def sizes(backbone, *shape):
    """Shape after every stage, of a clip without numbers."""
    x, result = torch.empty(shape, device="meta"), {}
    for name, stage in backbone.stages.items():
        x = stage(x)
        result[name] = tuple(x.shape)
    return result


def norm(x, bn):
    mean, variance, gain, offset = (
        v.view(-1, 1, 1, 1) for v in (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    )
    return (x - mean) / (variance + 1e-5).sqrt() * gain + offset


@pytest.mark.parametrize(
    "build, published, trainable",
    [
        (c2d_resnet50, 23_917_678, 24.33),
        (i3d_resnet50, 27_633_518, 28.04),
        (nonlocal_resnet50, 35_000_174, None),
    ],
)
def test_published_sizes_and_numbers_of_parameters(build, published, trainable):
    """The published numbers (millions; 174 classes, statistics counted), and those that PyTorchVideo's
    model zoo gives for the same networks (400 classes, only what is trained)."""
    with torch.device("meta"):
        backbone = build()
        models = {classes: VideoClassifier(backbone, classes) for classes in (174, 400)}
    tensors = models[174].state_dict().items()
    assert sum(t.numel() for n, t in tensors if not n.endswith("num_batches_tracked")) == published
    if trainable is not None:
        count = sum(p.numel() for p in models[400].parameters())
        assert round(count / 1e6, 2) == trainable
    shapes = sizes(backbone, 2, 3, 32, 224, 224)
    expected = {
        "stem": (64, 32, 55, 55), "res2_2": (256, 32, 55, 55), "pool2": (256, 16, 55, 55),
        "res3_0": (512, 16, 28, 28), "res3_3": (512, 16, 28, 28), "res4_0": (1024, 16, 14, 14),
        "res4_5": (1024, 16, 14, 14), "res5_0": (2048, 16, 14, 14), "res5_2": (2048, 16, 14, 14),
    }  # fmt: skip
    assert {name: shapes[name][1:] for name in expected} == expected
    assert backbone(torch.empty(2, 3, 32, 224, 224, device="meta")).shape == shapes["res5_2"]
    assert {name: shape[1] for name, shape in shapes.items()} == backbone.channels


@pytest.mark.parametrize(
    "kwargs, clip, rows, columns",
    [
        ({}, (32, 256, 256), [63, 32, 16, 16], [63, 32, 16, 16]),
        ({"pool_padding": 1, "last_stride": 2}, (8, 224, 224), [56, 28, 14, 7], [56, 28, 14, 7]),
        ({}, (9, 224, 160), [55, 28, 14, 14], [39, 20, 10, 10]),  # odd frames, other sides
    ],
)
def test_other_sizes(kwargs, clip, rows, columns):
    shapes = sizes(on_meta(nonlocal_resnet50, **kwargs), 1, 3, *clip)
    found = [shapes[name] for name in ("stem", "res3_0", "res4_0", "res5_0")]
    assert [shape[3] for shape in found] == rows and [shape[4] for shape in found] == columns
    assert found[0][2] == clip[0] and found[1][2] == clip[0] // 2


@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 1, 1), (5, 1, 1), (3, 3, 3)])
@pytest.mark.parametrize("stride, frames", [(1, 5), (2, 5), (1, 1)])
def test_convolution_and_frozen_norm_equal_torchs(kernel, stride, frames):
    """Also where the norm goes into the weights, and where a hook keeps it out of them."""
    conv, bn = Conv(6, 4, kernel, stride), FrozenBatchNorm(4)
    randomize(torch.nn.ModuleList([conv, bn]))
    x = torch.randn(2, 6, frames, 4, 6, dtype=torch.double, requires_grad=True)
    inputs = [x, conv.weight, bn.weight, bn.bias]
    plain = F.conv3d(x, conv.weight, None, conv.stride, conv.padding)
    expected = norm(plain, bn)
    seen = []
    outs = [normed(conv, bn, x), bn(conv(x))]
    with bn.register_forward_pre_hook(lambda module, args: seen.append(args[0])):
        outs.append(normed(conv, bn, x))
    torch.testing.assert_close(seen, [plain])
    for out in outs:
        torch.testing.assert_close(out, expected)
        found, wanted = (
            torch.autograd.grad(y.pow(3).sum(), inputs, retain_graph=True) for y in (out, expected)
        )
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("network", [Conv, Conv3d])
@pytest.mark.parametrize(
    "size, kernel, stride",
    [((2, 7, 7), (3, 3, 3), 1), ((4, 8, 8), (5, 7, 7), 2), ((2, 7, 7), (3, 1, 1), 2),
     ((3, 1, 2), (1, 3, 3), 2)],
)  # fmt: skip
def test_gradients_in_bfloat16_where_the_map_is_smaller_than_the_kernel(network, size, kernel, stride):
    """oneDNN's own are NaN or other numbers every time."""
    if network is Conv:
        conv = Conv(16, 32, kernel, stride)
    else:
        conv = Conv3d(16, 32, kernel, (1, stride, stride), [k // 2 for k in kernel], bias=False)
    x = torch.randn(2, 16, *size)
    grad, grads = None, []
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = conv(x)
        grad = torch.randn_like(out) if grad is None else grad.to(out.dtype)
        grads.append(torch.autograd.grad(out, conv.weight, grad)[0])
    assert (grads[1] - grads[0]).norm() < 0.02 * grads[0].norm()


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_hooks_and_other_forwards_are_seen():
    torch.manual_seed(0)
    block, x = Bottleneck(4, 4, 8, 1, 3), torch.randn(1, 4, 3, 5, 5)
    plain, calls, kept = block(x), [], []
    with torch.no_grad(), torch.nn.modules.module.register_module_forward_hook(
        lambda module, *args: calls.append(type(module))
    ):
        torch.testing.assert_close(block(x), plain)
    assert calls.count(Conv) == calls.count(FrozenBatchNorm) == 4
    block.shortcut.register_forward_hook(lambda *args: calls.append("shortcut"))
    block.bn1.register_forward_hook(lambda module, args, out: kept.extend([out, out.clone()]))
    block.bn2.register_full_backward_hook(lambda *args: calls.append("backward"))
    torch.testing.assert_close(block(x), plain)
    assert torch.equal(*kept) and kept[0].min() < 0 and calls[-1] == "shortcut"
    block(x).sum().backward()
    assert calls[-1] == "backward"
    block = Bottleneck(4, 4, 8, 1, 3)
    other = copy.deepcopy(block)
    block.conv1.forward = lambda x: torch.zeros_like(x)
    torch.nn.init.zeros_(other.conv1.weight)
    torch.testing.assert_close(block(x), other(x))


@pytest.mark.parametrize("clips", [0, 2])
@pytest.mark.parametrize("channels, stride", [(8, 1), (6, 1), (8, 2)])
def test_one_call_per_convolution_without_gradients(channels, stride, clips):
    """With and without a shortcut: on a CPU it is oneDNN's, with the addition and ReLU inside; in
    bfloat16, too.
    """
    stages = [Stem(3, channels, 5), Bottleneck(channels, 4, 8, stride, 3)]
    network = randomize(torch.nn.Sequential(*stages)).float()
    clip = torch.randn(clips, 3, 4, 32, 32)
    expected = network(clip)
    before = clip.clone()
    with torch.no_grad():
        torch.testing.assert_close(network(clip), expected)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(clip)
    assert half.dtype == torch.bfloat16
    if clips > 0:
        assert (half - expected).std() < 0.01 * expected.std()
    assert torch.equal(clip, before) and expected.requires_grad


def test_pooling_keeps_the_type_in_autocast():
    x = torch.randn(2, 3, 4, 7, 7).bfloat16().requires_grad_()
    pool = Stem(3, 8, 1).pool
    expected = pool(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        out = pool(x)
        assert F.max_pool3d(x, 2).dtype == torch.float32  # if this fails, MaxPool3d can go
    assert out.dtype == torch.bfloat16 and torch.equal(out.float(), expected)
    out.sum().backward()
    assert x.grad.sum() == out.numel()


def test_stages_and_places():
    assert list(on_meta(i3d_resnet50).stages) == ["stem", *BLOCKS[:3], "pool2", *BLOCKS[3:]]
    backbone = on_meta(nonlocal_resnet50)
    names = list(backbone.stages)
    extra = ["nonlocal3_1", "nonlocal3_3", "nonlocal4_1", "nonlocal4_3", "nonlocal4_5"]
    assert [name for name in names if name.startswith("nonlocal")] == extra
    assert [n for n in names if n not in extra] == ["stem", *BLOCKS[:3], "pool2", *BLOCKS[3:]]
    for name in extra:
        before = names[names.index(name) - 1]
        assert before == name.replace("nonlocal", "res")
        assert backbone.channels[name] == backbone.channels[before]
    assert backbone.places == {"res2": "res2_1", "res3": "res3_2", "res4": "res4_4", "res5": "res5_1"}
    everywhere = on_meta(VideoResNet, temporal_kernels=C2D_KERNELS, nonlocal_stages=("res2", "res5"))
    assert [name for name in everywhere.stages if "nonlocal" in name] == ["nonlocal2_1", "nonlocal5_1"]


def test_small_networks():
    backbone = VideoResNet(((3,), (3, 1), (1,)), in_channels=1, depths=(1, 2), width=4)
    assert backbone.channels == {"stem": 4, "res2_0": 16, "pool2": 16, "res3_0": 32, "res3_1": 32}
    assert list(backbone.stages) == list(backbone.channels)
    assert backbone.places == {"res2": "res2_0", "res3": "res3_0"}
    assert backbone(torch.randn(2, 1, 4, 32, 32)).shape == (2, 32, 2, 7, 7)


def test_temporal_kernels():
    backbone = on_meta(i3d_resnet50)
    assert backbone.stages["stem"].conv.kernel_size == (5, 7, 7)
    for stage, expected in {
        "res2": [3, 3, 3], "res3": [3, 1, 3, 1], "res4": [3, 1, 3, 1, 3, 1], "res5": [1, 3, 1],
    }.items():  # fmt: skip
        blocks = [block for name, block in backbone.stages.items() if name.startswith(stage)]
        assert [block.conv1.kernel_size for block in blocks] == [(t, 1, 1) for t in expected]
        assert [block.conv1.padding for block in blocks] == [(t // 2, 0, 0) for t in expected]
        assert {block.conv2.kernel_size for block in blocks} == {(1, 3, 3)}
    flat = on_meta(c2d_resnet50)
    convs = [module for module in flat.modules() if isinstance(module, torch.nn.Conv3d)]
    assert len(convs) == 53
    assert {conv.kernel_size[0] for conv in convs} == {1}
    assert all(conv.bias is None for conv in convs)


def test_no_statistic_of_a_network_changes_in_training():
    bn, x = randomize(FrozenBatchNorm(5)), draw(2, 5, 3, 4, 4) * 3 + 2
    torch.testing.assert_close(bn.train()(x), norm(x, bn))
    backbone = randomize(VideoResNet(I3D_KERNELS, ("res3",), width=4)).train()
    before, clip = copy.deepcopy(backbone.state_dict()), draw(1, 3, 4, 40, 40)
    out = backbone(clip)
    out.sum().backward()
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.equal(backbone.eval()(clip), out)


@pytest.mark.parametrize("pool_padding, size", [(0, (7, 8)), (1, (8, 9))])
def test_stem(pool_padding, size):
    stem = randomize(Stem(3, 4, 5, pool_padding))
    clip = draw(2, 3, 6, 31, 34)
    x = F.conv3d(clip, stem.conv.weight, None, (1, 2, 2), (2, 3, 3))
    x = F.max_pool3d(norm(x, stem.bn).relu(), (1, 3, 3), (1, 2, 2), (0, pool_padding, pool_padding))
    assert x.shape == (2, 4, 6, *size)
    torch.testing.assert_close(stem(clip), x)


@pytest.mark.parametrize("channels, stride", [(8, 1), (8, 2), (12, 1), (12, 2)])
def test_bottleneck(channels, stride):
    block = randomize(Bottleneck(8, 3, channels, stride, 3))
    assert (block.shortcut is None) == (channels == 8 and stride == 1)
    x = draw(2, 8, 4, 7, 6)
    y = norm(F.conv3d(x, block.conv1.weight, padding=(1, 0, 0)), block.bn1).relu()
    y = F.conv3d(y, block.conv2.weight, None, (1, stride, stride), (0, 1, 1))
    y = norm(F.conv3d(norm(y, block.bn2).relu(), block.conv3.weight), block.bn3)
    shortcut = x
    if block.shortcut is not None:
        shortcut = F.conv3d(x, block.shortcut[0].weight, None, (1, stride, stride))
        shortcut = norm(shortcut, block.shortcut[1])
    expected = (shortcut + y).relu()
    assert expected.shape == (2, channels, 4, math.ceil(7 / stride), math.ceil(6 / stride))
    kept = x.clone()
    torch.testing.assert_close(block(x), expected)
    assert torch.equal(x, kept)  # in-place operations stay inside


def test_nonlocal_block_starts_as_the_identity():
    network = VideoResNet(I3D_KERNELS, ("res3", "res4"), width=4)
    blocks = [module for module in network.modules() if isinstance(module, NonLocalBlock)]
    assert len(blocks) == 5
    for block in blocks:
        x = torch.randn(1, block.theta.in_channels, 2, 4, 4)
        assert torch.equal(block(x), x)
    plain = VideoResNet(I3D_KERNELS, width=4)
    plain.load_state_dict({n: t for n, t in network.state_dict().items() if "nonlocal" not in n})
    clip = torch.randn(1, 3, 4, 64, 64)
    out = network(clip)
    assert torch.equal(out, plain(clip))
    out.sum().backward()  # it learns from its gain
    assert blocks[0].bn.weight.grad.abs().max() > 0 == blocks[0].theta.weight.grad.abs().max()


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_nonlocal_block_equals_the_formula(size):
    block = randomize(NonLocalBlock(6))
    x = draw(2, 6, 3, *size)
    out = block(x)
    for b in range(2):
        cells = x[b].permute(1, 2, 3, 0).reshape(-1, 6)
        small = F.max_pool2d(x[b].transpose(0, 1), 2).permute(0, 2, 3, 1).reshape(-1, 6)
        assert small.size(0) == 3 * (size[0] // 2) * (size[1] // 2)
        theta, phi, g = (
            values @ conv.weight.flatten(1).t() + conv.bias
            for values, conv in ((cells, block.theta), (small, block.phi), (small, block.g))
        )
        weights = (theta @ phi.t() / math.sqrt(3)).exp()
        weights = weights / weights.sum(dim=1, keepdim=True)
        y = weights @ g @ block.out.weight.flatten(1).t() + block.out.bias
        y = norm(y.t().reshape(6, 3, *size), block.bn)
        torch.testing.assert_close(block.branch(x)[b], y)
        torch.testing.assert_close(out[b], x[b] + y)


def test_unknown_nonlocal_stage():
    message = r"'nonlocal_stages' to name some of .*'res5'.* \(got \['res6'\]\)"
    with pytest.raises(ValueError, match=message):
        VideoResNet(I3D_KERNELS, ("res3", "res6"))
    with pytest.raises(ValueError, match="res4"):
        VideoResNet(((1,), (1,)), ("res4",), depths=(1,))


def test_c2d_sees_frames_one_by_one_and_i3d_joins_them():
    backbone = randomize(VideoResNet(C2D_KERNELS, width=4))
    clip = draw(1, 3, 6, 40, 40)
    x, y = clip, clip.flip(2)
    for name in ("stem", *BLOCKS[:3]):
        x, y = backbone.stages[name](x), backbone.stages[name](y)
    torch.testing.assert_close(y, x.flip(2))
    # Behind the pooling pairs of frames go together, whatever their order within a pair.
    pairs = clip.unflatten(2, (3, 2))
    torch.testing.assert_close(backbone(pairs.flip(3).flatten(2, 3)), backbone(clip))
    torch.testing.assert_close(backbone(pairs.flip(2).flatten(2, 3)), backbone(clip).flip(2))
    backbone = randomize(VideoResNet(I3D_KERNELS, width=4))
    assert (backbone(clip.flip(2)) - backbone(clip).flip(2)).abs().max() > 1e-3


def test_gradients_reach_every_parameter():
    backbone = randomize(VideoResNet(I3D_KERNELS, ("res3", "res4"), width=4)).train()
    with torch.no_grad():
        for module in backbone.modules():  # small steps, else the softmax is all or nothing
            if isinstance(module, Bottleneck):
                module.bn3.weight.mul_(0.1)
            elif isinstance(module, NonLocalBlock):
                module.bn.weight.mul_(0.1)
                module.theta.weight.mul_(0.1)
    out = backbone(draw(1, 3, 4, 64, 64))
    (out * draw(*out.shape, seed=3)).sum().backward()
    for name, p in backbone.named_parameters():
        assert p.grad.isfinite().all()
        # A bias on phi adds the same to all logits of a softmax: no gradient by the formula.
        assert (p.grad.abs().max() < 1e-9) == name.endswith("phi.bias"), name


def test_reset_parameters():
    backbone = randomize(VideoResNet(I3D_KERNELS, ("res3",), width=4))
    before = copy.deepcopy(backbone.state_dict())
    torch.manual_seed(5)
    backbone.reset_parameters()
    first = copy.deepcopy(backbone.state_dict())
    for name, value in first.items():
        if name.endswith("conv1.weight") or name.endswith("theta.weight"):
            fan_in = value[0].numel()
            fan_out = value.size(0) * value[0, 0].numel()
            bound = (6 / (fan_in + fan_out)) ** 0.5  # Glorot uniform
            assert 0.5 * bound < value.abs().max() <= bound
            assert not torch.equal(value, before[name])
        elif name.endswith("bn.weight") and "nonlocal" in name:
            assert (value == 0).all()
        elif name.endswith("running_var") or ".bn1.weight" in name:
            assert (value == 1).all()
        elif name.endswith(("bias", "running_mean")):
            assert (value == 0).all()
    torch.manual_seed(5)
    backbone.reset_parameters()
    assert all(torch.equal(value, first[name]) for name, value in backbone.state_dict().items())


def test_a_small_network_for_small_frames():
    """Stride 2 once before res2, fewer and narrower stages, norms of the caller's choice."""
    kwargs = dict(depths=(1, 2, 2), width=4, small_stem=True, norm=torch.nn.BatchNorm3d)
    model = VideoResNet(I3D_KERNELS, ("res3", "res4"), in_channels=1, **kwargs)
    assert model(torch.randn(2, 1, 4, 32, 32)).shape == (2, 64, 2, 8, 8)
    assert not any(isinstance(module, FrozenBatchNorm) for module in model.modules())
    assert {"nonlocal3_1", "nonlocal4_1"} <= set(model.stages) and "res5_0" not in model.stages
    assert model.stages["nonlocal3_1"].bn.weight.abs().max() == 0
    before = model.stages["stem"].bn.running_mean.clone()
    model(torch.randn(2, 1, 4, 32, 32))
    assert (model.stages["stem"].bn.running_mean != before).any()
