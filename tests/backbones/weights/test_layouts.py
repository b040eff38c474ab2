import pytest
import torch
import torchvision
from helpers.public_weights import (
    LAYOUTS,
    VIDEO,
    WITHOUT_POOL,
    assert_refused,
    assert_same,
    network,
    random_clip,
    reference,
    synthetic,
)

from rstg_pyg.backbones import (
    C2D_KERNELS,
    I3D_KERNELS,
    VideoResNet,
    i3d_resnet50,
    load_backbone_weights,
)

SLOW = ((1,), (1,), (1,), (3,), (3,))  # slow_r50


@pytest.mark.parametrize(
    "layout, kernels, stages, pool_padding",
    [
        *((layout, kernels, (), 1) for layout in VIDEO for kernels in (C2D_KERNELS, I3D_KERNELS)),
        ("slowfast", I3D_KERNELS, ("res3", "res4"), 1),
        ("caffe2", I3D_KERNELS, ("res3", "res4"), 1),
        ("caffe2", I3D_KERNELS, (), 0),  # as the authors' own files
        (WITHOUT_POOL, SLOW, (), 1),  # stages are counted, not read off
    ],
)
def test_video_layouts_compute_what_the_public_networks_compute(layout, kernels, stages, pool_padding):
    state, name = synthetic(layout, kernels, stages), layout if isinstance(layout, str) else layout.name
    backbone, clip = network(kernels, stages, pool_padding=pool_padding), random_clip(4, 64)
    report = load_backbone_weights(backbone, state)
    assert_same(backbone(clip), reference(state, layout, clip, pool_padding))
    assert report.layout == name
    assert len(report.used) == len(state) - 2 == 265 + (60 if stages else 0)
    assert set(report.used.values()) == {
        name for name in backbone.state_dict() if not name.endswith("num_batches_tracked")
    }
    assert report.skipped == {name: "classifier" for name in LAYOUTS.get(layout, layout).head}
    assert not (report.inflated or report.kept or report.filled or report.missing or report.unused)
    assert str(report).startswith(f"{name}: {len(report.used)} used, 2 skipped, 0 inflated, 0 filled")
    assert len(report.table().splitlines()) == len(state)


def test_slowfast_of_the_first_version_calls_the_nonlocal_norm_norm():
    state = synthetic("slowfast", nonlocal_stages=("res3",))
    old = {name.replace("nonlocal1.bn.", "nonlocal1.norm."): value for name, value in state.items()}
    assert old.keys() != state.keys()
    new, other = network(nonlocal_stages=("res3",)), network(nonlocal_stages=("res3",))
    load_backbone_weights(new, state)
    load_backbone_weights(other, old)
    torch.testing.assert_close(new.state_dict(), other.state_dict(), rtol=0, atol=0)


@pytest.fixture(scope="module")
def image_network():
    torch.manual_seed(0)
    model = torchvision.models.resnet50(num_classes=10).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model


def image_features(model, images):
    x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    early = model.layer1(x)
    return early, model.layer4(model.layer3(model.layer2(early)))


@pytest.mark.slow
@torch.no_grad()
def test_torchvision_in_c2d_is_the_image_network_per_frame(image_network):
    backbone = VideoResNet(C2D_KERNELS, pool_padding=1, last_stride=2)
    head = torch.nn.Linear(2048, 10)
    report = load_backbone_weights(backbone, image_network.state_dict(), head=head)
    assert (report.layout, report.inflated) == ("torchvision", {})
    assert len(report.used) == 267
    assert set(report.skipped.values()) == {"counter or index"}
    images = torch.randn(2, 3, 64, 64)
    early, late = image_features(image_network, images)
    x = images.transpose(0, 1)[None]  # two different frames
    for name in ("stem", "res2_0", "res2_1", "res2_2"):
        x = backbone.stages[name](x)
    torch.testing.assert_close(x[0].transpose(0, 1), early, atol=1e-4, rtol=1e-4)
    still = images[:, :, None].expand(-1, -1, 2, -1, -1)  # behind res2 the pairs are pooled
    out = backbone(still)
    assert late.abs().max() > 0.1
    assert (out[:, :, 0] - late).abs().max() < 1e-4 * late.abs().max()
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


def test_layouts_that_are_not_known():
    backbone = network()
    assert_refused(backbone, {"backbone.a": torch.zeros(1)}, "expected names of the layout")
    assert_refused(backbone, {}, "got nothing")
    assert_refused(backbone, synthetic("caffe2"), "layout slowfast", layout="slowfast")
    assert_refused(backbone, synthetic("caffe2"), "'layout' to be one of", layout="caffe")
    both = {**synthetic("caffe2"), "layer1.0.conv1.weight": torch.zeros(1)}
    assert_refused(backbone, both, r"unused \(layer1.0.conv1.weight\)")
    two_pathways = {**synthetic("slowfast"), "s1.pathway1_stem.conv.weight": torch.zeros(1)}
    assert_refused(backbone, two_pathways, "unused")
