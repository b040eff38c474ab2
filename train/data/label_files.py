"""Finds the label files of Something-Something: v1, v2, and the lists of TSM and mmaction."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rstg_pyg.train.data.paths import beside, home, subfolders
from rstg_pyg.train.errors import UserError

SPLITS = ("train", "val", "test")
KINDS = ("v1", "v2", "tsm", "mmaction")

_WORDS = {"train": ("train",), "val": ("validation", "val"), "test": ("test",)}
_CLASSES = {
    "v1": ("something-something-v1-labels.csv",),
    "v2": ("something-something-v2-labels.json", "labels.json"),
    "tsm": ("category.txt",),
    "mmaction": ("label_map.txt", "category.txt", "*-labels.csv", "*-labels.json", "labels.json"),
}
_SPLITS = {
    "v1": ("something-something-v1-{}.csv",),
    "v2": ("something-something-v2-{}.json", "{}.json"),
    "tsm": ("{}_videofolder.txt",),
    "mmaction": ("*{}_list_rawframes.txt", "*{}_rawframes.txt", "*{}_list_videos.txt"),
}
_ANSWERS = ("something-something-v2-test-answers.csv", "test-answers.csv")
_FOLDERS = (".", "labels", "annotations")


@dataclass(frozen=True)
class LabelFiles:
    """Where the label files of a data set are.

    Attributes:
        root: The data set's folder.
        kind: One of :data:`KINDS`, or ``"folder"`` where places of videos stand for files.
        classes: The list of classes.
        splits: The list of videos per split that is there.
        answers: The labels of the test split, which v2 has in a file of their own.
    """

    root: Path
    kind: str
    classes: Path
    splits: dict[str, Path]
    answers: Path | None = None

    @property
    def all(self) -> list[Path]:
        """Every file, once."""
        files = [self.classes, *self.splits.values(), *([self.answers] if self.answers else [])]
        return list(dict.fromkeys(files))


def expected_list(kind: str, split: str) -> str:
    """The usual name of a split's list of videos."""
    return _SPLITS[kind][0].format(_WORDS.get(split, (split,))[0])


def find_label_files(root: str | Path, kind: str = "auto") -> LabelFiles:
    """Finds the label files below ``root``, without reading them.

    Raises:
        UserError: If there are none, the list of classes is missing, or several kinds are there. Where
            a neighboring folder has the files the message names it.
    """
    root = home(root)
    if kind != "auto" and kind not in KINDS:
        raise UserError(f"data.annotations: expected auto, {', '.join(KINDS)} (got {kind!r})")
    if not os.path.isdir(root):  # Path.is_dir raises where it cannot tell
        raise UserError(f"data.root: {_no_folder(root)}")
    kinds = _kinds(root) if kind == "auto" else [kind]
    if len(kinds) > 1:
        raise UserError(
            f"data.root: {root} has label files of {' and of '.join(kinds)}; choose with "
            f"data.annotations={kinds[0]}"
        )
    if not kinds or not _splits(root, kinds[0]):
        raise UserError(f"data.root: {_no_files(root, kind)}")
    kind = kinds[0]
    classes = _find(root, _CLASSES[kind])
    if classes is None:
        raise UserError(
            f"data.root: {root} has {kind} lists of videos but no list of classes; expected "
            f"{' or '.join(_CLASSES[kind][:2])} beside them"
        )
    answers = _find(root, _ANSWERS) if kind == "v2" else None
    return LabelFiles(root, kind, classes, _splits(root, kind), answers)


def has_lists(root: Path) -> bool:
    """Whether there are lists of videos of any kind."""
    return any(_splits(root, kind) for kind in KINDS)


def _kinds(root: Path) -> list[str]:
    """The official kinds (v1, v2) whose lists of videos are in ``root``."""
    return [kind for kind in ("v1", "v2") if _splits(root, kind)]


def _splits(root: Path, kind: str) -> dict[str, Path]:
    found = {}
    for split, words in _WORDS.items():
        path = _find(root, [name.format(word) for name in _SPLITS[kind] for word in words])
        if path is not None:
            found[split] = path
    return found


def _find(root: Path, names: Iterable[str]) -> Path | None:
    for folder in _FOLDERS:
        for name in names:
            found = [root / folder / name]  # glob leaves broken links out
            for path in sorted((root / folder).glob(name)) if "*" in name else found:
                if os.path.isfile(path):
                    return path
                if os.path.lexists(path):
                    raise UserError(
                        f"{path}: expected a file (this is something else, or a broken link)"
                    )
    return None


def _no_folder(root: Path) -> str:
    if os.path.exists(root):
        return f"{root} is a file; give the folder that holds it"
    return f"the folder {root} does not exist{beside(root.name, root.parent)}"


def _no_files(root: Path, kind: str) -> str:
    """Says that no label files are there, and where they are instead."""
    wanted = " or ".join(
        expected_list(k, "train") for k in (("v1", "v2") if kind == "auto" else (kind,))
    )
    message = f"{root} has no {wanted}"
    absolute = root.resolve()
    children = subfolders(absolute)
    for level, folders in (("low", list(absolute.parents)[:2]), ("high", children)):
        for folder in folders:
            if _kinds(folder) if kind == "auto" else _splits(folder, kind):
                return f"{message}; that is one level too {level}, give {folder}"
    for other in ("tsm", "mmaction"):
        if _splits(root, other):
            return f"{message}, but lists of {other}; choose data.annotations={other}"
    own = "; of your own videos in class folders: --cfg folder.yaml, or prepare.py --annotations folder"
    return (
        f"{message} (nor in labels/); give the folder that holds the label files and the videos' folder"
        f"{own if kind == 'auto' else ''}"
    )
