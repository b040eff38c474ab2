import builtins
import collections
import io
import os
import pickle
import pickletools
import struct

import numpy as np
import pytest
import torch
import torchvision
from torch.nn import functional as F

from rstg_pyg.backbones import (
    C2D_KERNELS,
    I3D_KERNELS,
    VideoResNet,
    WeightsError,
    i3d_resnet50,
    load_backbone_weights,
    nonlocal_resnet50,
    read_weights,
)

DEPTHS = (3, 4, 6, 3)
PLAIN = ("weight", "bias", "running_mean", "running_var")
VIDEO = ("slowfast", "pytorchvideo", "caffe2")


# The layouts once more, written down from the public code without a look at our map. Each function
# gives the name of one tensor: ``s`` is the stage (2..5), ``b`` the block, ``i`` 0, 1, 2 (branch 2a,
# 2b, 2c) or 3 (the shortcut).


class Torchvision:
    stem_conv, stem_norm = "conv1.weight", "bn1."
    norm, head = PLAIN, ("fc.weight", "fc.bias")

    @staticmethod
    def conv(s, b, i):
        return f"layer{s - 1}.{b}." + ("downsample.0" if i == 3 else f"conv{i + 1}") + ".weight"

    @staticmethod
    def bn(s, b, i):
        return f"layer{s - 1}.{b}." + ("downsample.1." if i == 3 else f"bn{i + 1}.")


class SlowFast:
    stem_conv, stem_norm = "s1.pathway0_stem.conv.weight", "s1.pathway0_stem.bn."
    norm, head = PLAIN, ("head.projection.weight", "head.projection.bias")

    @staticmethod
    def conv(s, b, i):
        return f"s{s}.pathway0_res{b}." + ("branch1" if i == 3 else f"branch2.{'abc'[i]}") + ".weight"

    @staticmethod
    def bn(s, b, i):
        return f"s{s}.pathway0_res{b}." + ("branch1_bn." if i == 3 else f"branch2.{'abc'[i]}_bn.")

    @staticmethod
    def theta(s, b, which, end):
        return f"s{s}.pathway0_nonlocal{b}.conv_{which}.{end}"

    @staticmethod
    def nonlocal_bn(s, b):
        return f"s{s}.pathway0_nonlocal{b}.bn."


class PyTorchVideo:  # with the pooling at blocks.2, as c2d_r50 and i3d_r50 have it
    stem_conv, stem_norm = "blocks.0.conv.weight", "blocks.0.norm."
    norm, head = PLAIN, ("blocks.6.proj.weight", "blocks.6.proj.bias")
    index = {2: 1, 3: 3, 4: 4, 5: 5}  # noqa: RUF012

    @classmethod
    def conv(cls, s, b, i):
        part = "branch1_conv" if i == 3 else f"branch2.conv_{'abc'[i]}"
        return f"blocks.{cls.index[s]}.res_blocks.{b}.{part}.weight"

    @classmethod
    def bn(cls, s, b, i):
        part = "branch1_norm" if i == 3 else f"branch2.norm_{'abc'[i]}"
        return f"blocks.{cls.index[s]}.res_blocks.{b}.{part}."


class PyTorchVideoWithoutPool(PyTorchVideo):  # as slow_r50 has it
    head = ("blocks.5.proj.weight", "blocks.5.proj.bias")
    index = {2: 1, 3: 2, 4: 3, 5: 4}  # noqa: RUF012


class Caffe2:
    stem_conv, stem_norm = "conv1_w", "res_conv1_bn_"
    norm, head = ("s", "b", "rm", "riv"), ("pred_w", "pred_b")

    @staticmethod
    def conv(s, b, i):
        return f"res{s}_{b}_" + ("branch1" if i == 3 else f"branch2{'abc'[i]}") + "_w"

    @staticmethod
    def bn(s, b, i):
        return f"res{s}_{b}_" + ("branch1" if i == 3 else f"branch2{'abc'[i]}") + "_bn_"

    @staticmethod
    def theta(s, b, which, end):
        return f"nonlocal_conv{s}_{b}_{which}_{end[0]}"

    @staticmethod
    def nonlocal_bn(s, b):
        return f"nonlocal_conv{s}_{b}_bn_"


