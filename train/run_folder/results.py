"""The run folder: where a run is written and what it says about itself."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import cannot_be_written
from rstg_pyg.train.run_folder.checkpoints import newest_first, newest_whole

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
        folder = named_folder(out)
        check_free(folder)
    else:
        names = (name if i == 1 else f"{name}-{i}" for i in range(1, 10_000))
        folder = next(f for f in (Path("runs") / n for n in names) if not f.exists())
    check_writable(folder)
    os.environ[_FOLDER_VARIABLE] = str(folder)
    return folder


def named_folder(name: str) -> Path:
    """The folder that ``--out`` names.

    Raises:
        UserError: If it names none, or one that not every library can write.
    """
    try:
        name.encode()
    except UnicodeEncodeError as e:
        raise UserError(f"--out: expected a name in UTF-8 (got {name!r}); choose another") from e
    if not name:
        raise UserError("--out: expected the name of a folder (got nothing)")
    return Path(name)


def check_free(folder: Path) -> None:
    """Makes sure that the folder holds no run.

    Raises:
        UserError: If it does.
    """
    if any((folder / name).exists() for name in ("checkpoints", "metrics.csv", "results.json")):
        raise UserError(
            f"--out: {folder} already holds a run; continue it with --resume, or choose another folder"
        )


def check_writable(folder: Path) -> None:
    """Makes the folder and makes sure that files can be written there.

    Raises:
        UserError: If not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.tmp"
        probe.write_bytes(b"0")
        probe.unlink()
    except OSError as e:
        raise UserError(f"--out: {cannot_be_written(folder, e)}") from e


def run_to_resume(name: str, out: str | None, checkpoint: str) -> tuple[Path, Path | None]:
    """The run to go on with: its folder, and the checkpoint, or None if none was written yet.

    Args:
        name: The config's name. The newest run with this name is looked for, unless told otherwise by
        out: the run's folder, or
        checkpoint: the checkpoint (``""``: the newest whole one).

    Raises:
        UserError: If there is no such run.
    """
    if checkpoint:
        folder = Path(checkpoint).resolve().parent.parent
        if out is not None and Path(out).resolve() != folder:
            folder = Path(out)
            check_free(folder)
        folder, path = (folder if out is None else Path(out)), Path(checkpoint)
    else:
        if int(os.environ.get("LOCAL_RANK", 0)) > 0:
            out = out or os.environ.get(_FOLDER_VARIABLE)
        folder = _newest_run(name) if out is None else Path(out)
        if not folder.is_dir():
            raise UserError(f"--resume: there is no run in {folder}; leave --resume out to begin one")
        path = newest_whole(folder / "checkpoints")
        if path is None:
            print(f"{folder}: has no checkpoint yet, so the run begins anew", flush=True)
    os.environ[_FOLDER_VARIABLE] = str(folder)
    return folder, path


def _newest_run(name: str) -> Path:
    times = {}
    for pattern in (name, f"{name}-[0-9]*"):
        for folder in Path("runs").glob(pattern):
            files = newest_first(folder / "checkpoints")
            if not files and not (folder / "results.json").exists():
                files = [*folder.glob("config.yaml")]  # the run ended before its first checkpoint
            if files:
                times[folder] = max(file.stat().st_mtime for file in files)
    if not times:
        raise UserError(f"--resume: there is no run runs/{name}*; give its checkpoint: --resume CKPT")
    return max(times, key=times.__getitem__)
