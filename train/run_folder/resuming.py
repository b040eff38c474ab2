"""Makes sure, before a run goes on, that its checkpoint is one that this very run would write."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from rstg_pyg.train.errors import UserError
from rstg_pyg.train.run_folder.checkpoints import read_checkpoint
from rstg_pyg.train.training.task import VideoTask

#: What an optimizer keeps for a parameter, each of its shape; a step's number besides.
_MOMENTS = {"adamw": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}


def check_fits(path: Path, task: VideoTask, trainer: pl.Trainer) -> None:
    """Compares a checkpoint with what Lightning and this project would write for this training.

    Args:
        path: The checkpoint.
        task: What is trained, not begun yet.
        trainer: With the callbacks.

    Raises:
        UserError: If something is missing or of another type or shape; the message says what.
    """
    found = read_checkpoint(path)
    wanted = _wanted(task, trainer)
    if found.get("pytorch-lightning_version", pl.__version__) != pl.__version__:
        del wanted["loops"]  # Lightning brings its own part of older checkpoints up to date
    problem = _difference(wanted, found, "")
    more = [key for key in found["state_dict"] if key not in task.state_dict()]
    if problem is None:
        problem = f"state_dict.{more[0]}: not of this network" if more else _contradiction(found)
    if problem is not None:
        raise UserError(
            f"{path}: a run cannot go on from it ({problem[:200]}), it was changed or written by "
            f"another program (Lightning here is {pl.__version__}); give another one: --resume CKPT"
        )


def _wanted(task: VideoTask, trainer: pl.Trainer) -> dict[str, Any]:
    """A checkpoint of this training; values other than tensors stand for their types."""
    made = task.configure_optimizers()
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    loops = trainer.fit_loop.state_dict()
    loops["state_dict"] = {"combined_loader": [{"step": 0}]}
    states = {callback.state_key: callback.state_dict() for callback in trainer.callbacks}
    return {
        "epoch": 0,
        "pytorch-lightning_version": "",
        "state_dict": task.state_dict(),
        "loops": {"fit_loop": loops},
        "callbacks": {key: state for key, state in states.items() if state},
        "optimizer_states": [_Optimizer(optimizer, task.config.train.optimizer)],
        "lr_schedulers": [scheduler.state_dict()],
    }


class _Optimizer:
    """The state of an optimizer that has made steps."""

    def __init__(self, optimizer: torch.optim.Optimizer, kind: str):
        self.state = optimizer.state_dict()
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.kind = kind

    def difference(self, found: Any, where: str) -> str | None:
        """What is wrong with a state. Parameters that got no gradient have none."""
        problem = _difference(self.state, found, where)
        if problem is not None:
            return problem
        for group, wanted in zip(found["param_groups"], self.state["param_groups"]):
            if group["params"] != wanted["params"]:
                return f"{where}.param_groups: the parameters of another network"
        step = {"step": torch.tensor(0.0)} if self.kind == "adamw" else {}
        for index, state in found["state"].items():
            if type(index) is not int or not 0 <= index < len(self.parameters):
                return f"{where}.state: there is no parameter {index!r}"
            wanted = dict.fromkeys(_MOMENTS[self.kind], self.parameters[index]) | step
            empty = isinstance(state, dict) and not state
            problem = _difference({} if empty else wanted, state, f"{where}.state.{index}")
            if problem is not None:
                return problem
        return None


def _difference(wanted: Any, found: Any, where: str) -> str | None:
    """The first place at which ``found`` lacks something, or has another type or shape; extra keys are
    left alone, and ``None`` stands for anything.
    """
    if isinstance(wanted, _Optimizer):
        return wanted.difference(found, where)
    if isinstance(wanted, Tensor):
        if not isinstance(found, Tensor):
            return f"{where}: expected a tensor, got {type(found).__name__}"
        same = found.shape == wanted.shape and found.dtype == wanted.dtype
        if same and found.layout == torch.strided:
            return None
        return f"{where}: expected {_describe(wanted)}, got {_describe(found)}"
    if wanted is None:
        return None
    if type(found) is not type(wanted) and (type(wanted), type(found)) != (float, int):
        return f"{where}: expected {type(wanted).__name__}, got {type(found).__name__}"
    pairs = []
    if isinstance(wanted, dict):
        missing = next((key for key in wanted if key not in found), None)
        if missing is not None:
            return f"{where}.{missing} is missing".lstrip(".")
        pairs = [(key, wanted[key], found[key]) for key in wanted]
    elif isinstance(wanted, list | tuple) and wanted:
        if len(wanted) != len(found):
            return f"{where}: expected {len(wanted)} values, got {len(found)}"
        pairs = [(i, *pair) for i, pair in enumerate(zip(wanted, found))]
    for key, one, other in pairs:
        problem = _difference(one, other, f"{where}.{key}".lstrip("."))
        if problem is not None:
            return problem
    return None


def _describe(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _contradiction(found: dict[str, Any]) -> str | None:
    """Whether the checkpoint contradicts itself in its counts of steps, or has no version."""
    version = found["pytorch-lightning_version"]
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,4}){1,3}[a-z0-9.+]{0,40}", version):
        return f"pytorch-lightning_version: got {version[:40]!r}"
    before = found["callbacks"]["Meter"].get("pretraining")
    numbers = isinstance(before, dict) and all(type(n) in (int, float) for n in before.values())
    if before is not None and not numbers:
        return "callbacks.Meter.pretraining: expected numbers"
    try:
        progress = found["loops"]["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]
        steps = progress["optimizer"]["step"]["total"]["completed"]
    except (KeyError, TypeError):  # possible with another version
        return "loops: no count of steps"
    schedule = found["lr_schedulers"][0]["last_epoch"]
    if steps == schedule == found["global_step"]:
        return None
    return f"it counts {found['global_step']}, {steps} and {schedule} steps"
