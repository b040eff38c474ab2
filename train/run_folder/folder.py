"""The folder of a run, and the checkpoint from which it is resumed."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import cannot_be_written, lock
from rstg_pyg.train.run_folder.weights import read_checkpoint

#: Environment variable with the run folder, for the processes that Lightning starts.
_FOLDER_VARIABLE = "RSTG_PYG_RUN_FOLDER"


def new_run_folder(out: str | None, name: str) -> Path:
    """The folder for a new run: ``out``, or the first free ``runs/NAME``, ``runs/NAME-2``, ...

    In a training on several devices, the other processes use the folder of the first one.

    Raises:
        UserError: If ``out`` already holds a run, is not a folder, or is not writable.
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
    """The folder given by ``--out``.

    Raises:
        UserError: If it is empty or not UTF-8, which not every library can write.
    """
    try:
        name.encode()
    except UnicodeEncodeError as e:
        raise UserError(f"--out: expected a name in UTF-8 (got {name!r}); choose another") from e
    if not name:
        raise UserError("--out: expected the name of a folder (got nothing)")
    return Path(name)


def check_free(folder: Path) -> None:
    """Checks that the folder holds no run.

    Raises:
        UserError: If it does.
    """
    if any((folder / name).exists() for name in ("checkpoints", "metrics.csv", "results.json")):
        raise UserError(
            f"--out: {folder} already holds a run; continue it with --resume, or choose another folder"
        )


def check_writable(folder: Path) -> None:
    """Creates the folder and checks that it is writable.

    Raises:
        UserError: If not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.tmp"
        try:
            probe.write_bytes(b"0")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as e:
        raise UserError(f"--out: {cannot_be_written(folder, e)}") from e


@contextlib.contextmanager
def only_one(folder: Path, first: bool) -> Iterator[None]:
    """A context in which no other program trains in the folder. A killed program leaves it free.

    Args:
        folder: The run folder.
        first: Whether this is the first process of a training, which speaks for the others.

    Raises:
        UserError: If another program does, or the folder is not writable.
    """
    if not first:
        yield
        return
    path = folder / ".training"  # not ``.lock``, which ``reproduce.py`` holds
    try:
        file = open(path, "w")  # noqa: SIM115
    except OSError as e:
        raise UserError(f"--out: {cannot_be_written(folder, e)}") from e
    with file:
        try:
            lock(file)
        except (BlockingIOError, PermissionError):
            raise UserError(
                f"--out: another program is training in {folder}; wait until it is done or end it, or "
                f"choose another folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def run_to_resume(name: str, out: str | None, checkpoint: str) -> tuple[Path, Path | None]:
    """The run to resume: its folder, and the checkpoint, or None if there is none yet.

    Args:
        name: The config's name. By default the newest run with this name is resumed.
        out: The run's folder, if given.
        checkpoint: The checkpoint or the run folder, if given (``""``: the newest run). Of a folder it
            is the newest undamaged one.

    Raises:
        UserError: If there is no such run.
    """
    path: Path | None
    if checkpoint:
        path = Path(checkpoint)
        own = path.resolve().parent.parent
        if path.is_dir():
            own = path
            path = newest_whole(own / "checkpoints")
            if path is None and not (own / "config.yaml").is_file():
                raise UserError(
                    f"--resume: expected a run folder or a checkpoint (got {own}, which has neither "
                    f"checkpoints nor a config.yaml)"
                )
        folder = own if out is None else Path(out)
        if folder.resolve() != own.resolve():
            check_free(folder)
    else:
        if int(os.environ.get("LOCAL_RANK", 0)) > 0:
            out = out or os.environ.get(_FOLDER_VARIABLE)
        folder = _newest_run(name) if out is None else Path(out)
        if not folder.is_dir():
            raise UserError(f"--resume: there is no run in {folder}; omit --resume to start one")
        path = newest_whole(folder / "checkpoints")
    if path is None:
        print(f"{folder}: has no checkpoint yet, so the run restarts", flush=True)
    os.environ[_FOLDER_VARIABLE] = str(folder)
    return folder, path


def _newest_run(name: str) -> Path:
    times = {}
    for folder in [*Path("runs").glob(name), *Path("runs").glob(f"{name}-[0-9]*")]:
        files = newest_first(folder / "checkpoints")
        if not files and not (folder / "results.json").exists():
            files = [*folder.glob("config.yaml")]  # the run ended before its first checkpoint
        if files:
            times[folder] = max(file.stat().st_mtime for file in files)
    if not times:
        raise UserError(f"--resume: there is no run runs/{name}*; give its folder: --resume RUN")
    return max(times, key=times.__getitem__)


def step_checkpoints(folder: Path) -> dict[int, Path]:
    """The files ``step-N.ckpt`` by step, in ascending order."""
    found = (re.fullmatch(r"step-(\d+)\.ckpt", path.name) for path in folder.glob("step-*.ckpt"))
    return {step: folder / f"step-{step}.ckpt" for step in sorted(int(m[1]) for m in found if m)}


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints from which a run can be resumed, newest first."""
    found = [*reversed(step_checkpoints(folder).values()), folder / "last.ckpt"]
    return [path for path in found if path.is_file()]


def newest_whole(folder: Path) -> Path | None:
    """The newest undamaged checkpoint of a run, or None if there is none yet. Prints a message if newer
    ones are damaged.

    Args:
        folder: The run's folder of checkpoints.

    Raises:
        UserError: If all checkpoints are damaged.
    """
    problems = []
    for path in newest_first(folder):
        try:
            read_checkpoint(path)
        except UserError as e:
            problems.append(str(e))
        else:
            for problem in problems:
                print(f"{problem}; using the previous one, {path.name}", flush=True)
            return path
    if problems:
        raise UserError(
            f"{problems[0]}, and no other in {folder} is; begin again without --resume in another "
            f"folder"
        )
    return None