LAYOUTS = {
    "torchvision": Torchvision,
    "slowfast": SlowFast,
    "pytorchvideo": PyTorchVideo,
    "caffe2": Caffe2,
}


def synthetic(layout, kernels=I3D_KERNELS, nonlocal_stages=(), width=8, classes=5):
    """Random tensors under the names and in the shapes of a file of that layout."""
    names, state = LAYOUTS[layout] if isinstance(layout, str) else layout, {}
    generator = torch.Generator().manual_seed(0)

    def conv(name, *shape):
        fan_in = int(np.prod(shape[1:]))
        state[name] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5

    def norm(name, channels):
        gain, offset, mean, variance = (f"{name}{end}" for end in names.norm)
        state[gain] = torch.rand(channels, generator=generator) + 0.5
        state[offset] = torch.randn(channels, generator=generator) * 0.1
        state[mean] = torch.randn(channels, generator=generator) * 0.1
        state[variance] = torch.rand(channels, generator=generator) + 0.5

    conv(names.stem_conv, width, 3, kernels[0][0], 7, 7)
    norm(names.stem_norm, width)
    here = width
    for s, depth in zip(range(2, 6), DEPTHS):
        inner = width * 2 ** (s - 2)
        for b in range(depth):
            frames = kernels[s - 1][b % len(kernels[s - 1])]
            for i, shape in enumerate(
                [(inner, here, frames, 1, 1), (inner, inner, 1, 3, 3), (4 * inner, inner, 1, 1, 1)]
            ):
                conv(names.conv(s, b, i), *shape)
                norm(names.bn(s, b, i), shape[0])
            if b == 0:
                conv(names.conv(s, b, 3), 4 * inner, here, 1, 1, 1)
                norm(names.bn(s, b, 3), 4 * inner)
            here = 4 * inner
            if f"res{s}" in nonlocal_stages and b % 2 == 1:
                for which in ("theta", "phi", "g"):
                    conv(names.theta(s, b, which, "weight"), here // 2, here, 1, 1, 1)
                    state[names.theta(s, b, which, "bias")] = torch.randn(
                        here // 2, generator=generator
                    )
                conv(names.theta(s, b, "out", "weight"), here, here // 2, 1, 1, 1)
                state[names.theta(s, b, "out", "bias")] = torch.randn(here, generator=generator)
                norm(names.nonlocal_bn(s, b), here)
    conv(names.head[0], classes, here)
    state[names.head[1]] = torch.randn(classes, generator=generator)
    return state


def reference(state, layout, clip, pool_padding=1):
    """The network of the public code on those names (stride 2 in every stage from res3 on)."""
    names = LAYOUTS[layout] if isinstance(layout, str) else layout
    state = {name: torch.as_tensor(value).double() for name, value in state.items()}

    def conv(x, name, stride=1, pad=True):
        weight = state[name]
        padding = [side // 2 for side in weight.shape[2:]] if pad else 0
        return F.conv3d(x, weight, None, (1, stride, stride), padding)

    def norm(x, name):
        gain, offset, mean, variance = (state[f"{name}{end}"].view(-1, 1, 1, 1) for end in names.norm)
        return (x - mean) / (variance + 1e-5).sqrt() * gain + offset

    x = norm(conv(clip, names.stem_conv, 2), names.stem_norm).relu()
    x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, pool_padding, pool_padding))
    for s, depth in zip(range(2, 6), DEPTHS):
        for b in range(depth):
            stride = 2 if b == 0 and s > 2 else 1
            y = norm(conv(x, names.conv(s, b, 0)), names.bn(s, b, 0)).relu()
            y = norm(conv(y, names.conv(s, b, 1), stride), names.bn(s, b, 1)).relu()
            y = norm(conv(y, names.conv(s, b, 2)), names.bn(s, b, 2))
            if b == 0:
                x = norm(conv(x, names.conv(s, b, 3), stride, pad=False), names.bn(s, b, 3))
            x = (x + y).relu()
            if hasattr(names, "theta") and names.theta(s, b, "theta", "weight") in state:
                small = F.max_pool3d(x, (1, 2, 2))

                def linear(x, which, s=s, b=b):
                    weight = state[names.theta(s, b, which, "weight")].flatten(1)
                    bias = state[names.theta(s, b, which, "bias")]
                    return torch.einsum("oc,bcn->bon", weight, x.flatten(2)) + bias[:, None]

                theta, phi, g = linear(x, "theta"), linear(small, "phi"), linear(small, "g")
                affinity = torch.einsum("bcn,bcm->bnm", theta, phi) * theta.size(1) ** -0.5
                y = torch.einsum("bnm,bcm->bcn", affinity.softmax(dim=2), g)
                x = x + norm(linear(y, "out").view(x.shape), names.nonlocal_bn(s, b))
        if s == 2:
            x = F.max_pool3d(x, (2, 1, 1))
    return x


def network(kernels=I3D_KERNELS, nonlocal_stages=(), width=8, pool_padding=1, **kwargs):
    torch.manual_seed(1)
    kwargs = {"last_stride": 2, "pool_padding": pool_padding, **kwargs}
    return VideoResNet(kernels, nonlocal_stages, width=width, **kwargs).double()


def random_clip(frames=4, size=32):
    return torch.randn(1, 3, frames, size, size, generator=torch.Generator().manual_seed(2)).double()


def assert_same(out, expected):
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(out, expected, atol=1e-8, rtol=1e-7)


def assert_refused(backbone, source, match, **kwargs):
    """An error of two lines at most, and no tensor has changed."""
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(WeightsError, match=match) as error:
        load_backbone_weights(backbone, source, **kwargs)
    assert len(str(error.value).splitlines()) <= 2
    for name, value in backbone.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=0, rtol=0, equal_nan=True)
    return error.value


