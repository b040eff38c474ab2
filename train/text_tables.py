"""Tables as Markdown. A row is a dictionary, the keys of the first one are the columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any


def as_markdown(rows: Sequence[Mapping[str, Any]], right: Collection[str] = ()) -> str:
    """A table in Markdown, without a newline at its end.

    Args:
        rows: The rows; what they lack, and ``None``, is an empty cell.
        right: The columns that are aligned to the right.
    """
    columns = list(rows[0])
    lines: list[list[Any]] = [columns, *([row.get(column) for column in columns] for row in rows)]
    cells = [
        " | ".join("" if cell is None else str(cell).replace("|", "\\|") for cell in line)
        for line in lines
    ]
    marks = "|".join("---:" if column in right else "---" for column in columns)
    return "\n".join([f"| {cells[0]} |", f"|{marks}|", *(f"| {line} |" for line in cells[1:])])
