"""Reads tables of videos: ``metadata.csv``, ``metadata.jsonl``, and lists of Kinetics and UCF."""

from __future__ import annotations

import ast
import contextlib
import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rstg_pyg.train.data.sources.places import (
    SPLIT_WORDS,
    VIDEO_SUFFIXES,
    is_video_name,
    normal,
    split_of,
)
from rstg_pyg.train.data.video_lists import Video, check_id, read_lines, read_text, split_range
from rstg_pyg.train.errors import UserError, counted, some
from rstg_pyg.train.files import write_csv, write_text

METADATA = ("metadata.csv", "metadata.jsonl")
OTHER_TABLES = ("labels.csv", "annotations.csv")  # which may also be something else
CLASS_LISTS = ("classes.txt", "classInd.txt", "labels.txt", "label_map.txt")

_PATHS = ("path", "file_name", "filename", "file", "video")
_LABELS = ("label", "class")
_RANGE = ("start", "end")  # of a part of the video, in seconds
_LONGEST_HEADER = 1 << 16  # bytes
_TIME = re.compile(r"([0-9]+:){0,2}[0-9]{1,9}(\.[0-9]*)?")
_LIST = re.compile(r"\[[^\[\]]*\]")  # other than "[Something] falling like [a rock]"
_NUMBERED = re.compile(r"([0-9]{1,9})[\s,]+(\S.*)")
#: A path up to its suffix, and what follows; both may hold spaces.
_WITH_SUFFIX = re.compile(
    r"(.+?(?:" + "|".join(map(re.escape, VIDEO_SUFFIXES)) + r"))(?:\s+(.*))?", re.IGNORECASE
)


class Row(NamedTuple):
    """A video of a table.

    Attributes:
        id: Its path below the data set's folder.
        labels: Its label as written; all of them, if it has several.
        where: The file and the line.
        split: The split that the table says, if it does.
        several: Whether the table has a list in the place of the label.
    """

    id: str
    labels: tuple[str, ...]
    where: str
    split: str | None = None
    several: bool = False


def find_metadata(folder: Path, others: bool = True) -> Path | None:
    """``metadata.csv`` or ``metadata.jsonl`` in a folder; or (``others``) one of :data:`OTHER_TABLES`,
    if it has columns for paths and labels.
    """
    paths = [folder / name for name in (*METADATA, *(OTHER_TABLES if others else ()))]
    there = filter(os.path.isfile, paths)
    return next((path for path in there if path.name in METADATA or _has_columns(path)), None)


def find_lists(folder: Path) -> dict[str, Path]:
    """The lists of the splits in a folder: ``train.csv``, ``val.txt``, ``trainlist01.txt``, ..."""
    found = {}
    for split, words in SPLIT_WORDS.items():
        pattern = re.compile(rf"({'|'.join(words)})(_?list(_?0?1)?)?\.(csv|txt|tsv)", re.IGNORECASE)
        names = sorted(name for name in os.listdir(folder) if pattern.fullmatch(name))
        if len(names) > 1:
            raise UserError(
                f"{folder}: {names[0]} and {names[1]} are both lists of {split}; remove one"
            )
        if names:
            found[split] = folder / names[0]
    return found


def read_class_list(folder: Path) -> tuple[Path, dict[int, str]] | None:
    """The class list in a folder with the names by their numbers, if there is one: a name per line, or
    a number and a name.
    """
    path = next((folder / name for name in CLASS_LISTS if os.path.isfile(folder / name)), None)
    if path is None:
        return None
    lines = [normal(line) for _, line in read_lines(path)]
    matches = [_NUMBERED.fullmatch(line) for line in lines]
    names = dict(enumerate(lines))
    if all(matches):
        names = {int(match[1]): match[2] for match in matches if match}
    if not lines or len(set(names.values())) < len(lines):
        raise UserError(f"{path}: expected every class once, one a line, or a number and a class")
    return path, names


