"""Files that are whole or not there: written under a temporary name, flushed, renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rstg_pyg.train.errors import UserError

#: Files of a run folder that other commands could write over.
_OF_A_RUN = ("results.json", "environment.json", "metrics.csv", "per_class.csv", "confusion.csv")
_OF_A_RUN += ("confusion.png", "curves.png")


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls ``write`` with a temporary name beside ``path``, flushes the file, renames it, and flushes
    the folder.

    Raises:
        UserError: If the folder cannot be written or the disk is full; ``path`` is as before then.
    """
    path = target(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        flush_folder(path.parent)
    except OSError as e:
        raise cannot_be_written(path, e) from e
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def target(path: Path) -> Path:
    """The file to write where a user or program says ``path``: links stay links.

    Raises:
        UserError: If it is anything but a file (a device or a pipe would be gone afterwards).
    """
    file = Path(os.path.realpath(path))
    if os.path.lexists(file) and not os.path.isfile(file):
        kind = "a folder" if os.path.isdir(file) else "no ordinary file"
        raise UserError(f"{path}: cannot be written, since it is {kind}; choose another name")
    return file


def cannot_be_written(path: Path, error: OSError) -> UserError:
    """The message for a file or folder that cannot be written, with the remedy."""
    reason, remedy = error.strerror or str(error), "choose another place"
    with contextlib.suppress(OSError):
        folder = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
        free = shutil.disk_usage(folder).free
        # torch's own writer does not say why it failed; on a full disk nothing is free.
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or (error.errno is None and free < 1 << 20):
            reason = f"{os.strerror(errno.ENOSPC)}; {free / 1e6:.0f} MB are free there"
            remedy = "free some space, then go on"
    if error.errno == errno.ENOENT:
        reason, remedy = f"{path.parent} is gone", "leave it in its place while it is in use"
    return UserError(f"{path}: cannot be written ({reason}); {remedy}")


def flush_folder(folder: Path) -> None:
    """Makes the names in a folder last through a power cut."""
    if os.name != "posix":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder may be writable and not readable
        return
    try:
        os.fsync(handle)
    except OSError as e:
        if e.errno != errno.EINVAL:  # some file systems cannot
            raise
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of :func:`write_atomically` that a killed process left."""
    for path in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", path.name):
            path.unlink(missing_ok=True)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes JSON atomically."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes text atomically."""
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def output_file(option: str, name: str, suffixes: Sequence[str]) -> Path:
    """A file that a command is going to write, looked at before the work that it is for.

    Args:
        option: What the user gave the name with.
        name: The name.
        suffixes: The endings that it may have. A file of another kind is never written over.

    Raises:
        UserError: If nothing can be written there, or a run or another program has its file there.
    """
    path = Path(name)
    if path.suffix not in suffixes or name.endswith("/"):
        wanted = " or ".join(suffixes)
        raise UserError(f"{option}: expected a name ending in {wanted} (got {name or 'nothing'})")
    if path.name in _OF_A_RUN and (path.parent / "config.yaml").is_file():
        raise UserError(f"{option}: {path} belongs to the run in {path.parent}; choose another name")
    try:
        folder = next(folder for folder in target(path).parents if folder.exists())
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(
            folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids
        ):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as e:
        raise UserError(f"{option}: {cannot_be_written(path, e)}") from e
    return path
