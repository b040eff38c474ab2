"""The other networks of the paper's table with the recordings' names for ours."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

import torch
from torch import Tensor

from rstg_pyg import RegionHead, RelationHead, VideoClassifier, WindowMean
from rstg_pyg.backbones import (
    BNInception,
    ECOLite,
    OffsetBatchNorm,
    VideoResNet,
    inception_i3d,
    mfnet_resnet50,
    s3dg,
    s3dg_howto100m,
)
from rstg_pyg.backbones.weights.layouts import LAYOUTS, translate

_CAFFE_BRANCHES = {"1x1": "b0", "3x3": "b1", "double": "b2", "pool": "b3"}
_TF_LEAVES = {
    "weights": "conv.weight",
    "BatchNorm/beta": "bn.bias",
    "BatchNorm/moving_mean": "bn.running_mean",
    "BatchNorm/moving_variance": "bn.running_var",
    "temporal/weights": "temporal.weight",
    "temporal/biases": "temporal.bias",
    "self_gating/transformer_W/weights": "gate.lin.weight",
}


def _caffe_name(name: str, handover: bool = False) -> str:
    """TRN and ECO."""
    if found := re.fullmatch(r"consensus\.fc_fusion_scales\.(\d+)\.([13])\.(\w+)", name):
        return f"head.lins.{found[1]}.{found[3]}" if found[2] == "1" else f"{name} (part)"
    name = name.replace("consensus.classifier.1.", "head.lins.0.").replace(
        "consensus.classifier.3.", "lin."
    )
    layer, _, leaf = name.removeprefix("base_model.").rpartition(".")
    norm = layer.endswith("_bn")
    layer = layer.removesuffix("_bn")
    if found := re.fullmatch(r"res(\d)([ab])(?:_(1|2|down))?", layer):
        stage, block, part = found.groups()
        if part is None or layer == "res3a_2" or part == "down":
            place = f"bn_{block}" if part is None else "down"
        else:
            place = f"{block}.{'bn' if norm else f'conv{part}'}"
        return f"backbone.stages.res{stage}.{place}.{leaf}"
    if found := re.fullmatch(r"(conv\d)_(\w+)", layer):
        place = f"{found[1]}.{found[2]}"
    elif handover and layer.startswith("inception_3c_"):
        place = layer.replace("inception_3c_", "handover.")
    elif found := re.fullmatch(r"(inception_\w\w)_((1x1|3x3|double|pool)\w*)", layer):
        place = f"{found[1]}.{_CAFFE_BRANCHES[found[3]]}.{found[2]}"
    else:
        return name
    return f"backbone.stages.{place}.{'bn' if norm else 'conv'}.{leaf}"


def _piergiaj_name(name: str) -> str:
    name = name.replace("logits.conv3d.", "lin.").replace("conv3d.", "conv.")
    name = re.sub(r"^Conv3d_(\w\w)_\dx\d", r"backbone.stages.conv_\1", name)
    return re.sub(r"^Mixed_(\w\w)\.b(\d)([ab]?)\.", _mixed, name)


def _mixed(found: re.Match) -> str:
    """The place of a unit; the only one of the first branch is called a."""
    return f"backbone.stages.mixed_{found[1]}.b{found[2]}.{found[3] or 'a'}."


def _slim_name(name: str) -> str:
    place, leaf = re.fullmatch(
        r"InceptionV1/((?:Mixed_\w\w/Branch_\d/)?Conv[23]d_\w\w_\dx\d|Logits/Conv[23]d_0c_1x1)/(.+)",
        name,
    ).groups()
    if place.startswith("Logits"):
        return f"lin.{leaf.replace('weights', 'weight').replace('biases', 'bias')}"
    if found := re.fullmatch(r"Mixed_(\w\w)/Branch_(\d)/Conv[23]d_0(\w)_\dx\d", place):
        return _mixed(found) + _TF_LEAVES[leaf]
    return f"backbone.stages.conv_{place[7:9]}.{_TF_LEAVES[leaf]}"


def _howto_name(name: str) -> str:
    for theirs, ours in (
        ("conv1.", "conv."),
        ("bn1.", "bn."),
        ("conv2.", "temporal."),
        ("bn2.", "temporal_bn."),
    ):
        name = re.sub(rf"(?<=\.){re.escape(theirs)}", ours, name)
    name = re.sub(r"^fc\.", "lin.", name)
    name = re.sub(r"^mixed_(\w\w)\.conv_b(\d)_?([ab]?)\.", _mixed, name)
    gate = r"^mixed_(\w\w)\.gating_b(\d)\.fc\."
    name = re.sub(
        gate, lambda m: f"backbone.stages.mixed_{m[1]}.b{m[2]}.{'ab'[m[2] != '0']}.gate.lin.", name
    )
    name = re.sub(r"^gating\.fc\.", "backbone.stages.conv_2c.gate.lin.", name)
    return re.sub(r"^conv(?:_(2b|2c)|1)\.", lambda m: f"backbone.stages.conv_{m[1] or '1a'}.", name)


def _depths(names: list[str]) -> list[int]:
    """The bottlenecks of torchvision's ``layer1`` ... ``layer4``."""
    blocks = [re.search(r"layer(\d)\.(\d+)\.conv1", name) for name in names]
    return [len({b[2] for b in blocks if b and b[1] == level}) for level in "1234"]


