"""Copies pretrained weights of other projects into a backbone, or into a whole network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.models import WeightsEnum, get_model_weights

from rstg_pyg.backbones.bn_inception import BNInception, ECOLite
from rstg_pyg.backbones.inception import InceptionVideo
from rstg_pyg.backbones.resnet import VideoResNet
from rstg_pyg.backbones.torchvision_video import CLASSIFIERS, TorchvisionVideo, network_weights
from rstg_pyg.backbones.weights.files import read_tensors, unwrap
from rstg_pyg.backbones.weights.inception import (
    BN_INCEPTION_LAYOUTS,
    ECO_LAYOUTS,
    GAINLESS,
    KYLEMIN,
    VIDEO_LAYOUTS,
    prepare,
)
from rstg_pyg.backbones.weights.layouts import LAYOUTS, Rules, translate
from rstg_pyg.backbones.weights.report import WeightsError, WeightsReport

_INCEPTION_LAYOUTS: dict[type, Mapping[str, Rules]] = {
    BNInception: BN_INCEPTION_LAYOUTS,
    ECOLite: ECO_LAYOUTS,
    InceptionVideo: VIDEO_LAYOUTS,
}
#: Counters and indices, which every network has by itself.
_BUFFERS = ("num_batches_tracked", "relative_position_index")
#: Caffe2 blobs and TensorFlow variables that are not weights.
_COUNTERS = ("lr", "model_iter", "epoch", "weight_decay", "weight_decay_bn", "ONE", "global_step")


def load_backbone_weights(
    backbone: torch.nn.Module,
    source: str | Path | Mapping[str, Any],
    layout: str = "auto",
    *,
    head: torch.nn.Linear | None = None,
    keep_nonlocal: bool = False,
    affine: bool = False,
    bgr: bool = False,
    allow_unused: bool = False,
) -> WeightsReport:
    """Copies weights of another project into a backbone, all of them or none.

    Backbones are :class:`VideoResNet`, :class:`TorchvisionVideo`, :class:`BNInception`,
    :class:`ECOLite` and :class:`InceptionVideo`.

    Kernels of one frame (or of an image network) are inflated if ours have more frames: repeated
    along time and divided by the number of frames. Optimizer state, counters and the classifier are
    skipped. :mod:`rstg_pyg.backbones.weights.layouts` and
    :mod:`rstg_pyg.backbones.weights.inception` say which geometry and input each layout expects. The
    name mappings follow public code and have not been tested on the original files.

    Args:
        backbone: The network, with the temporal kernels that the weights are for (or longer ones if
            those in the file have one frame). A :class:`rstg_pyg.VideoClassifier` gets its head's
            weights and its last layer from the file, too, such as all of TRN; it must have as many
            classes.
        source: A file (see :func:`read_tensors`), or its tensors by name. For a network of torchvision
            also the name of its weights, such as ``KINETICS400_V1``; they are downloaded to the folder
            of ``torch.hub``, if they are not there.
        layout: ``"torchvision"``, ``"slowfast"``, ``"pytorchvideo"``, ``"caffe2"``; ``"bn_inception"``;
            ``"eco_lite"``; ``"deepmind"``, ``"piergiaj"``, ``"hassony2"``, ``"slim"``,
            ``"s3d_howto100m"``; or ``"auto"`` to recognize it by the names. A network of torchvision
            has its own. (default: ``"auto"``)
        head: A linear layer to load the file's classifier into; the number of classes must match.
            (default: the classifier is skipped)
        keep_nonlocal: Whether to leave non-local blocks unchanged if the file has none (new ones are
            the identity), as when a Non-Local network starts from weights without such blocks.
            (default: ``False``; motion blocks, which no file has, are always left unchanged)
        affine: Whether to treat norms without statistics in the file as affine layers (statistics
            folded into gain and offset), and non-local blocks without a norm as having none (the
            ``affine`` scripts of video-nonlocal-net, 32 x 4 and 128 x 1; their blocks in ``res3``
            attend within groups of 4 frames, ours over all frames). (default: ``False``)
        bgr: Whether the weights are for BGR frames; the stem's input channels are then reversed. For
            :class:`VideoResNet` only. (default: ``False``)
        allow_unused: Whether the file may have tensors that the network does not need.
            (default: ``False``)

    Returns:
        What happened to every tensor.

    Raises:
        WeightsError: If the file cannot be read, its layout is unknown, or a tensor is missing,
            unused, of the wrong shape or not finite. In this case no weight is changed.
    """
    if bgr and not isinstance(backbone, VideoResNet):
        raise WeightsError(f"bgr: expected a VideoResNet (got {type(backbone).__name__})")
    parts = {"": backbone, "head.": head}
    if hasattr(backbone, "backbone"):
        network: Any = backbone
        parts = {"": network.backbone, "relations.": network.head, "head.": network.lin}
        backbone = network.backbone
    where = "the weights"
    if not isinstance(source, Mapping):
        if isinstance(backbone, TorchvisionVideo):
            source = _file(backbone.name, str(source))
        where, source = str(source), read_tensors(source)
    state, other = unwrap(source)
    if isinstance(backbone, TorchvisionVideo):
        layout, names = backbone.name, _torchvision_names(state)
    else:
        state = prepare(state)
        layout, names = translate(state, layout, where, *_layouts(backbone))
    report = WeightsReport(layout=layout)
    report.skipped.update({name: "not among the weights" for name in other})

    wanted = {
        f"{place}{name}": tensor
        for place, part in parts.items()
        for name, tensor in ({} if part is None else part.state_dict()).items()
        if not name.endswith(_BUFFERS)
    }
    skipped_parts = tuple(part for part in ("head.", "relations.") if parts.get(part) is None)
    values: dict[str, Tensor] = {}
    found: set[str] = set()
    for theirs, value in state.items():
        ours = names.get(theirs)
        reason = _skipped(theirs, value, ours, skipped_parts)
        if reason is not None:
            report.skipped[theirs] = reason
        elif ours is None or ours not in wanted:
            report.unused.append(theirs)
        elif ours in found:
            report.mismatched[theirs] = f"a second tensor for {ours}"
        else:
            found.add(ours)
            try:
                fitted = _fit(value, wanted[ours], ours)
            except (ValueError, TypeError, RuntimeError) as error:
                report.mismatched[theirs] = str(error)
                continue
            if bgr and ours == "stages.stem.conv.weight":
                fitted = fitted.flip(1)
            values[ours] = fitted
            report.used[theirs] = ours
            if fitted.dim() == 5 and (value.shape[2] if value.ndim == 5 else 1) < fitted.size(2):
                report.inflated[ours] = fitted.size(2)

    if affine or layout in GAINLESS:
        filled = _affine(backbone, found) if affine else _gains(wanted, found)
        report.filled += filled
        values.update(filled)
    missing = [name for name in wanted if name not in found and name not in values]
    report.kept += [name for name in missing if name.startswith("stages.motion")]
    if keep_nonlocal and not any(name.startswith("stages.nonlocal") for name in found):
        report.kept += [name for name in missing if name.startswith("stages.nonlocal")]
    report.missing += [name for name in missing if name not in report.kept]
    problems = report.problems(allow_unused)
    if problems:
        raise WeightsError(
            f"{where}: the {layout} weights do not fit the network, nothing was loaded: "
            f"{'; '.join(problems)}\n{'; '.join(_hints(report, affine, allow_unused))}",
            report,
        )
    with torch.no_grad():
        for name, value in values.items():
            wanted[name].copy_(value)
    return report


def _torchvision_names(names: Iterable[str]) -> dict[str, str]:
    """A mapping from torchvision's names (or kylemin's for its ``s3d``) to ours."""
    ours = {}
    for name in names:
        theirs = name
        if name.startswith(("base.", "fc.0.")):
            for old, new in KYLEMIN:
                theirs = re.sub(old, new, theirs)
        top, _, rest = theirs.partition(".")
        if not name.endswith(_BUFFERS):
            ours[name] = f"head.{rest}" if top in CLASSIFIERS else f"network.{theirs}"
    return ours


def _file(network: str, source: str) -> Path:
    """The file of weights that are given by their name or as a file."""
    weights = network_weights(network, source)
    if weights is not None:
        return _downloaded(weights)
    if not Path(source).is_file():
        known = ", ".join(get_model_weights(network).__members__)
        raise WeightsError(f"{source}: no such file; {network} has weights of the names {known}")
    return Path(source)


def _downloaded(weights: WeightsEnum) -> Path:
    """The file of weights in the folder of ``torch.hub``, where torchvision looks for it, too."""
    path = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    if not path.is_file():
        begin = path.stem.rpartition("-")[2]  # of the file's hash
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(weights.url, str(path), begin, progress=False)
        except (OSError, RuntimeError) as error:
            raise WeightsError(
                f"{weights.url} cannot be downloaded ({error}); get it where there is a network "
                f"and put it to {path}"
            ) from error
    return path


def _layouts(backbone: torch.nn.Module) -> tuple[Mapping[str, Rules], str]:
    """The layouts of a backbone, and what it is."""
    for kind, layouts in _INCEPTION_LAYOUTS.items():
        if isinstance(backbone, kind):
            return layouts, kind.__name__
    return LAYOUTS, "ResNet"


def _skipped(name: str, value: Any, ours: str | None, without: tuple[str, ...]) -> str | None:
    """Why an entry of a file is not needed; :obj:`None` if it is."""
    if ours is not None:
        return "classifier" if ours.startswith(without or ("?",)) else None
    if name.startswith("text_module."):
        return "text module"
    if name.endswith(_BUFFERS):
        return "counter or index"
    if name.endswith(("_momentum", "/Momentum")):
        return "momentum of the optimizer"
    if name in _COUNTERS or not isinstance(value, (Tensor, np.ndarray)):
        return "not a weight"
    return None


def _fit(value: Any, target: Tensor, ours: str) -> Tensor:
    """The value in the shape and type of our tensor, or a :class:`ValueError`."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"expected floating point numbers, got {kind}")
    shape, expected = list(value.shape), list(target.shape)
    if value.dim() == 4 and target.dim() == 5:
        value = value.unsqueeze(2)  # of an image network: [out, in, H, W]
    elif value.dim() != target.dim():
        # A linear layer stored as a convolution, a vector as [1, C]: shapes differ in sides of 1.
        if [side for side in shape if side != 1] == [side for side in expected if side != 1]:
            value = value.reshape(expected)
    if value.dim() == 5 and target.dim() == 5 and value.size(2) == 1:
        frames = target.size(2)
        value = value.expand(-1, -1, frames, -1, -1) / frames
    if list(value.shape) != expected:
        raise ValueError(f"expected shape {expected}, got {shape}")
    value = value.detach().to(target.device, target.dtype)
    finite = value.isfinite()
    if not finite.all():
        raise ValueError(f"{int((~finite).sum())} of {value.numel()} values are not finite")
    if ours.endswith("running_var") and (value < 0).any():
        raise ValueError("expected variances, got negative numbers")
    return value