def python2_pickle(content):
    """The bytes that ``cPickle.dump(content, file, 2)`` of Python 2 with its numpy writes: every
    string is a byte string, and numpy's module has its old name."""

    class Pickler(pickle._Pickler):
        dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

        def save_string(self, text):
            data = text if isinstance(text, bytes) else text.encode("latin1")
            self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
            self.memoize(text)

        dispatch[bytes] = dispatch[str] = save_string

    file = io.BytesIO()
    Pickler(file, 2).dump(content)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


# The numbers arrive.


@pytest.mark.parametrize("kernels", [C2D_KERNELS, I3D_KERNELS])
@pytest.mark.parametrize("layout", VIDEO)
def test_video_layouts_compute_what_the_public_networks_compute(layout, kernels):
    state = synthetic(layout, kernels)
    backbone = network(kernels)
    report = load_backbone_weights(backbone, state)
    assert_same(backbone(random_clip()), reference(state, layout, random_clip()))
    assert report.layout == layout
    assert len(report.used) == len(state) - 2 == 265
    assert set(report.used.values()) == {
        name for name in backbone.state_dict() if not name.endswith("num_batches_tracked")
    }
    assert report.skipped == {name: "classifier" for name in LAYOUTS[layout].head}
    assert not (report.inflated or report.kept or report.filled or report.missing or report.unused)
    assert str(report).startswith(f"{layout}: 265 used (0 inflated), 2 skipped, 0 filled")
    assert len(report.table().splitlines()) == len(state)


@pytest.mark.parametrize("layout", ["slowfast", "caffe2"])
def test_nonlocal_networks(layout):
    stages = ("res3", "res4")
    state = synthetic(layout, nonlocal_stages=stages)
    backbone = network(nonlocal_stages=stages)
    report = load_backbone_weights(backbone, state)
    assert len(report.used) == 265 + 5 * 12
    assert_same(backbone(random_clip(4, 64)), reference(state, layout, random_clip(4, 64)))