def _resnet_names(names: list[str], root: str) -> tuple[dict[str, str], dict[str, str]]:
    """Ours for torchvision's names below ``root``, and stages by their recorded names."""
    short = {name.removeprefix(root): name for name in names if name.startswith(root)}
    weights = [n for n in short if "num_batches" not in n]
    ours = translate(weights, "torchvision", root, LAYOUTS)[1]
    ours = {n: o.replace("head.", "lin.") for n, o in ours.items()}
    places = {short[n]: o if o[:4] == "lin." else f"backbone.{o}" for n, o in ours.items()}
    last = {f"res{level}": f"res{level}_{depth - 1}" for level, depth in enumerate(_depths(names), 2)}
    return places, last


def _mfnet(flags: dict, names: list[str]):
    """MFNet-C."""
    if flags["kind"] != "C":
        raise SystemExit(f"{flags['case']}: MFNet-{flags['kind']} cannot be built here")
    levels = {place: int(place[-1]) + 1 for place in flags["places"]}
    stages = [f"res{level}" for level in levels.values()]
    backbone = mfnet_resnet50(depths=_depths(names), motion_stages=stages)
    places, last = _resnet_names(names, "backbone.")
    for place, level in levels.items():
        for leaf in ("weight", "bias"):
            places[f"motion.{place}.{leaf}"] = f"backbone.stages.motion{level}.conv.{leaf}"
    mids = {"pool1": "stem"} | {f"layer{int(n[-1]) - 1}": stage for n, stage in last.items()}
    for level in levels.values():
        mids[f"motion_features{level - 1}"] = f"motion{level}.filter"
        mids[f"after_motion{level - 1}"] = f"motion{level}"
    return VideoClassifier(backbone, flags["num_classes"]), places.__getitem__, mids


def graph_layer(name: str) -> bool:
    """Whether it is a layer of jd730/STRG's graph, whose weights are ``[in, out]``."""
    return re.search(r"_gc\d", name) is not None


def graph_name(name: str) -> str:
    """A name of jd730/STRG's graph, in our graph."""
    if found := re.fullmatch(r"sim_embed([12])\.weight", name):
        return f"similarity.{'target' if found[1] == '1' else 'source'}.weight"
    kind, layer, back = re.fullmatch(r"(sim|st)_gc(\d)(_back)?\.weight", name).groups()
    kind = "back" if back else {"sim": "similar", "st": "front"}[kind]
    return f"{kind}_convs.{int(layer) - 1}.lin.weight"


def pixel_boxes(boxes: Tensor) -> Tensor:
    """Boxes whose overlaps are those of whole pixels: the last ones count."""
    return boxes + boxes.new_tensor([0, 0, 1, 1])


class _WithBoxes(VideoClassifier):
    """A network whose every clip has these boxes."""

    def forward(self, clip: Tensor) -> Tensor:
        return super().forward(clip, boxes=self.boxes.to(clip))