def read_metadata(path: Path, root: Path, notes: list[str]) -> list[Row]:
    """The rows of ``metadata.csv`` or ``metadata.jsonl``: ``file_name`` (or ``path``, ...), from the
    table's folder, and ``label``, which may be a list. A column ``split`` or the first folder of the
    name says which split it is, ``start`` and ``end`` which part of the video. Others are noted.

    Raises:
        UserError: If columns are missing, a line is damaged, or a split is unknown.
    """
    inside = path.parent.relative_to(root).as_posix()
    prefix = "" if inside == "." else f"{inside}/"
    rows = []
    columns: dict[str, Any] = {}
    for where, values in _json_lines(path) if path.suffix == ".jsonl" else _csv_lines(path):
        columns |= values
        name, label = _named(where, values)
        said = str(values.get("split") or "").strip()
        split = split_of(said or ("" if prefix else name.partition("/")[0]))
        if said and split is None:
            raise UserError(f"{where}: expected train, val or test for 'split' (got {said!r})")
        rows.append(_row(prefix + name, label, where, root, split, values))
    _note_unused(path, columns, (*_columns(columns), "split"), notes)
    return rows


def read_list(path: Path, root: Path, notes: list[str]) -> list[Row]:
    """The rows of a list: with the columns ``path`` and ``label``, and perhaps ``start`` and ``end``,
    others are noted; or lines of a path and a label with a comma, semicolon, tab or blanks between.
    Without a label it is the name of the video's folder.

    Raises:
        UserError: If a line has no path, or more than a path and a label.
    """
    separator, header = _header(path)
    columns = _columns(header)
    if all(columns):
        _note_unused(path, header, columns, notes)
        return [
            _row(*_named(where, values), where, root, values=values)
            for where, values in _csv_lines(path)
        ]
    if any(columns) and len(header) > 1 and not any(map(is_video_name, header)):
        have = ", ".join(header)
        raise UserError(f"{path}, line 1: expected the columns path and label (got {have[:100]!r})")
    rows = []
    for number, line in read_lines(path):
        where = f"{path}, line {number}"
        name, label = _split_line(where, line, separator)
        if not label:
            label = name.rpartition("/")[0].rpartition("/")[2]
        if not label:
            raise UserError(f"{where}: expected a path and a label (got {line[:60]!r})")
        rows.append(_row(name, label, where, root))
    return rows


def write_tables(folder: Path, classes: list[str], splits: dict[str, list[Video]]) -> None:
    """Writes ``classes.txt``, ``train.csv``, ... as :func:`read_class_list` and :func:`read_list` read
    them.
    """
    lines = [f"{number} {name}\n" for number, name in enumerate(classes)]
    write_text(folder / "classes.txt", "".join(lines))
    for split, videos in splits.items():
        rows = []
        for video in videos:
            names = [classes[label] for label in video.labels]
            label = json.dumps(names) if isinstance(video.label, tuple) else names[0]
            rows.append({"path": video.id, "label": label})
        write_csv(folder / f"{split}.csv", rows, ("path", "label"))


def _has_columns(path: Path) -> bool:
    """Whether a table has columns for paths and labels, in whatever encoding; it may have them if it
    cannot be read.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(_LONGEST_HEADER).replace(b"\0", b"")
    except OSError:
        return True
    text = start.decode("latin-1").lstrip("\xef\xbb\xbf\xff\xfe")
    return None not in _columns(_cells(next(filter(str.strip, text.splitlines()), ""))[1])


def _header(path: Path) -> tuple[str | None, list[str]]:
    """What separates the first line's values, and these, in lower case."""
    return _cells(next((line for _, line in read_lines(path)), ""))


def _cells(line: str) -> tuple[str | None, list[str]]:
    separator = next((s for s in ",;\t" if s in line), None)
    cells = next(csv.reader([line], delimiter=separator), []) if separator else line.split()
    return separator, [cell.strip().lower() for cell in cells]


def _columns(header: Iterable[str]) -> tuple[str | None, str | None]:
    """The columns that have the paths and the labels."""
    header = set(header)
    path, label = (next((c for c in names if c in header), None) for names in (_PATHS, _LABELS))
    return path, label


def _named(where: str, values: dict[str, Any]) -> tuple[str, str | list[str]]:
    """The path and the label of a line whose columns have names."""
    path, label = _columns(values)
    return _text(where, values, path or "file_name"), _label(where, values, label or "label")


