"""The machine and software of a run."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from rstg_pyg.train.errors import counted

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
    """The name of the processor or GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo") as file:
        model = next(line.split(":")[1].strip() for line in file if "model name" in line)
    return f"{model}, {counted(torch.get_num_threads(), 'thread')}"


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
    """Peak memory of this process so far, in GiB (on the CPU; on a GPU that of tensors)."""
    out = {}
    with contextlib.suppress(ImportError):  # Windows
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        out["cpu"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    if torch.cuda.is_available():
        out["gpu"] = torch.cuda.max_memory_allocated() / 2**30
    return out
