"""Reads weights with their config from a checkpoint of a run or a safetensors file, without running
code from the file and without Lightning.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from rstg_pyg.train.config import Config, differences, parse_config, to_dict
from rstg_pyg.train.errors import UserError, counted, some
from rstg_pyg.train.files import write_atomically

#: Settings of the data that the weights depend on.
_DATA = ("num_classes", "mean", "std")
#: Settings of the model that its weights do not depend on.
_FREE = ("model.backbone.weights", "model.grad_checkpointing", "model.dropout")
#: Settings that may change between a run and its continuation.
_MAY_CHANGE = (
    *("name", "data.root", "data.num_workers", "data.on_error", "data.test_videos", "data.paths"),
    *("trainer.", "train.log_every"),
)
_METADATA = "rstg_pyg"
_KEYS = {"config": [dict], "origin": [str], "global_step": [int], "state_dict": [dict, OrderedDict]}


def open_weights(path: Path) -> dict[str, Any]:
    """Reads weights with the config of their training.

    Args:
        path: A checkpoint of a run, or a ``.safetensors`` file of :func:`write_weights`.

    Returns:
        ``config``, ``state_dict`` of the network; ``global_step``, ``origin``, ``label_names`` and
        ``results`` if they are known.

    Raises:
        UserError: If the file cannot be read.
    """
    plain = path.suffix == ".safetensors"
    found = _read_safetensors(path) if plain else read_checkpoint(path)
    weights, names = found["state_dict"], found.get("label_names", [])
    if not all(isinstance(k, str) and _is_plain(v) for k, v in weights.items()):
        raise UserError(f"{path}: not a checkpoint of rstg_pyg (its weights are not all named tensors)")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: not a checkpoint of rstg_pyg (its label_names are not all strings)")
    if not plain:
        weights = {k[6:]: v for k, v in weights.items() if k.startswith("model.")}
    return {**found, "state_dict": weights}


def _is_plain(value: Any) -> bool:
    """Whether a value is an ordinary tensor of real numbers."""
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_complex()


def read_weights(path: Path, config: Config) -> dict[str, Any]:
    """Reads weights and checks that they fit the config's model.

    Args:
        path: A checkpoint of a run, or a ``.safetensors`` file of :func:`write_weights`.
        config: The experiment.

    Returns:
        As :func:`open_weights`.

    Raises:
        UserError: If the file cannot be read or its model differs; the message names the keys.
    """
    found = open_weights(path)
    saved, wanted = (
        {"model": c["model"], "data": {key: c["data"].get(key) for key in _DATA}}
        for c in (to_dict(saved_config(found["config"], path)), to_dict(config))
    )
    changed = [line for line in differences(saved, wanted) if not line.startswith(_FREE)]
    if changed:
        hint = ""
        if config.data.dataset == "something" and config.data.root is None:
            hint = "\n(data.root is not given, so a config's section 'demo' is used)"
        raise UserError(_other_config(path, changed) + hint)
    return found


def write_weights(
    path: Path, model: torch.nn.Module, config: Config, made_from: str, **about: Any
) -> None:
    """Writes the weights of a network to a safetensors file, with their config.

    Args:
        path: The file, ``.safetensors``.
        model: The network.
        config: The experiment. Paths in it are left out.
        made_from: A description of where the weights come from.
        **about: What else to store, such as ``label_names``.

    Raises:
        UserError: If the name has another extension, or the file cannot be written.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: expected a name that ends with .safetensors")
    from safetensors.torch import save

    values = to_dict(config)
    values["data"]["root"] = None
    backbone, train, pretrain = values["model"]["backbone"], values["train"], values["pretrain"]
    for section, key in ((backbone, "weights"), (train, "init"), (pretrain, "file")):
        if os.path.exists(section.get(key) or ""):
            section[key] = None
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    metadata = json.dumps({"config": values, "made_from": made_from, **about})
    data = save(tensors, {"format": "pt", _METADATA: metadata})
    write_atomically(path, lambda p: p.write_bytes(data))


