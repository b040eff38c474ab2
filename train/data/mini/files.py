"""Writes *mini-something* in the layout of Something-Something v1, for the reader of the real data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from rstg_pyg.train.data.mini.clips import SPLITS, VERSION, MiniSomething
from rstg_pyg.train.data.mini.scenes import EVENTS
from rstg_pyg.train.data.parallel import in_processes
from rstg_pyg.train.errors import UserError

_VIDEOS = "20bn-something-something-v1"
_LIST = "something-something-v1-{}.csv"
_RECORD = "mini-something.json"
_FEW = 500  # clips that one process has rendered before others have begun


def write_mini_something(
    folder: str | Path,
    train: int = 4000,
    validation: int = 1000,
    test: int = 0,
    num_workers: int = 2,
    **options,
) -> Path:
    """Renders *mini-something* into a folder, in the layout of Something-Something v1.

    The folder appears when it is complete. One that is there already is used if it holds the same
    clips, and is never written into.

    Args:
        folder: The root of the data set.
        train: Number of clips of the training split. Classes take turns in every split.
        validation: The same of the validation split.
        test: The same of the test split, whose list has no labels, as in the real data.
        num_workers: Processes that render, where there are many clips.
        **options: Arguments of :class:`MiniSomething`.

    Returns:
        The folder.

    Raises:
        UserError: If the folder holds anything else or cannot be written, or a number is out of range.
    """
    folder = Path(folder)
    clips = MiniSomething(**options)
    if min(train, validation, test) < 0:
        raise UserError(
            f"mini-something: expected no negative counts (got {train}, {validation}, {test})"
        )
    counts = dict(zip(SPLITS, (train, validation, test)))
    record = {"version": VERSION, **asdict(clips), **counts}
    if _is_written(folder, record):
        return folder
    with _complete(folder, lambda: _is_written(folder, record)) as whole:
        _write(whole, clips, counts, num_workers)
        (whole / _RECORD).write_text(json.dumps(record, indent=1) + "\n")
    return folder


def write_mini_boxes(
    folder: str | Path, train: int, validation: int, test: int = 0, **options
) -> Path:
    """Writes the boxes of the objects of :func:`write_mini_something`'s clips, as a detector that finds
    all of them would: ``1.npz`` and so on, see :class:`~rstg_pyg.train.data.boxes.Boxes`.

    The folder appears when it is complete; one that is there already is used.

    Raises:
        UserError: If the folder cannot be written.
    """
    folder, clips = Path(folder), MiniSomething(**options)
    if folder.is_dir():
        return folder
    items = [(s, i) for s, n in zip(SPLITS, (train, validation, test)) for i in range(n)]
    with _complete(folder, folder.is_dir) as whole:
        for number, item in enumerate(items, start=1):
            np.savez(whole / f"{number}.npz", boxes=clips.boxes(*item))
    return folder


@contextmanager
def _complete(folder: Path, is_there: Callable[[], bool]) -> Iterator[Path]:
    """A temporary folder that gets its name when it is complete, unless another process was faster."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{folder.name}.rendering-"
        with TemporaryDirectory(prefix=prefix, dir=folder.parent) as temporary:
            whole = Path(temporary, folder.name)
            whole.mkdir()
            yield whole
            try:
                whole.rename(folder)
            except OSError:
                if not is_there():
                    raise
    except OSError as e:
        raise UserError(f"{folder}: cannot be written ({e.strerror or e}); choose another place") from e


def _write(folder: Path, clips: MiniSomething, counts: dict[str, int], num_workers: int) -> None:
    """Writes the lists and the clips, whose ids count from 1 through the splits."""
    (folder / _VIDEOS).mkdir()
    lists: dict[str, list[str]] = {"labels": sorted(EVENTS)}
    jobs = []
    for split in SPLITS:
        for item in range(counts[split]):
            jobs.append((folder / _VIDEOS / str(len(jobs) + 1), clips, split, item))
            line = str(len(jobs)) if split == "test" else f"{len(jobs)};{clips.label(item)}"
            lists.setdefault(split, []).append(line)
    for name, lines in lists.items():
        (folder / _LIST.format(name)).write_text("\n".join(lines) + "\n", encoding="utf-8")
    for error in in_processes(_write_clip, jobs, num_workers if len(jobs) > _FEW else 1):
        if error is not None:
            raise error


def _write_clip(job: tuple[Path, MiniSomething, str, int]) -> OSError | None:
    """Writes the frames of one clip; returns the error if it cannot."""
    folder, clips, split, item = job
    try:
        folder.mkdir()
        for i, frame in enumerate(clips.render(split, item), start=1):
            Image.fromarray(frame).save(folder / f"{i:05d}.jpg", quality=90)
    except OSError as e:
        return e
    return None


def _is_written(folder: Path, record: dict) -> bool:
    """Whether the folder holds just these clips; false if there is nothing.

    Raises:
        UserError: If it holds anything else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        changed = [f"{k}={found.get(k)} instead of {v}" for k, v in record.items() if found.get(k) != v]
    except (OSError, ValueError, AttributeError):
        changed = [f"there is no readable {_RECORD} in it"]
    if changed:
        raise UserError(
            f"{folder}: expected this mini-something or nothing ({', '.join(changed)}); choose another "
            f"folder, or delete this one"
        )
    return True
