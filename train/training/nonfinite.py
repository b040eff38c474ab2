"""A training that meets NaN or Inf stops, says where it comes from, and keeps the step to repeat it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from rstg_pyg.train.config import Config, to_dict
from rstg_pyg.train.data.loaders import video_names
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.run_folder.checkpoints import AtomicCheckpointIO
from rstg_pyg.train.run_folder.results import versions
from rstg_pyg.train.training.offender import Offender, find_offender

#: Mixed precision in float16 halves the scale of the loss and skips the step when a gradient
#: overflows; still so at this scale it is no overflow of the scale's making (fairseq's limit).
LEAST_SCALE = 1e-4
_MOST_NAMES = 16
_DTYPES = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
_KEYS = {"kind", "config", "step", "state_dict", "parts", "precision", "scale", "videos", "reason"}


class NonFiniteError(Exception):
    """A loss or a gradient is NaN or infinite. The commands print the message and exit with code 1."""


class Guard:
    """Looks at every optimizer step, before it changes the weights.

    Whether loss and gradients are finite is worked out on the device; one number is read back per
    step. What a step begins with is kept by reference: the batch, the states of the random
    generators, and copies of running statistics, which the forward pass changes.

    Args:
        network: What is trained.
        loss: Computes the loss of a batch, ``loss(*batch)``.
        kind: How the step is to be repeated, see :mod:`rstg_pyg.train.replay`.
        config: The experiment.
        precision: That of the training.
        folder: The run folder.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        loss: Callable[..., Tensor],
        kind: str,
        config: Config,
        precision: str,
        folder: Path,
    ):
        self.network, self.loss = network, loss
        self.kind, self.config, self.precision, self.folder = kind, config, precision, folder
        self.norms = [
            m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats
        ]
        self.parts: list[dict[str, Any]] = []
        self.losses: list[Tensor] = []
        self.statistics: list[Tensor] = []

    def before(self, batch: tuple[Tensor, ...], visits: Tensor) -> None:
        """Notes a batch (or a part of an accumulated one) before its forward pass.

        Args:
            batch: What the loss is computed from.
            visits: Which videos these are.
        """
        if not self.parts:
            self.statistics = [x.clone() for x in self._statistics()]
        device = batch[0].device
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        state = {"rng": torch.get_rng_state(), "cuda_rng": cuda}
        self.parts.append({"batch": list(batch), "visits": visits, **state})

    def after(self, loss: Tensor) -> None:
        """Notes the loss of the batch."""
        self.losses.append(loss.detach())

    def check(self, norm: Tensor, step: int, dataset: Any, scaler: Any = None, rank: int = 0) -> None:
        """Before the weights change: is everything finite?

        Args:
            norm: The norm of all gradients, unscaled.
            step: The step's number, from one.
            dataset: Where the videos come from, for their names.
            scaler: The gradient scaler of float16, which skips steps whose gradients overflow.
            rank: The number of this process.

        Raises:
            NonFiniteError: If not, and no scaler is going to skip the step.
        """
        finite = norm.isfinite()
        for loss in self.losses:
            finite = finite & loss.isfinite()
        if not bool(finite):  # the one number read back
            scale = 1.0 if scaler is None else scaler.get_scale()
            if scaler is None or scale < LEAST_SCALE or bool(norm.isfinite()):
                raise NonFiniteError(self._stop(norm, step, dataset, scale, rank))
            # A forward pass that overflowed must not stay in the running statistics.
            if not all(bool(x.isfinite().all()) for x in self._statistics()):
                self._restore_statistics()
        self.parts, self.losses = [], []

    def _statistics(self) -> list[Tensor]:
        return [x for m in self.norms for x in (m.running_mean, m.running_var)]

    def _restore_statistics(self) -> None:
        for now, before in zip(self._statistics(), self.statistics):
            now.copy_(before)

    def _stop(self, norm: Tensor, step: int, dataset: Any, scale: float, rank: int) -> str:
        """Saves the step, looks for the offender; the message."""
        bad = [float(x) for x in self.losses if not x.isfinite()]
        reason = f"the loss is {bad[0]}" if bad else f"the norm of the gradients is {float(norm)}"
        self._restore_statistics()
        for parameter in self.network.parameters():
            parameter.grad = None  # their memory is needed
        visits = torch.cat([part["visits"] for part in self.parts])
        record = {
            "kind": self.kind,
            "config": to_dict(self.config),
            "precision": self.precision,
            "scale": scale,
            "step": step,
            "reason": reason,
            "videos": video_names(dataset, visits.tolist()),
            "versions": versions(),
            "parts": self.parts,
            "state_dict": self.network.state_dict(),
        }
        path = self.folder / "nonfinite" / f"step-{step}{f'-rank-{rank}' if rank else ''}.pt"
        try:
            AtomicCheckpointIO().save_checkpoint(_on_cpu(record), path)
            saved = f"saved to repeat the step: python train/replay.py {path}"
        except UserError as e:
            saved = f"the step could not be saved: {e}"
        found = repeat(self.network, self.loss, record)
        train = self.config.train
        advice = f"train.lr (now {train.lr:g}) or a longer train.warmup (now {train.warmup:g})"
        if self.kind == "filters":
            advice = f"pretrain.lr (now {self.config.pretrain.lr:g})"
        said = describe(record, found)
        return f"{said}\n{saved}\nthe step was not made; often a lower {advice} helps"