def load_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Loads all weights into the network.

    Raises:
        UserError: If some are missing, unused, have the wrong shape, or are not finite.
    """
    broken = [k for k, v in weights.items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise UserError(f"{path}: {broken[0]} holds values that are not finite")
    last = weights.get("lin.weight")
    classes = last.size(0) if last is not None and last.dim() == 2 else model.num_classes
    if classes != model.num_classes:
        raise UserError(
            f"{path}: made for {classes} classes, but the data has {model.num_classes}; give the data "
            f"set (or the label file) that it belongs to"
        )
    try:
        model.load_state_dict(weights)
    except RuntimeError as e:
        reason = " ".join(str(e).split())[:300]
        raise UserError(f"{path}: its weights do not fit the config's model ({reason})") from e


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[_METADATA])
            config = about["config"]
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if not all(isinstance(config[key], dict) for key in ("model", "data")):
            raise KeyError("model")
        return {"global_step": 0, **about, "state_dict": weights}
    except (KeyError, TypeError, RecursionError):
        raise UserError(
            f"{path}: expected weights written by rstg_pyg (python -m rstg_pyg.official); this file "
            f"does not say which model it is for"
        ) from None
    except (SafetensorError, OSError, ValueError) as e:
        raise UserError(f"{path}: not a whole safetensors file ({e})") from e


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Reads a checkpoint of this project.

    Raises:
        UserError: If the file is missing or damaged, contains anything other than plain values and
            tensors, or was written by another program.
    """
    if not path.is_file():
        near = sorted(str(p) for p in path.parent.glob("*.ckpt"))[:3]
        hint = f"; there is {', '.join(near)}" if near else ""
        raise UserError(f"{path}: there is no such checkpoint{hint}")
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not compare the checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"wrong checksum of {damaged}")
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as e:  # torch raises many kinds for damaged and foreign files
        reason = str(e).splitlines()[0][:120] if str(e) else type(e).__name__
        raise UserError(f"{path}: not a whole checkpoint of rstg_pyg ({reason})") from e
    if not isinstance(checkpoint, dict) or not all(
        type(checkpoint.get(key)) in kinds for key, kinds in _KEYS.items()
    ):
        raise UserError(f"{path}: not a checkpoint of rstg_pyg (it has no config); it cannot be used")
    return checkpoint


def check_classes(path: Path, stored: list[str] | None, names: list[str], root: str | None) -> None:
    """Checks that a network's classes are those of the data, in the same order.

    Raises:
        UserError: If they are not.
    """
    if stored is None or stored == names:
        return
    if sorted(stored) == sorted(names):
        i = next(i for i, name in enumerate(names) if name != stored[i])
        raise UserError(
            f"{path}: was trained on these classes in another order (class {i} is {stored[i]!r}, here "
            f"{names[i]!r}); give the list of classes that it was trained with"
        )
    raise UserError(
        f"{path}: was trained on other classes ({', '.join(stored)}; {root or 'the data'} has "
        f"{', '.join(names)}); give the data set that belongs to it"
    )


def check_data(path: Path, stored: dict[str, Any], data: Any, root: str | None) -> None:
    """Checks that a run goes on with the data that it began with.

    Args:
        path: The checkpoint.
        stored: Its data, of :func:`check_resumable`.
        data: The training videos now.
        root: Where they are.

    Raises:
        UserError: If it does not.
    """
    if stored["origin"] != data.origin:
        raise UserError(
            f"{path}: the run began with {stored['origin']}, but the config's data now are "
            f"{data.origin}; give the data it began with"
        )
    check_classes(path, stored["label_names"], data.label_names, root)
    if stored["videos"] not in (None, videos := training_videos(data)):
        raise UserError(
            f"{path}: the run began with {stored['videos']}, and {root or 'the data'} has {videos}; "
            f"give the videos and labels it began with, or begin a run with train.init={path}"
        )


def training_videos(data: Any) -> str | None:
    """The number of training videos, and a hash of ids and labels; ``None`` for generated ones."""
    if not hasattr(data, "ids"):
        return None
    rows = map(repr, zip(data.ids, data.labels.tolist()))
    found = hashlib.sha256("\n".join(rows).encode(errors="replace")).hexdigest()[:6]
    return f"{counted(len(data.ids), 'training video')} (#{found})"


def check_resumable(path: Path, config: Config) -> tuple[int, str, dict[str, Any]]:
    """Reads a checkpoint and checks that it belongs to this run.

    Returns:
        The checkpoint's step, the run's precision, and what :func:`check_data` compares.

    Raises:
        UserError: If it cannot be read or belongs to another config; the message names the keys.
    """
    checkpoint = read_checkpoint(path)
    saved = saved_config(checkpoint["config"], path)
    changed = [
        line
        for line in differences(to_dict(saved), to_dict(config))
        if not line.startswith(_MAY_CHANGE)
    ]
    if changed:
        raise UserError(_other_config(path, changed))
    step, precision = checkpoint["global_step"], saved.trainer.precision
    stored = {key: checkpoint.get(key) for key in ("origin", "label_names", "videos")}
    return step, precision, stored


def saved_config(values: dict[str, Any], path: Path) -> Config:
    """The config in a checkpoint, with defaults for keys that were added since.

    Raises:
        UserError: If it has a key or value that the schema no longer allows.
    """
    return parse_config({"name": "weights", **values}, str(path))


def _other_config(path: Path, changed: list[str]) -> str:
    """The error for a checkpoint whose config differs."""
    return f"{path}: the checkpoint has another config; checkpoint and now: {some(changed, 5)}"
