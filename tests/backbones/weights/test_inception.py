"""Weights of Inception networks under the names of other projects.

Names and shapes of the files in ``tests/golden`` are those of the public code; the others are written
down here once more, without a look at our rules.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_rows import Weights, build, recipe_value

from rstg_pyg import VideoClassifier, WindowMean
from rstg_pyg.backbones import (
    BNInception,
    ECOLite,
    TorchvisionVideo,
    WeightsError,
    inception_i3d,
    load_backbone_weights,
    s3dg,
)
from rstg_pyg.train.build import build_model
from rstg_pyg.train.config import load_config
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.training.initial import load_pretrained

GOLDEN = Path(__file__).parents[2] / "golden"
RECORDED = {
    "trn_multiscale_8f": "bn_inception",
    "trn_single_3f": "bn_inception",
    "eco_lite_16f": "eco_lite",
    "i3d_inception_16f_224": "piergiaj",
    "s3dg_16f_224_k7": "slim",
    "s3dg_howto100m_16f_128": "s3d_howto100m",
}


def recorded(name):
    """The tensors of a recording by their public names, and its settings."""
    data = np.load(GOLDEN / f"{name}.npz")
    flags = json.loads(str(data["config"]))
    shapes = {n: s for n, s, *_ in json.loads(str(data["variables"])) if "num_batches" not in n}
    return flags, {n: recipe_value(n, s, flags["scales"]) for n, s in shapes.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDED)
def test_the_public_code_s_names_fill_the_network_as_its_recordings_are_replayed(name, tmp_path):
    flags, made = recorded(name)
    (model, rename, _), (other, *_) = build(flags, list(made)), build(flags, list(made))
    Weights(model, rename, made)
    file = {"state_dict": {f"module.{n}": torch.from_numpy(v) for n, v in made.items()}, "epoch": 3}
    path = tmp_path / "best.pth.tar"
    torch.save(file, path)
    if any("/" in n for n in made):
        path = tmp_path / "variables.npz"
        np.savez(path, **made, global_step=np.array(7))
    report = load_backbone_weights(other, path)
    assert report.layout == RECORDED[name] and not report.unused
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
    # Into the backbone alone: the head's tensors are skipped.
    backbone = build(flags, list(made))[0].backbone
    report = load_backbone_weights(backbone, path)
    torch.testing.assert_close(backbone.state_dict(), model.backbone.state_dict(), rtol=0, atol=0)
    assert "classifier" in report.skipped.values()


MIXED = [f"{level}" for level in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")]
UNITS = ("b0.a", "b1.a", "b1.b", "b2.a", "b2.b", "b3.b")


def ours(backbone, unit_names, conv, norms):
    """A file of I3D: names of units, and of the tensors in a unit."""
    state = backbone.state_dict()
    units = {f"conv_{n}": f"conv_{n}" for n in ("1a", "2b", "2c")}
    units |= {f"mixed_{level}.{u}": f"mixed_{level}.{u}" for level in MIXED for u in UNITS}
    out = {}
    for place in units:
        out[unit_names(place) + conv] = (f"stages.{place}.conv.weight",)
        for leaf, theirs in norms.items():
            out[unit_names(place) + theirs] = (f"stages.{place}.bn.{leaf}",)
    return {theirs: (name, state[name]) for theirs, (name,) in out.items()}


def hassony2(place):
    stem = {"conv_1a": "conv3d_1a_7x7", "conv_2b": "conv3d_2b_1x1", "conv_2c": "conv3d_2c_3x3"}
    if place in stem:
        return f"{stem[place]}."
    level, branch, unit = place.split(".")
    number = branch[1]
    inner = "" if number == "0" else f".{'ab'.index(unit)}"
    return f"{level}.branch_{number}{inner}."


def deepmind(place):
    stem = {"conv_1a": "Conv3d_1a_7x7", "conv_2b": "Conv3d_2b_1x1", "conv_2c": "Conv3d_2c_3x3"}
    if place in stem:
        return f"RGB/inception_i3d/{stem[place]}/"
    level, branch, unit = place.split(".")
    size = "3x3" if branch in ("b1", "b2") and unit == "b" else "1x1"
    unit = "a" if (level, branch, size) == ("mixed_5b", "b2", "3x3") else unit  # as published
    return f"RGB/inception_i3d/{level.capitalize()}/Branch_{branch[1]}/Conv3d_0{unit}_{size}/"


def randomized(backbone):
    """The network with other numbers in every tensor."""
    torch.manual_seed(5)
    with torch.no_grad():
        for tensor in backbone.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    return backbone


def test_hassony2(tmp_path):
    backbone = randomized(inception_i3d(width=16))
    norms = {n: f"batch3d.{n}" for n in ("weight", "bias", "running_mean", "running_var")}
    file = {n: v for n, (_, v) in ours(backbone, hassony2, "conv3d.weight", norms).items()}
    file |= {"conv3d_0c_1x1.conv3d.weight": torch.rand(4, 256, 1, 1, 1)}
    file |= {"conv3d_0c_1x1.conv3d.bias": torch.rand(4)}
    torch.save(file, tmp_path / "model_rgb.pth")
    model = VideoClassifier(inception_i3d(width=16), 4, head=WindowMean(256))
    assert load_backbone_weights(model, tmp_path / "model_rgb.pth").layout == "hassony2"
    torch.testing.assert_close(model.backbone.state_dict(), backbone.state_dict(), rtol=0, atol=0)
    assert torch.equal(model.lin.weight, file["conv3d_0c_1x1.conv3d.weight"].flatten(1))
    assert torch.equal(model.lin.bias, file["conv3d_0c_1x1.conv3d.bias"])


def test_deepmind(tmp_path):
    """Kernels [T, H, W, in, out], vectors [1, 1, 1, 1, C], norms without a gain."""
    backbone = randomized(inception_i3d(width=16))
    norms = {"bias": "batch_norm/beta", "running_mean": "batch_norm/moving_mean"}
    norms |= {"running_var": "batch_norm/moving_variance"}
    file = {}
    for name, (_, value) in ours(backbone, deepmind, "conv_3d/w", norms).items():
        value = value.permute(2, 3, 4, 1, 0) if value.dim() == 5 else value.view(1, 1, 1, 1, -1)
        file[name] = value.numpy()
    assert "RGB/inception_i3d/Mixed_5b/Branch_2/Conv3d_0a_3x3/conv_3d/w" in file
    np.savez(tmp_path / "rgb_imagenet.npz", **file)
    other = inception_i3d(width=16)
    report = load_backbone_weights(other, tmp_path / "rgb_imagenet.npz")
    assert report.layout == "deepmind" and len(report.filled) == 57
    for name, value in backbone.state_dict().items():
        expected = torch.ones_like(value) if name.endswith("bn.weight") else value
        assert torch.equal(other.state_dict()[name], expected), name


def kylemin(name):
    """From torchvision's names."""
    parts = name.split(".")
    if parts[0] == "classifier":
        return f"fc.0.{parts[-1]}"
    *place, leaf = ["base", *parts[1:]]
    number = int(parts[1])
    two = ["conv", "bn"]
    if number in (0, 3) or (len(place) == 6):  # a separable convolution
        *place, part, kind = place
        return ".".join([*place, f"{two[int(kind)]}_{'st'[int(part)]}", leaf])
    *place, kind = place
    if place[-1] == "branch0":
        place.append("0")
    return ".".join([*place, two[int(kind)], leaf])


