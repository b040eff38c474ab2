"""MFNet's motion blocks."""

import pytest
import torch
from torch.nn import functional as F

from rstg_pyg import VideoClassifier
from rstg_pyg.backbones import (
    C2D_KERNELS,
    MotionBlock,
    VideoResNet,
    load_backbone_weights,
    mfnet_resnet50,
    mfnet_resnet101,
)
from rstg_pyg.backbones.motion import MotionFilter

SMALL = dict(depths=(1, 1), width=4, motion_stages=("res2", "res3"))


@pytest.mark.parametrize(
    "make, stages, parameters",
    [
        (mfnet_resnet50, ("res2", "res3", "res4", "res5"), 57_291_758),
        (mfnet_resnet50, ("res2", "res3", "res4"), 32_123_886),
        (mfnet_resnet50, (), 23_864_558),
        (mfnet_resnet101, ("res2", "res3", "res4", "res5"), 76_283_886),
    ],
)
def test_numbers_of_parameters_are_those_of_the_specification(make, stages, parameters):
    with torch.device("meta"):
        model = VideoClassifier(make(motion_stages=stages), 174)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("size", [(4, 3, 5), (1, 2, 2), (2, 1, 1)])
def test_the_filter_is_the_difference_of_shifted_frames(size):
    x = torch.randn(2, 3, *size)
    out = MotionFilter()(x).unflatten(1, (5, 3))
    frames, height, width = size
    for k, (dx, dy) in enumerate([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]):
        for t in range(frames):
            for r in range(height):
                for c in range(width):
                    expected = torch.zeros(2, 3)
                    if t + 1 < frames:
                        if 0 <= r + dy < height and 0 <= c + dx < width:
                            expected = x[:, :, t + 1, r + dy, c + dx].clone()
                        expected -= x[:, :, t, r, c]
                    torch.testing.assert_close(out[:, k, :, t, r, c], expected)


@pytest.mark.parametrize("reduction", [1, 2])
def test_a_block_is_a_convolution_of_map_and_differences_and_starts_as_the_identity(reduction):
    torch.manual_seed(0)
    block, x = MotionBlock(4, reduction), torch.randn(2, 4, 3, 4, 5)
    seen = x if reduction == 1 else F.conv3d(x, block.reduce.weight, block.reduce.bias)
    both = torch.cat([x, MotionFilter()(seen)], dim=1)
    assert both.size(1) == 4 + 5 * 4 // reduction
    torch.testing.assert_close(block(x), F.conv3d(both, block.conv.weight, block.conv.bias))
    block.reset_parameters()
    torch.testing.assert_close(block(x), x)
    block(x).square().sum().backward()
    assert block.conv.weight.grad[:, 4:].abs().max() > 0


def test_frames_of_a_resnet_see_the_next_one_and_keep_their_number():
    torch.manual_seed(0)
    backbone = mfnet_resnet50(**SMALL).eval()
    assert list(backbone.stages) == ["stem", "res2_0", "motion2", "res3_0", "motion3"]
    clip = torch.randn(1, 3, 5, 32, 32)
    torch.nn.init.normal_(backbone.stages["motion2"].conv.weight, std=0.3)
    before = backbone(clip)
    clip[:, :, 3] += 1
    changed = (backbone(clip) - before).abs().amax((0, 1, 3, 4)) > 1e-4
    assert changed.tolist() == [False, False, True, True, False]


def test_weights_of_an_image_network_leave_the_blocks_as_they_are():
    plain = mfnet_resnet50(**{**SMALL, "motion_stages": ()})
    names = {"stem.conv": "conv1", "stem.bn": "bn1", "res2_0": "layer1.0", "res3_0": "layer2.0"}
    state = {}
    for name, value in plain.state_dict().items():
        name = name.removeprefix("stages.").replace("shortcut", "downsample")
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        state[name] = value.squeeze(2) if value.dim() == 5 else value
    backbone = mfnet_resnet50(**SMALL)
    report = load_backbone_weights(backbone, state)
    assert {name.split(".")[1] for name in report.kept} == {"motion2", "motion3"}
    clip = torch.randn(1, 3, 2, 32, 32)
    torch.testing.assert_close(backbone.eval()(clip), plain.eval()(clip))


def test_an_unknown_stage_is_named():
    with pytest.raises(ValueError, match=r"'motion_stages' to name some of .*\(got \['res9'\]\)"):
        VideoResNet(C2D_KERNELS, motion_stages=("res9",))


@pytest.mark.parametrize("kernels", [((2,), (1,)), ((1,), (3, 4)), ((1,), ()), ((1,),), ((1,), (0,))])
def test_temporal_kernels_are_odd_and_there_for_every_stage(kernels):
    message = r"'temporal_kernels' to have odd numbers for the stem and each of 1 stages \(got \(\("
    with pytest.raises(ValueError, match=message):
        VideoResNet(kernels, depths=(2,), width=4)
