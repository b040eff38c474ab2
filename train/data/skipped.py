"""``data.on_error=skip``: which videos could not be read and were left out, and why."""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist

from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import write_csv

#: The label of the blank clip that stands where no video of a batch could be read: it counts for
#: nothing and keeps processes that train together in step.
UNREAD = -100

_FIELDS = ("part", "video", "times", "reason")
_MOST_AT_FIRST = 100  # videos that may be unreadable before one can be read


def gathered(value: Any) -> list[Any]:
    """The values of all processes that train together, in their order."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


class Unread(NamedTuple):
    """A video that could not be read, in place of its clip."""

    visit: int
    reason: str


class Skipped:
    """The videos that a run skipped, in memory and in a file that is rewritten for every new one.

    Args:
        folder: The run folder. A list that is there from before is continued.
        rank: Which process this is: ``skipped.csv`` is the first one's, and has all in the end.

    Raises:
        UserError: If the list is there but cannot be read.
    """

    def __init__(self, folder: Path, rank: int = 0):
        self.rank = rank
        self.path = folder / (f"skipped-{rank}.csv" if rank else "skipped.csv")
        self.rows: dict[tuple[str, str], tuple[int, str]] = {}
        if self.path.is_file():
            try:
                with open(self.path, newline="", encoding="utf-8") as file:
                    for row in csv.DictReader(file):
                        self.rows[row["part"], row["video"]] = int(row["times"]), row["reason"]
            except (OSError, ValueError, KeyError, TypeError, csv.Error) as e:
                raise UserError(f"{self.path}: not a list of skipped videos; remove it") from e

    def part(self, name: str, size: int) -> Part:
        """Where the videos of a part (``train``, ``val``, ``test``) of so many videos are noted."""
        return Part(self, name, size)

    def videos(self, part: str) -> list[str]:
        """The videos that were left out of a part."""
        return sorted(video for name, video in self.rows if name == part)

    def write(self) -> None:
        """Writes the file atomically."""
        rows = [dict(zip(_FIELDS, (*key, *row))) for key, row in sorted(self.rows.items())]
        write_csv(self.path, rows, _FIELDS)

    def gather(self) -> None:
        """Merges the lists of all processes at the end; the first process writes the file."""
        lists, self.rows = gathered(self.rows), {}
        for rows in lists:
            for key, (times, reason) in rows.items():
                self.rows[key] = times + self.rows.get(key, (0, ""))[0], reason
        if self.rank == 0:
            self.write()
        else:
            self.path.unlink(missing_ok=True)

    def results(self) -> dict[str, Any]:
        """For ``results.json``: how often, and which."""
        parts = sorted({part for part, _ in self.rows})
        return {"file": self.path.name, "videos": {part: self.videos(part) for part in parts}}


@dataclass
class Part:
    """A part of the data of a run.

    Attributes:
        skipped: The run's list.
        name: ``"train"``, ``"val"`` or ``"test"``.
        size: How many videos it has.
    """

    skipped: Skipped
    name: str
    size: int
    _read: bool = field(default=False, repr=False)

    def begin(self) -> None:
        """Forgets what an earlier pass left out."""
        rows = self.skipped.rows
        self.skipped.rows = {key: row for key, row in rows.items() if key[0] != self.name}

    def end(self) -> int:
        """Gathers the lists of all processes after the last pass; returns how many of this part failed.

        Raises:
            UserError: If none could be read.
        """
        self.skipped.gather()
        count = len(self.skipped.videos(self.name))
        if count == self.size:
            raise UserError(f"none of the {count} videos can be read, see {self.skipped.path}")
        return count

    def note(self, unread: list[tuple[str, str]], read: int) -> None:
        """Adds the unreadable videos of a batch with the reasons, and counts those that were read.

        Raises:
            UserError: If none of the first videos can be read: then it is not the videos.
        """
        self._read = self._read or read > 0
        rows, before = self.skipped.rows, len(self.skipped.rows)
        for video, reason in unread:
            times, _ = rows.get((self.name, video), (0, ""))
            rows[self.name, video] = times + 1, reason
            if not times:
                print(f"skipped: {reason.splitlines()[0]}", file=sys.stderr, flush=True)
        if len(rows) > before:
            self.skipped.write()
        count = sum(part == self.name for part, _ in rows)
        if not self._read and count >= min(_MOST_AT_FIRST, self.size):
            raise UserError(
                f"data.on_error=skip: none of the first {count} videos can be read; the last one: "
                f"{unread[-1][1]}"
            )
