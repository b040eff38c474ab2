"""Weights that a training begins with."""

from __future__ import annotations

from pathlib import Path

from rstg_pyg import VideoClassifier
from rstg_pyg.backbones import WeightsError, load_backbone_weights
from rstg_pyg.train.config import Config
from rstg_pyg.train.errors import UserError, some
from rstg_pyg.train.pretrained import find_weights
from rstg_pyg.train.run_folder.weights import open_weights

_NAMED = 8  # tensors in a message


def load_pretrained(model: VideoClassifier, config: Config, names: list[str]) -> None:
    """Loads what fits of ``train.init`` into the network, or else ``model.backbone.weights`` into the
    backbone; prints what was taken.

    Args:
        model: The network.
        config: The experiment.
        names: The class names.

    Raises:
        UserError: If weights cannot be read or do not fit.
    """
    path = getattr(config.model.backbone, "weights", None)
    if config.train.init is not None:
        try:
            print(_load_fitting(model, find_weights(config.train.init), config, names), flush=True)
        except UserError as e:
            raise UserError(f"train.init: {e}") from e
    elif path is not None:
        try:
            print(load_backbone_weights(model.backbone, path, keep_nonlocal=True), flush=True)
        except WeightsError as e:
            raise UserError(f"model.backbone.weights: {'; '.join(str(e).splitlines())}") from e


def _load_fitting(model: VideoClassifier, path: Path, config: Config, names: list[str]) -> str:
    """Loads every tensor that fits by name and shape; says which ones stay new. The classifier is new
    if its classes have other names.
    """
    found = open_weights(path)
    weights, old_names = found["state_dict"], found.get("label_names") or names
    taken, new = {}, []
    for name, tensor in model.state_dict().items():
        theirs = weights.get(name)
        if theirs is None:
            new.append(f"{name} {list(tensor.shape)} (not in the file)")
        elif theirs.shape != tensor.shape:
            new.append(f"{name} {list(tensor.shape)} ({list(theirs.shape)} in the file)")
        elif name.startswith("lin.") and old_names != names:
            new.append(f"{name} (of other classes)")
        elif theirs.is_floating_point() and not theirs.isfinite().all():
            raise UserError(f"{path}: {name} holds values that are not finite")
        else:
            taken[name] = theirs
    filters = [f"backbone.{name}" for name, p in model.backbone.named_parameters() if p.dim() > 1]
    if not any(name in taken for name in filters):
        raise UserError(f"{path}: nothing fits the config's backbone; expected {some(new, _NAMED)}")
    model.load_state_dict(taken, strict=False)
    unused = [
        f"{name} {list(weights[name].shape)}" for name in weights.keys() - model.state_dict().keys()
    ]
    text = f"train.init: {len(taken)} tensors are from {path}"
    text += f"; new: {some(new, _NAMED)}" if new else ""
    text += f"; not used: {some(sorted(unused), _NAMED)}" if unused else ""
    data = found["config"].get("data", {})
    for key in ("mean", "std"):
        if data.get(key, getattr(config.data, key)) != getattr(config.data, key):
            text += f"\nnote: it was trained with data.{key}={data[key]}"
    return text