def _gains(wanted: Mapping[str, Tensor], found: set[str]) -> dict[str, Tensor]:
    """Gains of norms which the file has only an offset of."""
    gains = {name for name in wanted if name.endswith(".bn.weight")} - found
    return {n: torch.ones_like(wanted[n]) for n in gains if n.replace("weight", "bias") in found}


def _affine(backbone: torch.nn.Module, found: set[str]) -> dict[str, Tensor]:
    """Batch norm statistics for affine layers: they leave the input unchanged."""
    filled = {}
    for prefix, module in backbone.named_modules():
        if not isinstance(module, torch.nn.BatchNorm3d):
            continue
        present = {name.rpartition(".")[2] for name in found if name.rpartition(".")[0] == prefix}
        scope = prefix.removesuffix(".bn")
        no_norm = not present and f"{scope}.out.weight" in found
        if present == {"weight", "bias"} or no_norm:
            filled[f"{prefix}.running_mean"] = torch.zeros_like(module.weight)
            filled[f"{prefix}.running_var"] = torch.full_like(module.weight, 1 - module.eps)
        if no_norm:
            filled[f"{prefix}.weight"] = torch.ones_like(module.weight)
            filled[f"{prefix}.bias"] = torch.zeros_like(module.weight)
    return filled


def _hints(report: WeightsReport, affine: bool, allow_unused: bool) -> list[str]:
    """Suggestions for the user if the weights do not fit."""
    hints = []
    if report.missing:
        nonlocal_ = all(name.startswith("stages.nonlocal") for name in report.missing)
        statistics = all(".running_" in name for name in report.missing)
        if nonlocal_ and not any(name.startswith("stages.nonlocal") for name in report.used.values()):
            hints.append("set keep_nonlocal to leave the non-local blocks unchanged")
        elif statistics and not affine:
            hints.append("if the norms of the file are affine layers, set affine")
        elif any(name.startswith("head.") for name in report.missing):
            hints.append("omit head to skip the classifier")
    if not allow_unused and any("nonlocal" in name for name in report.unused):
        hints.append("or use a network with these non-local blocks")
    if not hints:
        wrong_shape = any("expected shape" in what for what in report.mismatched.values())
        fit = "build the network with the depths, widths and temporal kernels of the file"
        other_network = report.missing or report.unused or wrong_shape
        hints.append(fit if other_network else "the file is damaged: download it again")
    return hints