def _split_line(where: str, line: str, separator: str | None) -> tuple[str, str]:
    """Path and label of a line, without a label if it has none."""
    if separator is not None:
        name, label, *rest = [*next(csv.reader([line], delimiter=separator)), ""]
        if any(map(str.strip, rest)):
            raise UserError(
                f"{where}: expected a path and a label (got {line[:100]!r}); put quotes around what "
                f"has {separator!r} in it, or give the columns names in a first line (path, label, ...)"
            )
        return name.strip(), label.strip()
    if match := _WITH_SUFFIX.fullmatch(line):
        return match[1], match[2] or ""
    name, *rest = line.rsplit(None, 1)
    return name, rest[0] if rest else ""


def _note_unused(
    path: Path, columns: Iterable[str], used: Sequence[str | None], notes: list[str]
) -> None:
    """Notes the columns that mean nothing here."""
    if unused := [name for name in columns if name and name not in (*used, *_RANGE)]:
        what = "1 column is" if len(unused) == 1 else f"{len(unused)} columns are"
        notes.append(f"{path}: {what} not used ({some(unused)}); of a part of a video: start, end")


def _row(
    name: str,
    label: str | list[str],
    where: str,
    root: Path,
    split: str | None = None,
    values: dict[str, Any] | None = None,
) -> Row:
    name = name.strip().removeprefix("./")
    for top in (f"{root}/", f"{os.path.abspath(root)}/"):
        name = name.removeprefix(top)
    times = [_seconds(where, (values or {}).get(column)) for column in _RANGE]
    if times[0] not in ("", "0") or times[1]:
        name += "#t=" + ",".join(times)
    check_id(where, name)
    _, start, end = split_range(name)
    if end is not None and end <= start:
        raise UserError(f"{where}: expected an end after the start (got {start:g} to {end:g})")
    labels = label if isinstance(label, list) else [label]
    return Row(name, tuple(map(normal, labels)), where, split, isinstance(label, list))


def _label(where: str, values: dict[str, Any], column: str) -> str | list[str]:
    """A label as text, or a list of them: one of JSON, or written like one of JSON or Python."""
    value = values.get(column)
    if isinstance(value, str) and value.strip()[:1] + value.strip()[-1:] == "[]":
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            value = ast.literal_eval(value.strip())
        if isinstance(value, str) and _LIST.fullmatch(value.strip()):
            raise UserError(f"{where}: expected a list like ['jump', 'run'] (got {value[:60]!r})")
    if isinstance(value, list):
        return [_text(where, {column: label}, column) for label in value]
    return _text(where, values, column)


def _seconds(where: str, value: Any) -> str:
    """A time (seconds, or ``1:02:03.5``) in seconds; empty for none."""
    text = "" if value is None else str(value).strip()
    if not text:
        return ""
    if not _TIME.fullmatch(text):
        raise UserError(f"{where}: expected seconds, or 1:02:03.5, as start or end (got {text[:60]!r})")
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def _text(where: str, values: dict[str, Any], column: str) -> str:
    """A value as text."""
    value = values.get(column)
    if not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
        have = ", ".join(map(str, values))
        raise UserError(f"{where}: expected a value for {column!r} (the columns are {have})")
    return str(value).strip()


def _csv_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = [line for line in read_text(path).split("\n") if line.strip()]
    if not lines:
        raise UserError(f"{path}: expected a line with the names of the columns (got an empty file)")
    separator = next((s for s in ",;\t" if s in lines[0]), ",")
    reader = csv.DictReader(lines, delimiter=separator)
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
    try:
        for values in reader:
            where, more = f"{path}, line {reader.line_num}", values.pop(None, [])
            if any(map(str.strip, more)):
                count = len(values)
                raise UserError(
                    f"{where}: expected {counted(count, 'value')}, as the first line has (got "
                    f"{count + len(more)}); put quotes around what has {separator!r} in it"
                )
            yield where, values
    except csv.Error as e:
        raise UserError(f"{path}: not a table ({e})") from e


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in read_lines(path):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise UserError(f"{path}, line {number}: expected an object of JSON (got {line[:60]!r})")
        yield f"{path}, line {number}", values
