"""Finds, reads and writes trained networks with their configs, class names and model cards."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from rstg_pyg import VideoClassifier, models
from rstg_pyg.train.build import build_model
from rstg_pyg.train.config import Config, parse_config, to_dict
from rstg_pyg.train.errors import UserError, counted
from rstg_pyg.train.files import write_text
from rstg_pyg.train.run_folder.weights import load_weights, open_weights, saved_config, write_weights

#: What a model keeps of ``results.json``.
_RESULTS = (
    *("top1", "top5", "loss", "num_videos", "protocol", "data", "steps", "seconds", "seed"),
    *("config_hash", "device", "versions", "checkpoint"),
)
_CARD = """\
---
library_name: rstg_pyg
pipeline_tag: video-classification
tags: [video-classification, graph-neural-networks]
---

# {name}

A Recurrent Space-time Graph network ([arXiv:1904.05582](https://arxiv.org/abs/1904.05582)) for {count}
classes of videos, trained with `rstg_pyg`.

```python
from rstg_pyg.train import Predictor

predictor = Predictor.load("FOLDER")  # this folder
predictor("clip.mp4", top=5)
```

| | |
|---|---|
{rows}

Classes: {classes}.
"""


def find_weights(name: str | os.PathLike[str]) -> Path:
    """The file with the weights of a network.

    Args:
        name: A file; a run folder, of which it is the best checkpoint, or the last; a folder of
            :meth:`rstg_pyg.VideoClassifier.save_pretrained`; or a name of ``rstg_pyg.models.list()``.

    Raises:
        UserError: If the folder has none, or there is no such name.
    """
    if not str(name):
        raise UserError("expected a run folder, a checkpoint or a model (got an empty name)")
    path = Path(name)
    if path.is_dir():
        for file in (models.WEIGHTS, "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
            if (path / file).is_file():
                return path / file
        hidden = models.FOLDER / name
        hint = f"; the model of this name is {hidden}" if str(name) in models.list() else ""
        raise UserError(
            f"{path}: expected a run folder (it has no checkpoints/best.ckpt or last.ckpt) or the "
            f"folder of a model (it has no {models.WEIGHTS}){hint}"
        )
    if str(name) in models.list():
        return models.FOLDER / name / models.WEIGHTS
    if not path.exists() and not path.suffix:
        known = ", ".join(models.list()) or "none"
        raise UserError(
            f"{name}: there is no such run, checkpoint or model; models that come along: {known}"
        )
    return path


def from_hub(name: str | os.PathLike[str], options: dict[str, Any]) -> Path | None:
    """The weights of ``USER/NAME`` on the Hugging Face Hub; ``None`` for other names.

    Raises:
        UserError: If they cannot be fetched.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return None
    if os.path.exists(name) or os.path.exists(name.split("/")[0]):
        return None
    try:
        from huggingface_hub import hf_hub_download
    except ModuleNotFoundError:
        raise UserError(
            f'{name}: there is no such folder; models of the hub need pip install "rstg_pyg[hub]"'
        ) from None
    try:
        return Path(hf_hub_download(name, models.WEIGHTS, **options))
    except (OSError, ValueError) as e:
        reason = str(e).strip().splitlines()[0]
        raise UserError(f"{name}: cannot be fetched from the Hugging Face Hub ({reason})") from e


def load_network(path: Path) -> VideoClassifier:
    """A network with its ``config``, ``classes`` and ``results``, in evaluation mode on the CPU.

    Raises:
        UserError: If the file is not one of this project, or damaged.
    """
    found = open_weights(path)
    weights = found["state_dict"]
    if "lin.weight" not in weights or weights["lin.weight"].dim() != 2:
        raise UserError(f"{path}: expected the weights of a video classifier (it has no lin.weight)")
    count = weights["lin.weight"].size(0)
    names = found.get("label_names") or [f"class {i}" for i in range(count)]
    if len(names) != count:
        raise UserError(f"{path}: has {len(names)} class names for {count} classes")
    config = saved_config(found["config"], path)
    model = build_model(config, count)
    load_weights(model, weights, path)
    model.config, model.classes = to_dict(config), names
    model.multi_label = found.get("multi_label", False)
    model.results = found.get("results") or _results_of(path)
    return model.eval()


def _results_of(path: Path) -> dict[str, Any] | None:
    """What the run of a checkpoint measured, and on which of its checkpoints."""
    try:
        found = json.loads((path.parent.parent / "results.json").read_text(encoding="utf-8"))
        found["checkpoint"] = Path(found["checkpoint"]).name
        kept = {key: found[key] for key in _RESULTS}
        return {"weights": path.name, "mAP": found.get("mAP"), **kept}
    except (OSError, ValueError, KeyError, TypeError):  # none, or of an older version
        return None


def measured_weights(name: str | os.PathLike[str]) -> Path:
    """:func:`find_weights`, but of a run folder the checkpoint that its ``results.json`` is of."""
    path = find_weights(name)
    found = _results_of(path)
    measured = path if found is None else path.with_name(found["checkpoint"])
    return measured if measured.is_file() else path


def save_network(model: Any, folder: str | os.PathLike[str]) -> None:
    """Writes a network of :func:`load_network` into a folder, with a model card.

    Raises:
        ValueError: If the network does not know its config, or its classes have another number.
        UserError: If the folder cannot be written, is one of a run, whose checkpoints the network would
            hide, or has another ``README.md``.
    """
    if model.config is None or model.classes is None:
        raise ValueError(
            "Expected a network with 'config' and 'classes', such as those of 'from_pretrained' and of "
            "runs (got one without); save its 'state_dict()' instead"
        )
    count = model.lin.weight.size(0)
    if len(model.classes) != count:
        raise ValueError(f"Expected 'classes' to name {count} classes (got {len(model.classes)} names)")
    folder = Path(folder)
    if (folder / "checkpoints").is_dir():
        raise UserError(f"{folder}: is the folder of a run; choose another for the network")
    page = folder / "README.md"
    if page.is_file() and "library_name: rstg_pyg" not in page.read_text("utf-8", "replace"):
        raise UserError(f"{page}: is no model card, and would be overwritten; choose another folder")
    config = parse_config(model.config, str(folder))
    about = {key: getattr(model, key) for key in ("multi_label", "results")}
    made_from = f"a run of {config.name}"
    write_weights(folder / models.WEIGHTS, model, config, made_from, label_names=model.classes, **about)
    write_text(page, card(folder.name, model, config))


def card(name: str, model: VideoClassifier, config: Config) -> str:
    """The model card, in Markdown."""
    data, classes, found = config.data, model.classes or [], model.results or {}
    channels, frames, rows_of_pixels, columns = data.clip_shape
    rows = {
        "input": f"{counted(frames, 'frame')} of {rows_of_pixels} x {columns} pixels, "
        f"{counted(channels, 'channel')}",
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
    }
    scores = {"top1": "top-1", "top5": "top-5", "mAP": "mAP"}
    known = [f"{name} {found[k]:.2%}" for k, name in scores.items() if found.get(k) is not None]
    if known:
        rows |= {
            "result": f"{', '.join(known)} of {counted(found['num_videos'], 'video')}",
            "measured on": f"`{found['checkpoint']}`; the weights are those of `{found['weights']}`",
            "protocol": found["protocol"],
            "data": found["data"],
            "training": f"{counted(found['steps'], 'step')} in {found['seconds']:,.0f} s, "
            f"seed {found['seed']}, on {found['device']}",
            "config": f"`{config.name}`, {found['config_hash']}",
            "versions": ", ".join(f"{k} {v}" for k, v in found["versions"].items()),
        }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return _CARD.format(name=name, count=len(classes), rows=table, classes="; ".join(classes))
