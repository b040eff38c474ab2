"""``metrics.csv``: one row every few steps and one per validation."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

from rstg_pyg.train.errors import UserError
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
        """Creates the file, or truncates it to the step from which the run is resumed.

        Raises:
            UserError: If it holds something else, or cannot be written.
        """
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
        """The rows, except one that is incomplete.

        Raises:
            UserError: If others are invalid, because another program has changed the file.
        """
        if not self.path.is_file():
            return []
        text = self.path.read_bytes().decode(errors="replace")
        try:
            rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
            for row in rows:
                int(row["step"]), row["split"], [float(row.get(key) or 0) for key in COLUMNS[2:]]
        except (csv.Error, KeyError, TypeError, ValueError) as e:
            raise UserError(f"{self.path}: not the metrics of a run ({e}); move it away") from e
        return rows


def _bytes(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS, extrasaction="ignore").writerows(rows)
    return text.getvalue().encode()
