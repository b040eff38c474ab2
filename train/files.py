"""Atomic writes: a file is written under a temporary name, flushed, and renamed."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from rstg_pyg.train.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked
    fcntl = None  # type: ignore[assignment]

#: Files of a run folder that other commands could overwrite.
_OF_A_RUN = ("results.json", "environment.json", "metrics.csv", "per_class.csv", "confusion.csv")
_OF_A_RUN += ("confusion.png", "curves.png", "predictions.csv", "predictions.png")


def lock(file: IO[str], inherited: bool = False) -> None:
    """Locks an open file, which a killed program leaves free.

    Args:
        file: The file.
        inherited: Whether processes that are given the file keep the lock, too.

    Raises:
        OSError: If another program has it, or the file system has no locks.
    """
    if fcntl is not None:
        (fcntl.flock if inherited else fcntl.lockf)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls ``write`` with a temporary name in the same folder, flushes the file, renames it to
    ``path``, and flushes the folder.

    Raises:
        UserError: If the folder is not writable or the disk is full; ``path`` is then unchanged.
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
    """The file to write for ``path``: the target if it is a link, so that links stay links.

    Raises:
        UserError: If it is not a regular file (renaming would replace a device or a pipe).
    """
    file = Path(os.path.realpath(path))
    if os.path.lexists(file) and not os.path.isfile(file):
        kind = "a folder" if os.path.isdir(file) else "not a regular file"
        raise UserError(f"{path}: cannot be written, because it is {kind}; choose another name")
    return file


def from_here(path: Path) -> Path:
    """A path as seen from the working folder, where it is inside of it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def cannot_be_written(path: Path, error: OSError) -> UserError:
    """The error for a file or folder that cannot be written, with what to do."""
    reason, remedy = error.strerror or str(error), "choose another place"
    with contextlib.suppress(OSError):
        folder = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
        free = shutil.disk_usage(folder).free
        # torch's own writer does not say why it failed; check for a full disk.
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or (error.errno is None and free < 1 << 20):
            reason = f"{os.strerror(errno.ENOSPC)}; {free / 1e6:.0f} MB are free there"
            remedy = "free some space, then continue"
    if error.errno == errno.ENOENT:
        reason, remedy = f"{path.parent} was removed", "do not move it while it is in use"
    return UserError(f"{path}: cannot be written ({reason}); {remedy}")


def flush_folder(folder: Path) -> None:
    """Flushes a folder, so that its file names survive a power failure."""
    if os.name != "posix":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder may be writable but not readable
        return
    try:
        os.fsync(handle)
    except OSError as e:
        if e.errno != errno.EINVAL:  # some file systems cannot
            raise
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Removes temporary files of :func:`write_atomically` left by a killed process."""
    for path in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", path.name):
            path.unlink(missing_ok=True)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes JSON atomically."""
    write_text(path, json.dumps(values, indent=2) + "\n")


@contextlib.contextmanager
def of_this_command(path: Path) -> Iterator[None]:
    """For reading a result file of an earlier call in ``--out``.

    Raises:
        UserError: If what is done inside shows that it is none.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(
            f"--out: {path} is damaged, or not a file of this command; choose another folder"
        ) from e


def write_text(path: Path, text: str) -> None:
    """Writes text atomically."""
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def write_csv(
    path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None
) -> None:
    """Writes a table as CSV atomically, with a header.

    Args:
        path: The file.
        rows: The rows; what they lack is an empty cell.
        columns: The columns; what else rows have is left out. (default: those of the first row)
    """
    text, extra = io.StringIO(), "raise" if columns is None else "ignore"
    table = csv.DictWriter(text, columns or list(rows[0]), extrasaction=extra, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    # Names of files need not be text.
    write_text(path, text.getvalue().encode(errors="backslashreplace").decode())


def output_file(option: str, name: str, suffixes: Sequence[str]) -> Path:
    """Checks the path of an output file before a command starts its work.

    Args:
        option: The command line option, for error messages.
        name: The path.
        suffixes: The allowed file name extensions. A file with another extension is never overwritten.

    Raises:
        UserError: If it is not writable, or is a file of a run or of another program.
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
