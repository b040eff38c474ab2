"""The names of pretrained weights in other projects, mapped to ours. (Those of Inception networks:
:mod:`rstg_pyg.backbones.weights.inception`.)

Four layouts of names are known. The original files were not available: the maps below were read from
the public code that writes or reads such files, and are tested on synthetic files of the same names and
shapes, **not on the originals**.

``torchvision``
    ImageNet ResNet-50, 2-D (torchvision, ``torchvision/models/resnet.py``). Kernels are repeated along
    time and divided by their number of frames, which preserves the output on a static clip. Use
    ``pool_padding=1, last_stride=2`` and frames normalized as ``(x / 255 - mean) / std`` with mean
    (0.485, 0.456, 0.406) and std (0.229, 0.224, 0.225); the 0.45 and 0.225 of the video networks are
    about the means of these over the channels; fine-tuning compensates for the difference.

``slowfast``
    ``.pyth`` of one-pathway networks (facebookresearch/SlowFast, ``slowfast/models/stem_helper.py``,
    ``resnet_helper.py``, ``nonlocal_helper.py``, ``head_helper.py``; an early version calls the norm of
    a non-local block ``norm``, later ones ``bn``). ``pool_padding=1, last_stride=2``. The configs with
    ``nopool`` in their name have no max pooling ``pool2`` after ``res2``; our network always has it.

``pytorchvideo``
    ``.pyth`` of ``c2d_r50`` and ``i3d_r50`` (facebookresearch/pytorchvideo,
    ``pytorchvideo/models/resnet.py``, ``stem.py``, ``head.py``, ``hub/resnet.py``).
    ``pool_padding=1, last_stride=2``. There is no Non-Local ResNet, neither a builder nor weights
    (``layers/nonlocal_net.py`` is a separate layer). ``slow_r50`` has the same names, other temporal
    kernels, ``((1,), (1,), (1,), (3,), (3,))``, and no ``pool2``.

``caffe2``
    ``.pkl`` of the non-local authors (facebookresearch/video-nonlocal-net,
    ``lib/models/resnet_video.py``, ``resnet_helper.py``, ``nonlocal_helper.py``,
    ``lib/utils/checkpoints.py``) and of SlowFast's model zoo, with the same names
    (``slowfast/utils/c2_model_loading.py``). ``_riv`` is the running variance, not its inverse
    (``lib/utils/bn_helper.py``). ``pool_padding=0, last_stride=2`` for the authors' files, 1 and 2 for
    the model zoo's. The files trained with the paper's own ``resnet_video_org.py`` have additional
    temporal strides.

The three video layouts expect RGB frames as ``(x - 114.75) / 57.375``, as the published RSTG code does
(SlowFast: 0.45 and 0.225 of 0..1, ``slowfast/config/defaults.py``; video-nonlocal-net:
``lib/core/config.py``, where ``USE_BGR`` is false). ``bgr=True`` is for a file trained on BGR frames.

``pool_padding`` and ``last_stride`` do not change the shapes of weights, so the weights fit for all
values. With the published ``pool_padding=0, last_stride=1`` the outputs differ from those of the
network in which the weights were trained; the RSTG authors fine-tuned such weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from rstg_pyg.backbones.weights.inception import INCEPTION_PLACES, INCEPTION_VALUES
from rstg_pyg.backbones.weights.report import WeightsError

#: A layout's rules: patterns of their names, and our names.
Rules = dict[str, str]

#: Their names and ours. ``<...>`` is a pattern of :data:`_PLACES`, with the same value in both names.
LAYOUTS: dict[str, Rules] = {
    "torchvision": {
        "conv1.weight": "stages.stem.conv.weight",
        "bn1.<norm>": "stages.stem.bn.<norm>",
        "layer<stage>.<block>.conv<part>.weight": "stages.res<stage>_<block>.conv<part>.weight",
        "layer<stage>.<block>.bn<part>.<norm>": "stages.res<stage>_<block>.bn<part>.<norm>",
        "layer<stage>.<block>.downsample.0.weight": "stages.res<stage>_<block>.shortcut.0.weight",
        "layer<stage>.<block>.downsample.1.<norm>": "stages.res<stage>_<block>.shortcut.1.<norm>",
        "fc.<end>": "head.<end>",
    },
    "slowfast": {
        "s1.pathway0_stem.conv.weight": "stages.stem.conv.weight",
        "s1.pathway0_stem.bn.<norm>": "stages.stem.bn.<norm>",
        "s<stage>.pathway0_res<block>.branch2.<part>.weight": (
            "stages.res<stage>_<block>.conv<part>.weight"
        ),
        "s<stage>.pathway0_res<block>.branch2.<part>_bn.<norm>": (
            "stages.res<stage>_<block>.bn<part>.<norm>"
        ),
        "s<stage>.pathway0_res<block>.branch1.weight": "stages.res<stage>_<block>.shortcut.0.weight",
        "s<stage>.pathway0_res<block>.branch1_bn.<norm>": "stages.res<stage>_<block>.shortcut.1.<norm>",
        "s<stage>.pathway0_nonlocal<block>.conv_<which>.<end>": (
            "stages.nonlocal<stage>_<block>.<which>.<end>"
        ),
        "s<stage>.pathway0_nonlocal<block>.bn.<norm>": "stages.nonlocal<stage>_<block>.bn.<norm>",
        "s<stage>.pathway0_nonlocal<block>.norm.<norm>": "stages.nonlocal<stage>_<block>.bn.<norm>",
        "head.projection.<end>": "head.<end>",
    },
    "pytorchvideo": {
        "blocks.0.conv.weight": "stages.stem.conv.weight",
        "blocks.0.norm.<norm>": "stages.stem.bn.<norm>",
        "blocks.<stage>.res_blocks.<block>.branch2.conv_<part>.weight": (
            "stages.res<stage>_<block>.conv<part>.weight"
        ),
        "blocks.<stage>.res_blocks.<block>.branch2.norm_<part>.<norm>": (
            "stages.res<stage>_<block>.bn<part>.<norm>"
        ),
        "blocks.<stage>.res_blocks.<block>.branch1_conv.weight": (
            "stages.res<stage>_<block>.shortcut.0.weight"
        ),
        "blocks.<stage>.res_blocks.<block>.branch1_norm.<norm>": (
            "stages.res<stage>_<block>.shortcut.1.<norm>"
        ),
        "blocks.<last>.proj.<end>": "head.<end>",
    },
    "caffe2": {
        "conv1_w": "stages.stem.conv.weight",
        "res_conv1_bn_<norm>": "stages.stem.bn.<norm>",
        "res<stage>_<block>_branch2<part>_w": "stages.res<stage>_<block>.conv<part>.weight",
        "res<stage>_<block>_branch2<part>_bn_<norm>": "stages.res<stage>_<block>.bn<part>.<norm>",
        "res<stage>_<block>_branch1_w": "stages.res<stage>_<block>.shortcut.0.weight",
        "res<stage>_<block>_branch1_bn_<norm>": "stages.res<stage>_<block>.shortcut.1.<norm>",
        "nonlocal_conv<stage>_<block>_<which>_<end>": "stages.nonlocal<stage>_<block>.<which>.<end>",
        "nonlocal_conv<stage>_<block>_bn_<norm>": "stages.nonlocal<stage>_<block>.bn.<norm>",
        "pred_<end>": "head.<end>",
    },
}
_PLACES = {
    "stage": r"\d+",
    "block": r"\d+",
    "last": r"\d+",
    "part": "[123abc]",
    "which": "theta|phi|g|out",
    "norm": "weight|bias|running_mean|running_var|s|b|rm|riv",
    "end": "weight|bias|w|b",
    **INCEPTION_PLACES,
}
_OURS = {
    "part": {"a": "1", "b": "2", "c": "3"},
    "norm": {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"},
    "end": {"w": "weight", "b": "bias"},
    **INCEPTION_VALUES,
}


def translate(
    names: Iterable[str], layout: str, where: str, known: Mapping[str, Rules], network: str = "ResNet"
) -> tuple[str, dict[str, str]]:
    """The layout of a file, and a mapping from its names to ours.

    Args:
        names: The names of a file's tensors.
        layout: One of the known layouts, or ``"auto"`` for the one that matches most names.
        where: The file, for the error message.
        known: The layouts of the network, such as :data:`LAYOUTS`.
        network: What the network is, for the error message.

    Raises:
        WeightsError: If there is no such layout, or it matches none of the names.
    """
    if layout != "auto" and layout not in known:
        raise WeightsError(f"Expected 'layout' to be one of {['auto', *known]} (got {layout!r})")
    names = list(names)
    choices = list(known) if layout == "auto" else [layout]
    found = {name: _names(names, name, known[name]) for name in choices}
    best = max(found, key=lambda name: len(found[name]))
    if not found[best]:
        first = ", ".join(names[:3]) or "nothing"
        raise WeightsError(
            f"{where}: expected names of the layout {' or '.join(found)} (got {first}, ...); "
            f"these are not the weights of a known {network}"
        )
    return best, found[best]


def _names(names: list[str], layout: str, known: Rules) -> dict[str, str]:
    """A mapping from the file's names that are in the layout to ours."""
    rules = []
    for theirs, ours in known.items():
        pattern = re.escape(theirs)
        for place, choices in _PLACES.items():
            pattern = pattern.replace(f"<{place}>", f"(?P<{place}>{choices})")
        rules.append((re.compile(pattern), ours))
    stages = {}
    if layout == "torchvision":
        stages = {str(i): str(i + 1) for i in range(1, 10)}
    elif layout == "pytorchvideo":  # a max pooling may stand among the blocks, and has no names
        indices = {int(m[1]) for m in map(re.compile(r"blocks\.(\d+)\.res_blocks\.").match, names) if m}
        stages = {str(index): str(i + 2) for i, index in enumerate(sorted(indices))}
    tables = {**_OURS, "stage": stages}
    result = {}
    for name in names:
        for rule, ours in rules:
            match = rule.fullmatch(name)
            if match:
                for place, value in match.groupdict().items():
                    ours = ours.replace(f"<{place}>", tables.get(place, {}).get(value, value))
                result[name] = ours
                break
    return result