def test_caffe2_of_the_authors_has_no_padding_in_the_first_pooling():
    state = synthetic("caffe2")
    backbone = network(pool_padding=0)
    load_backbone_weights(backbone, state)
    assert_same(backbone(random_clip()), reference(state, "caffe2", random_clip(), pool_padding=0))


def test_slowfast_of_the_first_version_calls_the_nonlocal_norm_norm():
    state = synthetic("slowfast", nonlocal_stages=("res3",))
    old = {name.replace("nonlocal1.bn.", "nonlocal1.norm."): value for name, value in state.items()}
    assert old.keys() != state.keys()
    new, other = network(nonlocal_stages=("res3",)), network(nonlocal_stages=("res3",))
    load_backbone_weights(new, state)
    load_backbone_weights(other, old)
    for a, b in zip(new.state_dict().values(), other.state_dict().values()):
        assert torch.equal(a, b)


def test_pytorchvideo_stages_are_counted_not_read_off():
    kernels = ((1,), (1,), (1,), (3,), (3,))  # slow_r50
    state = synthetic(PyTorchVideoWithoutPool, kernels)
    backbone = network(kernels)
    report = load_backbone_weights(backbone, state)
    assert report.used["blocks.4.res_blocks.0.branch1_conv.weight"] == "stages.res5_0.shortcut.0.weight"
    assert_same(backbone(random_clip()), reference(state, PyTorchVideoWithoutPool, random_clip()))


@pytest.fixture(scope="module")
def image_network():
    torch.manual_seed(0)
    model = torchvision.models.resnet50(num_classes=10).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
                module.running_mean.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
                module.running_var.copy_(torch.rand(module.bias.shape, generator=generator) + 0.5)
    return model


def image_features(model, images):
    x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    early = model.layer1(x)
    return early, model.layer4(model.layer3(model.layer2(early)))