def _strg(flags: dict, names: list[str], boxes: Tensor):
    """I3D with the Joint GCN, as jd730/STRG runs: averages of cells, no norms in the graph, overlaps of
    whole pixels, and no gradient through the similarity.
    """
    kernels = ((5,), (3,), (3,), (3,), (3,))
    norm = torch.nn.BatchNorm3d
    backbone = VideoResNet(kernels, depths=_depths(names), pool_padding=1, norm=norm)
    backbone.stages["pool2"] = torch.nn.MaxPool3d((3, 1, 1), (2, 1, 1), (1, 0, 0))
    head = RegionHead(2048, norm=None, roi_pool="mean")
    size = flags["size"]
    head.graph.register_forward_pre_hook(lambda _, args: (args[0], pixel_boxes(args[1] * size)))
    head.graph.similarity.register_forward_hook(lambda _, __, y: y.detach())
    model = _WithBoxes(backbone, flags["num_classes"], head=head)
    model.boxes = boxes / size
    places, last = _resnet_names(names, "base_model.")

    def rename(name: str) -> str:
        if name.startswith("strg_gcn."):
            return f"head.graph.{graph_name(name.removeprefix('strg_gcn.'))}"
        name = name.replace("reducer.", "head.reducer.").replace("classifier.", "lin.")
        return places.get(name, name)

    mids = {"conv1": "stem.bn", "pool1": "stem", "reducer": "head.reducer", **last}
    return model, rename, mids


def build(
    flags: dict, names: list[str], boxes: Tensor | None = None
) -> tuple[VideoClassifier, Callable[[str], str], dict[str, str]]:
    """The network of a recording, its names for ours, and stages by their recorded names."""
    classes = flags.get("num_classes", 1)
    inception = {
        f"Mixed_{level}": f"mixed_{level}"
        for level in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")
    }
    if "new_fc.weight" in names and not any("res3a" in name for name in names):
        multi = any("fc_fusion_scales" in name for name in names)
        head = RelationHead(
            1024,
            flags["num_segments"],
            flags.get("img_feature_dim", 256),
            multi,
            drawn=flags.get("drawn") or None,
        )
        model = VideoClassifier(BNInception(), classes, head=head)
        return (
            model,
            lambda n: _caffe_name(n.replace("new_fc.", "head.lin_in.")),
            {"frame_features": "head.lin_in"},
        )
    if "new_fc.weight" in names:
        mids = {
            "handover_3d": "handover",
            "handover_2d": "handover",
            "res3a": "res3.down",
            "res3b_out": "res3",
        }
        for level in "45":
            mids |= {f"res{level}a_out": f"res{level}.bn_a", f"res{level}b_out": f"res{level}"}
        return (
            VideoClassifier(ECOLite(), classes),
            lambda n: _caffe_name(n.replace("new_fc.", "lin."), True),
            mids,
        )
    if boxes is not None:
        return _strg(flags, names, boxes)
    if any(name.startswith("motion.") for name in names):
        return _mfnet(flags, names)
    if "conv1.conv1.weight" in names:
        pools = {f"maxpool_{level}": f"pool_{level}" for level in ("2a", "3a", "4a", "5a")}
        mids = {**pools, "conv_2c": "conv_2c.temporal_relu", "gating": "conv_2c"}
        return VideoClassifier(s3dg_howto100m(), classes), _howto_name, mids
    head = WindowMean(1024)
    if "Conv3d_1a_7x7.conv3d.weight" in names:
        norm = functools.partial(torch.nn.BatchNorm3d, eps=1e-3, momentum=0.01)
        convs = {f"Conv3d_{n}": f"conv_{n[:2]}" for n in ("1a_7x7", "2b_1x1", "2c_3x3")}
        pools = {f"MaxPool3d_{n}": f"pool_{n[:2]}" for n in ("2a_3x3", "3a_3x3", "4a_3x3", "5a_2x2")}
        model = VideoClassifier(inception_i3d(norm=norm), classes, head=head)
        return model, _piergiaj_name, {**inception, **convs, **pools}
    if "InceptionV1/Conv2d_1a_7x7/weights" not in names:
        raise SystemExit(
            f"{flags['case']}: {flags['network']} cannot be built here yet"
        )
    make = s3dg if any("temporal" in name for name in names) else inception_i3d
    arguments = {"norm": OffsetBatchNorm, "first_kernel": flags.get("first_temporal_kernel_size", 7)}
    if make is s3dg:
        arguments["gates"] = any("self_gating" in name for name in names)
    convs = {f"Conv2d_{n}": f"conv_{n[:2]}" for n in ("1a_7x7", "2b_1x1", "2c_3x3")}
    pools = {f"MaxPool_{n}": f"pool_{n[:2]}" for n in ("2a_3x3", "3a_3x3", "4a_3x3", "5a_2x2")}
    return (
        VideoClassifier(make(**arguments), classes, head=head),
        _slim_name,
        {**inception, **convs, **pools},
    )