def repeat(
    network: torch.nn.Module, loss: Callable[..., Tensor], record: dict[str, Any]
) -> Offender | None:
    """Repeats a saved step without the optimizer, part by part; ``None`` if all is finite now.

    Args:
        network: What was trained, with the weights of the step.
        loss: Computes the loss of a batch.
        record: The saved step.
    """
    device = next(network.parameters()).device

    def compute(part: dict[str, Any]) -> Tensor:
        torch.set_rng_state(part["rng"])
        if part["cuda_rng"] is not None and device.type == "cuda":
            torch.cuda.set_rng_state(part["cuda_rng"], device)
        with _autocast(record["precision"], device):
            value = loss(*[x.to(device) for x in part["batch"]])
        return value * record["scale"]

    with torch.compiler.set_stance("force_eager"):  # compiled networks cannot be looked into
        for part in record["parts"]:
            found = find_offender(network, lambda part=part: compute(part))
            if found is not None:
                return found
    return None


def describe(record: dict[str, Any], found: Offender | None) -> str:
    """What happened and where, with the videos."""
    if found is not None:
        where = f"it begins in module '{found.module}'" if found.module else "it begins in the network"
        where = f"{where}: {found.what}"
    else:
        where = (
            "repeated alone, the step has finite numbers only: the sum of gradients overflows, another "
            "process has the fault, or it does not come every time"
        )
    videos = record["videos"]
    more = f" and {len(videos) - _MOST_NAMES} more" if len(videos) > _MOST_NAMES else ""
    before = "step" if record["kind"] == "video" else "training of the filters alone, step"
    return (
        f"{before} {record['step']}: {record['reason']}; {where}\n"
        f"its videos: {', '.join(videos[:_MOST_NAMES])}{more}"
    )


def read_step(path: Path) -> dict[str, Any]:
    """Reads a step that a training has saved.

    Raises:
        UserError: If the file is something else or damaged.
    """
    if not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path}: not a step saved by a training (there is no such file)")
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises many kinds for damaged and foreign files
        reason = str(e).splitlines()[0][:120] if str(e) else type(e).__name__
        raise UserError(f"{path}: not a step saved by a training ({reason})") from e
    if not isinstance(record, dict) or not record.keys() >= _KEYS:
        raise UserError(
            f"{path}: not a step saved by a training; give a file of a run's folder 'nonfinite'"
        )
    return record


def check_step(record: dict[str, Any], where: str) -> None:
    """Makes sure that the values of a saved step are of their types.

    Raises:
        UserError: If one is not.
    """
    kinds = {"kind": str, "config": dict, "step": int, "state_dict": dict, "parts": list}
    kinds |= {"precision": str, "scale": float, "videos": list, "reason": str}
    wrong = [key for key, kind in kinds.items() if not isinstance(record[key], kind)]
    part_kinds = {"batch": list, "rng": Tensor, "visits": Tensor, "cuda_rng": Tensor | None}
    for part in record["parts"] if not wrong else ():
        for key, kind in part_kinds.items():
            if not isinstance(part, dict) or key not in part or not isinstance(part[key], kind):
                wrong.append(f"parts.{key}")
    if not wrong and not all(isinstance(name, str) for name in record["videos"]):
        wrong = ["videos"]
    if not wrong and record["kind"] not in ("video", "filters"):
        wrong = ["kind"]
    head = None if wrong else record["state_dict"].get("lin.weight")
    if not wrong and record["kind"] == "video" and not (isinstance(head, Tensor) and head.dim() == 2):
        wrong = ["state_dict"]
    if wrong:
        raise UserError(
            f"{where}: not a step saved by a training ({wrong[0]} is wrong); give a file of a run's "
            f"folder 'nonfinite'"
        )


@contextlib.contextmanager
def _autocast(precision: str, device: torch.device) -> Iterator[None]:
    if precision in _DTYPES:
        with torch.autocast(device.type, _DTYPES[precision]):
            yield
    else:
        yield


def _on_cpu(value: Any) -> Any:
    """Copies on the CPU: a view would be saved with all that it is a view of."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {k: _on_cpu(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_on_cpu(v) for v in value]
    return value