@torch.no_grad()
def test_torchvision_in_c2d_is_the_image_network_per_frame(image_network):
    backbone = VideoResNet(C2D_KERNELS, pool_padding=1, last_stride=2)
    head = torch.nn.Linear(2048, 10)
    report = load_backbone_weights(backbone, image_network.state_dict(), head=head)
    assert (report.layout, report.inflated) == ("torchvision", {})
    assert len(report.used) == 267
    assert set(report.skipped.values()) == {"counter of the batch norm"}
    images = torch.randn(2, 3, 64, 64)
    early, late = image_features(image_network, images)
    x = images.transpose(0, 1)[None]  # two different frames
    for name in ("stem", "res2_0", "res2_1", "res2_2"):
        x = backbone.stages[name](x)
    torch.testing.assert_close(x[0].transpose(0, 1), early, atol=1e-4, rtol=1e-4)
    still = images[:, :, None].expand(-1, -1, 2, -1, -1)  # behind res2 the pairs are pooled
    out = backbone(still)
    assert late.abs().max() > 0.1
    torch.testing.assert_close(out[:, :, 0], late, atol=1e-3, rtol=1e-3)
    logits = head(out.mean(dim=(2, 3, 4)))
    torch.testing.assert_close(logits, image_network(images), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_torchvision_inflated_to_i3d_keeps_a_still_clip(image_network):
    backbone = i3d_resnet50(pool_padding=1, last_stride=2)
    report = load_backbone_weights(backbone, image_network.state_dict())
    # Stem 5 frames; first convolutions of 3 + 2 + 3 + 1 blocks, 3 frames.
    assert sorted(report.inflated.values()) == [3] * 9 + [5]
    assert report.inflated["stages.stem.conv.weight"] == 5
    assert "(inflated to 5 frames)" in report.table().splitlines()[0]
    # Zero padding in time reaches 2 + 3 frames, then 6 frames of half the rate: 17 frames.
    image = torch.randn(1, 3, 32, 32)
    out = backbone(image[:, :, None].expand(-1, -1, 40, -1, -1))
    _, late = image_features(image_network, image)
    middle = out[:, :, 10]
    scale = late.abs().max()
    assert (middle - late).abs().max() < 1e-4 * scale
    assert (out[:, :, 0] - late).abs().max() > 1e-2 * scale  # the border is another matter


def test_video_kernels_of_one_frame_are_inflated_too():
    state = synthetic("slowfast", C2D_KERNELS)
    backbone = network(I3D_KERNELS)
    report = load_backbone_weights(backbone, state)
    assert len(report.inflated) == 10
    stem = backbone.stages["stem"].conv.weight
    for frame in range(5):
        torch.testing.assert_close(stem[:, :, frame], state[SlowFast.stem_conv][:, :, 0].double() / 5)


def test_head_goes_into_a_linear_layer():
    state = synthetic("caffe2", classes=7)
    state["pred_w"] = state["pred_w"].view(7, -1, 1, 1, 1)  # kept as a convolution for testing
    head = torch.nn.Linear(256, 7)
    report = load_backbone_weights(network(), state, head=head)
    assert report.used["pred_w"] == "head.weight" and not report.skipped
    assert torch.equal(head.weight, state["pred_w"].flatten(1))
    assert torch.equal(head.bias, state["pred_b"])


def test_bgr_reverses_the_stem():
    state = synthetic("caffe2")
    backbone = network()
    load_backbone_weights(backbone, state, bgr=True)
    assert_same(backbone(random_clip()), reference(state, "caffe2", random_clip().flip(1)))


def test_types_wrappers_and_training_state():
    state = synthetic("slowfast")
    state = {f"module.{name}": value.half() for name, value in state.items()}
    state["module.s1.pathway0_stem.bn.num_batches_tracked"] = torch.tensor(7)
    checkpoint = {"epoch": 3, "model_state": state, "optimizer_state": {"x": 1}, "cfg": "A: 1"}
    backbone = network()
    report = load_backbone_weights(backbone, checkpoint)
    assert len(report.used) == 265
    beside = {"epoch", "optimizer_state", "cfg"}
    assert {name for name, why in report.skipped.items() if why == "beside the weights"} == beside
    assert report.skipped["s1.pathway0_stem.bn.num_batches_tracked"] == "counter of the batch norm"
    expected = state[f"module.{SlowFast.stem_conv}"].double()
    assert torch.equal(backbone.stages["stem"].conv.weight, expected)


# Non-local blocks that are new; affine layers.


def test_nonlocal_network_from_a_plain_file_has_to_be_asked_for():
    state = synthetic("slowfast")
    backbone = network(nonlocal_stages=("res3", "res4"))
    error = assert_refused(backbone, state, r"60 tensors are missing \(stages.nonlocal3_1")
    assert "keep_nonlocal" in str(error) and len(error.report.missing) == 60
    report = load_backbone_weights(backbone, state, keep_nonlocal=True)
    assert len(report.kept) == 60 and len(report.used) == 265
    assert_same(backbone(random_clip(4, 64)), reference(state, "slowfast", random_clip(4, 64)))
    # A file with some non-local blocks has to have all of them.
    some = synthetic("slowfast", nonlocal_stages=("res3",))
    assert_refused(backbone, some, "36 tensors are missing", keep_nonlocal=True)


def test_nonlocal_file_in_a_plain_network():
    state = synthetic("caffe2", nonlocal_stages=("res3", "res4"))
    assert_refused(network(), state, "60 tensors would be left over.*\n.*non-local blocks")


def test_affine_files():
    state = synthetic("caffe2", nonlocal_stages=("res4",))
    affine = {n: v for n, v in state.items() if not n.endswith(("_rm", "_riv"))}
    for s, b in [(4, 1), (4, 3), (4, 5)]:  # and no norm in the non-local blocks
        del affine[f"nonlocal_conv{s}_{b}_bn_s"], affine[f"nonlocal_conv{s}_{b}_bn_b"]
    backbone = network(nonlocal_stages=("res4",))
    assert_refused(backbone, affine, "tensors are missing")
    report = load_backbone_weights(backbone, affine, affine=True)
    assert len(report.filled) == 2 * 53 + 4 * 3
    for name in list(state):
        if name.endswith("_riv"):
            affine[name] = torch.ones_like(state[name]) - 1e-5
            affine[name.replace("_riv", "_rm")] = torch.zeros_like(state[name])
        if name.startswith("nonlocal") and name.endswith(("_bn_s", "_bn_b")):
            affine[name] = torch.full_like(state[name], float(name.endswith("_s")))
    clip = random_clip(4, 64)
    torch.testing.assert_close(backbone(clip), reference(affine, "caffe2", clip), atol=1e-4, rtol=1e-4)


def test_affine_fills_no_half_of_the_statistics():
    state = synthetic("caffe2")
    del state["res_conv1_bn_rm"]
    assert_refused(network(), state, "1 tensors are missing .stages.stem.bn.running_mean", affine=True)


# What does not fit is refused as a whole.


@pytest.mark.parametrize("layout", VIDEO)
def test_missing_and_extra_tensors(layout):
    names = LAYOUTS[layout]
    state = synthetic(layout)
    del state[names.conv(4, 5, 1)]
    assert_refused(network(), state, r"1 tensors are missing \(stages.res4_5.conv2.weight\)")
    state = synthetic(layout)
    state[names.conv(5, 3, 0)] = state[names.conv(5, 2, 0)]
    error = assert_refused(network(), state, "1 tensors would be left over")
    assert error.report.unused == [names.conv(5, 3, 0)]
    state = synthetic(layout)
    state["something.else"] = torch.zeros(2)
    assert_refused(network(), state, r"left over \(something.else\)")
    backbone = network()
    assert load_backbone_weights(backbone, state, allow_unused=True).unused == ["something.else"]
    assert_same(backbone(random_clip()), reference(state, layout, random_clip()))


def test_wrong_shapes():
    state = synthetic("caffe2")
    state["res2_0_branch2b_w"] = state["res2_0_branch2b_w"][:, :7]
    error = assert_refused(network(), state, r"expected shape \[8, 8, 1, 3, 3\], got \[8, 7, 1, 3, 3\]")
    assert error.report.mismatched.keys() == {"res2_0_branch2b_w"}
    # Kernels of more frames than ours are not cut.
    assert_refused(network(C2D_KERNELS), synthetic("caffe2"), r"10 tensors do not fit.*\n.*temporal")
    assert_refused(network(width=4), synthetic("slowfast"), "tensors do not fit")
    # A head of another number of classes.
    head = torch.nn.Linear(256, 4)
    before = head.weight.clone()
    assert_refused(network(), synthetic("slowfast"), r"head.projection.weight: expected", head=head)
    assert torch.equal(head.weight, before)
    headless = {n: v for n, v in synthetic("slowfast").items() if not n.startswith("head")}
    assert_refused(network(), headless, r"missing \(head.weight, head.bias\)", head=head)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite(bad):
    state = synthetic("pytorchvideo")
    state["blocks.5.res_blocks.2.branch2.norm_c.running_var"][3] = bad
    assert_refused(network(), state, "1 of 256 values are not finite.*\n.*damaged")


def test_other_wrong_values():
    state = synthetic("caffe2")
    state["res_conv1_bn_riv"][0] = -1
    assert_refused(network(), state, "negative")
    state = synthetic("caffe2")
    state["conv1_w"] = state["conv1_w"].int()
    assert_refused(network(), state, "conv1_w: expected floating point numbers, got torch.int32")
    state = synthetic("caffe2")
    state["conv1_w"] = [1.0, 2.0]
    assert_refused(network(), state, "conv1_w: expected floating point numbers, got list")
    state = synthetic("slowfast", nonlocal_stages=("res3",))
    double = "s3.pathway0_nonlocal1.norm.weight"
    state[double] = state["s3.pathway0_nonlocal1.bn.weight"]
    assert_refused(network(nonlocal_stages=("res3",)), state, f"{double}: a second tensor")
    state = synthetic("caffe2")
    state["conv1_w"] = np.full(state["conv1_w"].shape, 1e300)  # too large for float32
    assert_refused(network().float(), state, "not finite")


def test_layouts_that_are_not_known():
    backbone = network()
    assert_refused(backbone, {"backbone.a": torch.zeros(1)}, "expected names of the layout")
    assert_refused(backbone, {}, "got nothing")
    assert_refused(backbone, synthetic("caffe2"), "layout slowfast", layout="slowfast")
    assert_refused(backbone, synthetic("caffe2"), "'layout' to be one of", layout="caffe")
    both = {**synthetic("caffe2"), "layer1.0.conv1.weight": torch.zeros(1)}
    assert_refused(backbone, both, r"left over \(layer1.0.conv1.weight\)")
    two_pathways = {**synthetic("slowfast"), "s1.pathway1_stem.conv.weight": torch.zeros(1)}
    assert_refused(backbone, two_pathways, "left over")


# Files.


@pytest.mark.parametrize("suffix", [".pyth", ".pt", ".pth"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path, suffix, zipped):
    state = synthetic("slowfast")
    path = tmp_path / f"weights{suffix}"
    checkpoint = {"model_state": state, "optimizer_state": {"momentum": [torch.zeros(2)]}, "epoch": 1}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    backbone = network()
    report = load_backbone_weights(backbone, path)
    assert report.skipped["optimizer_state"] == "beside the weights"
    assert_same(backbone(random_clip()), reference(state, "slowfast", random_clip()))
    assert read_weights(path)["epoch"] == 1


def test_safetensors_files(tmp_path):
    torch_files = pytest.importorskip("safetensors.torch")
    state = synthetic("pytorchvideo")
    path = tmp_path / "weights.safetensors"
    torch_files.save_file(state, path)
    load_backbone_weights(network(), str(path))
    path.write_bytes(path.read_bytes()[:-100])
    assert_refused(network(), path, "weights.safetensors: .*cut off")


def blobs():
    content = {name: value.numpy() for name, value in synthetic("caffe2").items()}
    content.update({f"{name}_momentum": value for name, value in list(content.items())[:3]})
    content.update(lr=np.array([0.01], dtype=np.float32), model_iter=400000)
    return content


@pytest.mark.parametrize("version", ["python 2", 0, 2, 3, 4, 5])
@pytest.mark.parametrize("inside", [True, False])
def test_caffe2_files(tmp_path, version, inside):
    content = {"blobs": blobs()} if inside else blobs()
    data = python2_pickle(content) if version == "python 2" else pickle.dumps(content, version)
    path = tmp_path / "c2_model_iter400000.pkl"
    path.write_bytes(data)
    backbone = network()
    report = load_backbone_weights(backbone, path)
    assert report.skipped["conv1_w_momentum"] == "momentum of the optimiser"
    assert report.skipped["lr"] == report.skipped["model_iter"] == "no weight"
    state = synthetic("caffe2")
    assert_same(backbone(random_clip()), reference(state, "caffe2", random_clip()))


def test_python2_pickle_is_one():
    opcodes = {op.name for op, _, _ in pickletools.genops(python2_pickle({"a": np.ones(3)}))}
    assert "BINSTRING" in opcodes and not opcodes & {"BINUNICODE", "BINBYTES", "SHORT_BINBYTES"}


def test_arrays_of_all_kinds(tmp_path):
    content = collections.OrderedDict(
        fortran=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        big=np.arange(4, dtype=">f4"),
        bits=np.array([True, False]),
        scalar=np.float64(2.5),
        strided=np.arange(10)[::3],
        text="text",
        nothing=None,
        numbers=[1, 2.5, (3, True)],
    )
    for version in ("python 2", 2, 4, 5):
        data = python2_pickle(content) if version == "python 2" else pickle.dumps(content, version)
        (tmp_path / "a.pkl").write_bytes(data)
        result = read_weights(tmp_path / "a.pkl")
        assert list(result) == list(content)
        for name in ("fortran", "big", "bits", "scalar", "strided"):
            np.testing.assert_array_equal(result[name], content[name])
            assert result[name].dtype == content[name].dtype
        assert (result["text"], result["nothing"], result["numbers"]) == (
            "text",
            None,
            [1, 2.5, (3, True)],
        )


class Code:
    """Unpickling it calls a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("kind", [0, 2, 4, "zipped", "not zipped"])
@pytest.mark.parametrize("first", [True, False])
def test_code_in_a_file_does_not_run(tmp_path, kind, first):
    marker, other = tmp_path / "marker", tmp_path / "other"
    code = {"x": Code(builtins.open, str(marker), "w"), "y": Code(os.system, f"touch {other}")}
    state = blobs() if isinstance(kind, int) else synthetic("slowfast")
    content = {**code, **state} if first else {**state, **code}
    if isinstance(kind, int):
        path = tmp_path / "weights.pkl"
        path.write_bytes(pickle.dumps({"blobs": content}, kind))
        pickle.loads(path.read_bytes())  # what it would do
    else:
        path = tmp_path / "weights.pyth"
        torch.save({"model_state": content}, path, _use_new_zipfile_serialization=kind == "zipped")
        torch.load(path, weights_only=False)
    assert marker.exists() and other.exists()
    marker.unlink()
    other.unlink()
    assert_refused(network(), path, rf"{path.name}: refused.*open.*could run code")
    assert not marker.exists() and not other.exists()


@pytest.mark.parametrize(
    "function, args",
    [
        (os.system, ("echo",)),
        (builtins.eval, ("1",)),
        (builtins.getattr, ("a", "upper")),
        (np.load, ("file",)),
        (np.array, ([1.0],)),
        (np.dtype, ("O",)),
        (np.memmap, ("file",)),
        (pickle.loads, (b"",)),
    ],
)
def test_only_arrays_are_rebuilt(tmp_path, function, args):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"conv1_w": Code(function, *args)}, 2))
    assert_refused(network(), path, "refused")
    path.write_bytes(pickle.dumps({"conv1_w": np.array([object], dtype=object)}, 2))
    assert_refused(network(), path, "refused")


def test_a_pickle_cannot_change_the_reader(tmp_path):
    path = tmp_path / "weights.pkl"
    # BUILD with attributes on what the name of an array leads to.
    path.write_bytes(b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nN}X\x01\x00\x00\x00aK\x01s\x86b.")
    assert_refused(network(), path, "weights.pkl")
    test_caffe2_files(tmp_path, 2, True)


@pytest.mark.parametrize("suffix", [".pkl", ".pyth", ".safetensors"])
def test_broken_files(tmp_path, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".pkl":
        whole.write_bytes(python2_pickle({"blobs": blobs()}))
    else:
        torch.save({"model_state": synthetic("slowfast")}, whole)
    data = whole.read_bytes()
    path = tmp_path / f"broken{suffix}"
    backbone = network()
    for part in (b"", data[:1], data[:5], data[: len(data) // 2], data[:-1], b"hello world\n" * 9):
        path.write_bytes(part)
        assert_refused(backbone, path, rf"broken{suffix}: expected a file of weights")
    assert_refused(backbone, tmp_path / f"absent{suffix}", f"absent{suffix}: no such file")
    assert_refused(backbone, tmp_path, "no such file")


def test_files_without_a_dictionary(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "a.pt")
    assert_refused(network(), tmp_path / "a.pt", r"a.pt: expected a dictionary of tensors \(got list\)")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(np.ones(3)))
    assert_refused(network(), tmp_path / "a.pkl", r"expected a dictionary of tensors \(got ndarray\)")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "b.pt")
    assert_refused(network(), tmp_path / "b.pt", "torch.nn.modules.linear.Linear")


def test_default_network_takes_weights_of_real_width():
    backbone = nonlocal_resnet50()
    state = synthetic("caffe2", nonlocal_stages=("res3", "res4"), width=64, classes=400)
    assert state["nonlocal_conv4_5_theta_w"].shape == (512, 1024, 1, 1, 1)
    head = torch.nn.Linear(2048, 400)
    assert len(load_backbone_weights(backbone, state, head=head).used) == 265 + 60 + 2
    last = backbone.stages["res5_2"].bn3.running_var
    assert torch.equal(last, state["res5_2_branch2c_bn_riv"])