@pytest.mark.slow
def test_kylemin(tmp_path):
    backbone = TorchvisionVideo("s3d", (16, 224, 224))
    randomized(backbone)
    state = {n.removeprefix("network."): v for n, v in backbone.state_dict().items()}
    file = {f"module.{kylemin(n)}": v for n, v in state.items()}
    assert {"module.base.0.conv_s.weight", "module.base.5.branch1.1.bn_t.bias"} <= file.keys()
    assert {"module.base.2.conv.weight", "module.base.5.branch0.0.bn.bias"} <= file.keys()
    file |= {"module.fc.0.weight": torch.rand(4, 1024, 1, 1, 1), "module.fc.0.bias": torch.rand(4)}
    torch.save(file, tmp_path / "S3D_kinetics400.pt")
    other = TorchvisionVideo("s3d", (16, 224, 224))
    load_backbone_weights(other, tmp_path / "S3D_kinetics400.pt")
    torch.testing.assert_close(other.state_dict(), backbone.state_dict(), rtol=0, atol=0)


def caffe_file(backbone):
    """A file of BN-Inception, with vectors [1, C] in its norms, and ImageNet's classifier."""
    file = {"last_linear.weight": torch.rand(9, 256)}
    for place, stage in backbone.stages.items():
        for unit, module in stage.named_modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                words = unit.split(".")
                name = f"{place}_{words[-2]}"
                conv = stage.get_submodule(".".join([*words[:-1], "conv"]))
                file |= {f"{name}.weight": conv.weight.squeeze(2), f"{name}.bias": conv.bias}
                for leaf in ("weight", "bias", "running_mean", "running_var"):
                    file[f"{name}_bn.{leaf}"] = getattr(module, leaf).detach()[None]
    assert {"conv1_7x7_s2.bias", "inception_3c_double_3x3_2_bn.running_var"} <= file.keys()
    return file


def test_bn_inception_of_images(tmp_path, capsys):
    backbone = randomized(BNInception(16))
    file, model = caffe_file(backbone), BNInception(16)
    report = load_backbone_weights(model, file)
    assert report.skipped == {"last_linear.weight": "classifier"}
    torch.testing.assert_close(model.state_dict(), backbone.state_dict(), rtol=0, atol=0)
    with pytest.raises(WeightsError, match="unused.*extra"):
        load_backbone_weights(model, {**file, "extra.weight": torch.rand(3)})

    # From a config.
    torch.save(file, tmp_path / "bn_inception.pth")
    weights = f"model.backbone.weights={tmp_path / 'bn_inception.pth'}"
    config = load_config("smt/trn.yaml", ["model.backbone.width=16", weights])
    trn = build_model(config, 5)
    load_pretrained(trn, config, list("abcde"))
    torch.testing.assert_close(trn.backbone.state_dict(), backbone.state_dict(), rtol=0, atol=0)
    assert "bn_inception: " in capsys.readouterr().out
    with pytest.raises(UserError, match=r"^model.backbone.weights: .*do not fit the network"):
        load_pretrained(build_model(load_config("smt/trn.yaml"), 5), config, list("abcde"))


@pytest.mark.parametrize("make", [functools.partial(ECOLite, 16), functools.partial(s3dg, width=16)])
def test_files_of_other_networks_are_refused(make):
    with pytest.raises(WeightsError, match="not the weights of a known (ECOLite|InceptionVideo)"):
        load_backbone_weights(make(), {"layer1.0.conv1.weight": torch.rand(3, 3)})
    with pytest.raises(WeightsError, match="'layout' to be one of"):
        load_backbone_weights(make(), {"x": torch.rand(3)}, "caffe2")
