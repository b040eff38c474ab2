"""The run folder: where a run is written and what it says about itself."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from rstg_pyg.train.checkpoints import write_atomically
from rstg_pyg.train.errors import UserError

PACKAGES = (
    "rstg_pyg",
    "torch",
    "torch-geometric",
    "torchvision",
    "pytorch-lightning",
    "torchmetrics",
    "numpy",
    "scikit-learn",
)

#: Tells the processes that Lightning starts where the run is written.
_FOLDER_VARIABLE = "RSTG_PYG_RUN_FOLDER"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version(), **{name: package_version(name) for name in PACKAGES}}


def package_version(name: str) -> str:
    """The version of an installed package, or "not installed"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def device_name(device: torch.device) -> str:
    """The processor in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line.split(":")[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        pass
    return f"{model}, {torch.get_num_threads()} threads"


def environment(device: torch.device) -> dict[str, Any]:
    """The machine and software of a run, for ``environment.json``."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "platform": platform.platform(),
        "device": device_name(device),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def peak_memory() -> dict[str, float]:
    """The most memory that this process has held so far, in GiB (on the CPU; on the GPU by tensors)."""
    out = {}
    try:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        out["cpu"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    except ImportError:  # Windows
        pass
    if torch.cuda.is_available():
        out["gpu"] = torch.cuda.max_memory_allocated() / 2**30
    return out


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes JSON atomically."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes text atomically."""
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def new_run_folder(out: str | None, name: str) -> Path:
    """The folder for a new run: ``out``, or the first free ``runs/NAME``, ``runs/NAME-2``, ...

    The other processes of a training on several devices get the folder of the first one.

    Raises:
        UserError: If ``out`` already holds a run, is no folder, or cannot be written.
    """
    if int(os.environ.get("LOCAL_RANK", 0)) > 0:
        folder = out or os.environ.get(_FOLDER_VARIABLE)
        if folder is None:
            raise UserError("--out: name the run folder when several processes are started at once")
        return Path(folder)
    if out is not None:
        folder = Path(out)
        if any((folder / name).exists() for name in ("checkpoints", "metrics.csv", "results.json")):
            raise UserError(
                f"--out: {folder} already holds a run; continue it with --resume, or choose another "
                f"folder"
            )
    else:
        names = (name if i == 1 else f"{name}-{i}" for i in range(1, 10_000))
        folder = next(f for f in (Path("runs") / n for n in names) if not f.exists())
    check_writable(folder)
    os.environ[_FOLDER_VARIABLE] = str(folder)
    return folder


def check_writable(folder: Path) -> None:
    """Makes the folder and makes sure that files can be written there.

    Raises:
        UserError: If not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.tmp"
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise UserError(
            f"--out: {folder} cannot be written ({e.strerror or e}); choose another folder"
        ) from e


def run_to_resume(name: str, out: str | None) -> Path:
    """The newest ``last.ckpt`` of the runs with this name, for ``--resume`` without a path.

    Raises:
        UserError: If there is none.
    """
    if out is not None:
        return Path(out) / "checkpoints" / "last.ckpt"
    found = [
        path
        for pattern in (name, f"{name}-[0-9]*")
        for path in Path("runs").glob(f"{pattern}/checkpoints/last.ckpt")
    ]
    if not found:
        raise UserError(
            f"--resume: there is no checkpoint runs/{name}*/checkpoints/last.ckpt; give its path: "
            f"--resume CKPT"
        )
    return max(found, key=lambda path: path.stat().st_mtime)
