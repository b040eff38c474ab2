"""Reads the label files of Something-Something as they are distributed: v1, v2, or the lists of TSM and
mmaction.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rstg_pyg.train.data.label_files import LabelFiles, expected_list, find_label_files
from rstg_pyg.train.data.video_lists import Video, check_id, read_lines, read_text
from rstg_pyg.train.errors import UserError, nearest


class Annotations(NamedTuple):
    """The classes and the videos of a data set.

    Attributes:
        files: The files they were read from.
        classes: Templates, without brackets; the class is the place in this list. (The file's order:
            TSM sorts them, mmaction takes the file's.)
        splits: The videos of each split.
    """

    files: LabelFiles
    classes: list[str]
    splits: dict[str, list[Video]]


def read_annotations(root: str | Path, kind: str = "auto") -> Annotations:
    """Finds and reads the label files of a data set.

    Args:
        root: The folder that holds the label files (or a folder ``labels`` or ``annotations`` with
            them) and the videos' folder.
        kind: ``"auto"`` (v1 or v2, whichever is there) or one of :data:`KINDS`.

    Raises:
        UserError: If a file is missing or wrong.
    """
    files = find_label_files(root, kind)
    classes = read_classes(files)
    return Annotations(files, classes, {s: read_split(files, s, classes) for s in files.splits})


def read_classes(files: LabelFiles) -> list[str]:
    """Reads the list of classes, in the file's order.

    Raises:
        UserError: If the file is empty or damaged, names a class twice, or numbers them with gaps.
    """
    path = files.classes
    if path.suffix == ".json":
        names = _numbered(path, _read_json(path, dict))
    else:
        names = [_plain(line) for _, line in read_lines(path)]
    if not names:
        raise UserError(f"{path}: expected the list of classes, one per line (got an empty file)")
    if "" in names:
        raise UserError(f"{path}: class {names.index('')} has no name; every class needs one")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{path}: the class {twice[0]!r} is there twice; every class needs one line")
    return names


def _numbered(path: Path, numbers: dict[str, Any]) -> list[str]:
    """The templates of v2, by their numbers."""
    by_number = {}
    for name, number in numbers.items():
        if isinstance(number, str) and re.fullmatch(r"[0-9]{1,9}", number):
            number = int(number)
        if type(number) is int:  # a truth value or a fraction is none
            by_number[number] = _plain(name)
    if sorted(by_number) != list(range(len(numbers))):
        raise UserError(
            f"{path}: expected {{template: number}} with every number from 0 to {len(numbers) - 1} once"
        )
    return [by_number[i] for i in range(len(numbers))]


def read_split(files: LabelFiles, split: str, classes: list[str]) -> list[Video]:
    """Reads the videos of a split, in the file's order.

    Args:
        files: The label files.
        split: ``"train"``, ``"val"`` or ``"test"``.
        classes: The classes from :func:`read_classes`.

    Raises:
        UserError: If there is no such file, or a line has a wrong separator, an unknown label, an id
            that occurs twice or one that leads out of the data set's folder.
    """
    if split not in files.splits:
        have = ", ".join(files.splits)
        raise UserError(
            f"{files.root}: there is no list of the split {split!r} (the folder has {have}); expected "
            f"{expected_list(files.kind, split)}"
        )
    path = files.splits[split]
    read = {"v1": _read_csv, "v2": _read_v2, "tsm": _read_list, "mmaction": _read_list}[files.kind]
    numbers = {name: number for number, name in enumerate(classes)}
    videos: list[Video] = []
    seen: dict[str, str] = {}
    for place, name, label, *frames in read(path, split == "test"):
        where = f"{path}, {place}"
        check_id(where, name)
        if name in seen:
            raise UserError(f"{where}: the video {name} is there twice (first in {seen[name]})")
        seen[name] = place
        videos.append(Video(name, _number(where, label, numbers, files.classes), *frames))
    if not videos:
        raise UserError(f"{path}: expected one video per line (got an empty file)")
    if split == "test" and files.answers is not None:
        answers = {
            name: _number(f"{files.answers}, {place}", label, numbers, files.classes)
            for place, name, label in _read_csv(files.answers, False)
        }
        videos = [video._replace(label=answers.get(video.id, video.label)) for video in videos]
    return videos


_Row = tuple  # where in the file, id, label, and the number of frames where the file has it


def _read_csv(path: Path, unlabeled: bool) -> Iterator[_Row]:
    """Lines ``id;template``, or ``id`` alone where labels may be missing."""
    for number, line in read_lines(path):
        name, separator, template = line.partition(";")
        alone = unlabeled and not separator and not re.search(r"[,\t|]", line)
        if not alone and not (separator and template.strip()):
            raise UserError(
                f"{path}, line {number}: expected id;template, separated by a semicolon "
                f"(got {line[:60]!r})"
            )
        yield f"line {number}", name.strip(), _plain(template) or None


def _read_v2(path: Path, unlabeled: bool) -> Iterator[_Row]:
    """A JSON list of ``{"id", "label", "template", "placeholders"}``."""
    for number, entry in enumerate(_read_json(path, list), 1):
        name = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise UserError(
                f"{path}, entry {number}: expected {{'id', 'template', ...}} with a text or a number "
                f"as id (got {str(entry)[:60]})"
            )
        template = entry.get("template")
        if template is None and not unlabeled:
            raise UserError(f"{path}, entry {number}: the video {str(name)[:60]} has no template")
        if not isinstance(template, str | None):
            raise UserError(f"{path}, entry {number}: expected a text as template (got {template!r})")
        yield f"entry {number}", str(name), None if template is None else _plain(template)


def _read_list(path: Path, unlabeled: bool) -> Iterator[_Row]:
    """Lines ``folder num_frames label`` or ``file.ext label``; the test split may lack labels."""
    videos = "videos" in path.stem.split("_")  # mmaction's name for lists of files
    what = "file.ext label" if videos else "folder num_frames label"
    full = 1 if videos else 2  # numbers in a labeled line
    for number, line in read_lines(path):
        for count in (full, full - 1) if unlabeled else (full,):
            name, *numbers = line.rsplit(None, count)
            if len(numbers) == count and all(re.fullmatch(r"-?[0-9]{1,9}", n) for n in numbers):
                break
        else:
            raise UserError(
                f"{path}, line {number}: expected {what}, separated by blanks (got {line[:60]!r})"
            )
        frames = None if videos else int(numbers[0])
        yield f"line {number}", name, int(numbers[-1]) if count == full else None, frames


def _number(where: str, label: str | int | None, numbers: dict[str, int], classes: Path) -> int | None:
    """The class of a label, which the file gives by name or by number."""
    if label is None:
        return None
    if isinstance(label, int):
        if not 0 <= label < len(numbers):
            raise UserError(
                f"{where}: expected a label from 0 to {len(numbers) - 1}, since {classes.name} has "
                f"{len(numbers)} classes (got {label})"
            )
        return label
    if label not in numbers:
        raise UserError(
            f"{where}: the label {label[:200]!r} is not in {classes.name}"
            f"{nearest(label[:200], numbers)}"
        )
    return numbers[label]


def _plain(template: str) -> str:
    """A template without the brackets of v2, in Unicode's composed form."""
    return unicodedata.normalize("NFC", template.replace("[", "").replace("]", "").strip())


def _read_json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as e:  # also for very long numbers, and for deep nesting
        raise UserError(f"{path}: not whole JSON ({e}); download it again") from e
    if not isinstance(content, kind):
        what = "a list of videos" if kind is list else "{template: number}"
        raise UserError(f"{path}: expected {what} (got a {type(content).__name__})")
    return content
