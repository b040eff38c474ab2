import numpy as np
import pytest
import torch
from helpers.public_weights import (
    LAYOUTS,
    SLOWFAST,
    VIDEO,
    assert_refused,
    assert_same,
    network,
    random_clip,
    reference,
    synthetic,
)

from rstg_pyg.backbones import C2D_KERNELS, I3D_KERNELS, load_backbone_weights


def test_video_kernels_of_one_frame_are_inflated_too():
    state = synthetic("slowfast", C2D_KERNELS)
    backbone = network(I3D_KERNELS)
    report = load_backbone_weights(backbone, state)
    assert len(report.inflated) == 10
    stem = backbone.stages["stem"].conv.weight
    for frame in range(5):
        torch.testing.assert_close(stem[:, :, frame], state[SLOWFAST.stem_conv][:, :, 0].double() / 5)


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
    assert {name for name, why in report.skipped.items() if why == "not among the weights"} == beside
    assert report.skipped["s1.pathway0_stem.bn.num_batches_tracked"] == "counter or index"
    expected = state[f"module.{SLOWFAST.stem_conv}"].double()
    assert torch.equal(backbone.stages["stem"].conv.weight, expected)


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
    more = synthetic("caffe2", nonlocal_stages=("res3", "res4"))
    assert_refused(network(), more, "60 tensors are unused.*\n.*non-local blocks")


def test_affine_files():
    state = synthetic("caffe2", nonlocal_stages=("res4",))
    affine = {n: v for n, v in state.items() if not n.endswith(("_rm", "_riv"))}
    for s, b in [(4, 1), (4, 3), (4, 5)]:  # and no norm in the non-local blocks
        del affine[f"nonlocal_conv{s}_{b}_bn_s"], affine[f"nonlocal_conv{s}_{b}_bn_b"]
    backbone = network(nonlocal_stages=("res4",))
    assert_refused(backbone, affine, "tensors are missing")
    half = {n: v for n, v in synthetic("caffe2").items() if n != "res_conv1_bn_rm"}
    assert_refused(network(), half, "1 tensors are missing .stages.stem.bn.running_mean", affine=True)
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


@pytest.mark.parametrize("layout", VIDEO)
def test_missing_and_extra_tensors(layout):
    names = LAYOUTS[layout]
    state = synthetic(layout)
    del state[names.conv(4, 5, 1)]
    assert_refused(network(), state, r"1 tensors are missing \(stages.res4_5.conv2.weight\)")
    state = synthetic(layout)
    state[names.conv(5, 3, 0)] = state[names.conv(5, 2, 0)]
    error = assert_refused(network(), state, "1 tensors are unused")
    assert error.report.unused == [names.conv(5, 3, 0)]
    state = synthetic(layout)
    state["something.else"] = torch.zeros(2)
    assert_refused(network(), state, r"unused \(something.else\)")
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


@pytest.mark.parametrize(
    "layout, name, change, message",
    [
        ("pytorchvideo", "blocks.5.res_blocks.2.branch2.norm_c.running_var",
         lambda v: v.index_fill(0, torch.tensor(3), float("nan")),
         "1 of 256 values are not finite.*\n.*damaged"),
        ("caffe2", "conv1_w", lambda v: -v / 0, "not finite"),
        ("caffe2", "res_conv1_bn_riv", lambda v: -v, "negative"),
        ("caffe2", "conv1_w", lambda v: v.int(), "conv1_w: .*floating point numbers, got torch.int32"),
        ("caffe2", "conv1_w", lambda v: [1.0, 2.0], "conv1_w: .*floating point numbers, got list"),
        ("caffe2", "conv1_w", lambda v: np.full(v.shape, 1e300), "not finite"),  # beyond float32
    ],
)  # fmt: skip
def test_wrong_values(layout, name, change, message):
    state = synthetic(layout)
    state[name] = change(state[name])
    assert_refused(network().float(), state, message)


def test_a_second_tensor_for_one_of_ours():
    state = synthetic("slowfast", nonlocal_stages=("res3",))
    double = "s3.pathway0_nonlocal1.norm.weight"
    state[double] = state["s3.pathway0_nonlocal1.bn.weight"]
    assert_refused(network(nonlocal_stages=("res3",)), state, f"{double}: a second tensor")
