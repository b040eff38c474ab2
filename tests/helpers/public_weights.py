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


class Layout:
    """A layout once more, written down from the public code without a look at our map: patterns of
    stage ``s`` (2..5; ``t`` is one less), block ``b``, branch ``l`` (a, b, c) or ``n`` (1, 2, 3).
    """

    def __init__(
        self, stem, branch, shortcut, head, norm=PLAIN, around=("", ""), index=None, name=None
    ):
        self.stem_conv, self.stem_norm = stem
        self.branch, self.shortcut, self.head, self.norm = branch, shortcut, head, norm
        self.around, self.index, self.name = around, index or {}, name

    def _of(self, which, s, b, i):
        pattern = (self.shortcut if i == 3 else self.branch)[which]
        return pattern.format(s=self.index.get(s, s), t=s - 1, b=b, l="abcd"[i], n=i + 1)

    def conv(self, s, b, i):
        """The weight of one of three convolutions, or (3) of the shortcut."""
        return self._of(0, s, b, i)

    def bn(self, s, b, i):
        """What the names of its norm begin with."""
        return self._of(1, s, b, i)

    def theta(self, s, b, which, end):
        """A convolution in a non-local block."""
        return self.around[0].format(s=s, b=b, which=which, end=end, e=end[0])

    def nonlocal_bn(self, s, b):
        """What the names of its norm begin with."""
        return self.around[1].format(s=s, b=b)


TORCHVISION = Layout(
    ("conv1.weight", "bn1."), ("layer{t}.{b}.conv{n}.weight", "layer{t}.{b}.bn{n}."),
    ("layer{t}.{b}.downsample.0.weight", "layer{t}.{b}.downsample.1."), ("fc.weight", "fc.bias"),
)  # fmt: skip
SLOWFAST = Layout(
    ("s1.pathway0_stem.conv.weight", "s1.pathway0_stem.bn."),
    ("s{s}.pathway0_res{b}.branch2.{l}.weight", "s{s}.pathway0_res{b}.branch2.{l}_bn."),
    ("s{s}.pathway0_res{b}.branch1.weight", "s{s}.pathway0_res{b}.branch1_bn."),
    ("head.projection.weight", "head.projection.bias"),
    around=("s{s}.pathway0_nonlocal{b}.conv_{which}.{end}", "s{s}.pathway0_nonlocal{b}.bn."),
)
BLOCKS = "blocks.{s}.res_blocks.{b}."
BRANCHES = (
    (f"{BLOCKS}branch2.conv_{{l}}.weight", f"{BLOCKS}branch2.norm_{{l}}."),
    (f"{BLOCKS}branch1_conv.weight", f"{BLOCKS}branch1_norm."),
)
STEM = ("blocks.0.conv.weight", "blocks.0.norm.")
#: With the pooling at blocks.2, as c2d_r50 and i3d_r50 have it; and without, as slow_r50.
PYTORCHVIDEO = Layout(
    STEM, *BRANCHES, ("blocks.6.proj.weight", "blocks.6.proj.bias"), index={2: 1, 3: 3, 4: 4, 5: 5}
)
WITHOUT_POOL = Layout(
    STEM, *BRANCHES, ("blocks.5.proj.weight", "blocks.5.proj.bias"),
    index={2: 1, 3: 2, 4: 3, 5: 4}, name="pytorchvideo",
)  # fmt: skip
CAFFE2 = Layout(
    ("conv1_w", "res_conv1_bn_"), ("res{s}_{b}_branch2{l}_w", "res{s}_{b}_branch2{l}_bn_"),
    ("res{s}_{b}_branch1_w", "res{s}_{b}_branch1_bn_"), ("pred_w", "pred_b"), ("s", "b", "rm", "riv"),
    around=("nonlocal_conv{s}_{b}_{which}_{e}", "nonlocal_conv{s}_{b}_bn_"),
)  # fmt: skip
LAYOUTS = {"torchvision": TORCHVISION, "slowfast": SLOWFAST}
LAYOUTS |= {"pytorchvideo": PYTORCHVIDEO, "caffe2": CAFFE2}


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
                    bias = torch.randn(here // 2, generator=generator)
                    state[names.theta(s, b, which, "bias")] = bias
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
            if names.theta(s, b, "theta", "weight") in state:
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
