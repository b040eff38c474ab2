"""``metrics.csv``: one row every few steps and one per validation."""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import Path
from typing import Any

from rstg_pyg.train.files import cannot_be_written, write_atomically

COLUMNS = ("step", "split", "loss", "top1", "top5", "lr", "videos_per_second", "data_share", "mAP")


class MetricsFile:
    """The metrics of a run, flushed to disk after every row.

    Args:
        path: The file.
    """

    def __init__(self, path: Path):
        self.path = path

    def begin(self, step: int) -> None:
        """Creates the file, or truncates it to the step from which the run is resumed."""
        rows = [row for row in self.rows() if int(row["step"]) <= step] if step > 0 else []
        data = _bytes([dict(zip(COLUMNS, COLUMNS)), *rows])
        write_atomically(self.path, lambda path: path.write_bytes(data))

    def add(self, step: int, split: str, values: dict[str, float]) -> None:
        """Adds a row, completely or not at all.

        Raises:
            UserError: If it cannot be written.
        """
        row = {key: f"{values[key]:.6g}" for key in COLUMNS[2:] if key in values}
        data = _bytes([{"step": step, "split": split, **row}])
        try:
            with open(self.path, "rb+", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                try:
                    while data:
                        data = data[file.write(data) :]
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(size)
                    raise
        except OSError as e:
            raise cannot_be_written(self.path, e) from e

    def rows(self) -> list[dict[str, str]]:
        """The rows, except one that is incomplete. If others are invalid (the table was saved with
        another program), the file is renamed, because it will be rewritten.
        """
        if not self.path.is_file():
            return []
        text = self.path.read_bytes().decode(errors="replace")
        rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
        ours = [row for row in rows if _is_ours(row)]
        if len(ours) < len(rows):
            kept = self.path.with_name("metrics.damaged.csv")
            os.replace(self.path, kept)
            print(f"{self.path}: {len(rows) - len(ours)} rows are not metrics; it is kept as {kept}")
        return ours


def _bytes(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS, extrasaction="ignore").writerows(rows)
    return text.getvalue().encode()


def _is_ours(row: dict[str, Any]) -> bool:
    """Whether a row is valid."""
    step, split, *values = (row.get(column) or "" for column in COLUMNS)
    try:
        numbers = [float(value or 0) for value in values]
    except ValueError:
        return False
    return bool(numbers and re.fullmatch("[0-9]{1,12}", step)) and split in ("train", "val")
