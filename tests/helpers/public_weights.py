"""Files of other people's weights: their names written down once more, random tensors under these
names, and the network that the public code builds from them.
"""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rstg_pyg.backbones import I3D_KERNELS, VideoResNet, WeightsError, load_backbone_weights

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
    name, head = "pytorchvideo", ("blocks.5.proj.weight", "blocks.5.proj.bias")
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
