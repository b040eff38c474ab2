"""What is in a folder of videos: classes, splits, and what is wrong; kept in the cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rstg_pyg.train.data.folder import tables
from rstg_pyg.train.data.folder.copies import leave_out_copies, note_overlaps
from rstg_pyg.train.data.folder.walk import Walk, identity
from rstg_pyg.train.data.label_files import LabelFiles, has_lists
from rstg_pyg.train.data.paths import cache_folder, home
from rstg_pyg.train.data.sources.places import SPLIT_WORDS, is_video_name, normal, split_of
from rstg_pyg.train.data.video_lists import Video, check_id, held_out
from rstg_pyg.train.errors import UserError, counted, nearest, some
from rstg_pyg.train.files import write_text

#: Changes whenever the same folder gives another listing.
_VERSION = 6
_SETTLED = 2.0  # seconds after which a change of a folder changes its time, on any file system
_LIST_FOLDERS = (".", "labels", "annotations", "ucfTrainTestlist")


@dataclass
class Listing:
    """The videos of a data set.

    Attributes:
        root: The data set's folder.
        layout: What they were found by, for people.
        classes: The names of the classes: in the order of a class list, or sorted.
        splits: The videos of ``"train"``, ``"val"`` and ``"test"``, as far as they are there.
        places: The folder or table of each split.
        problems: What is wrong, a line each.
        notes: What one should know, a line each.
    """

    root: Path
    layout: str
    classes: list[str]
    splits: dict[str, list[Video]]
    places: dict[str, Path]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def files(self) -> LabelFiles:
        """Where the labels are from, as for other data sets."""
        return LabelFiles(self.root, "folder", next(iter(self.places.values())), self.places)

    def checked(self) -> Listing:
        """The listing, if nothing is wrong.

        Raises:
            UserError: With the first problem.
        """
        if self.problems:
            others = len(self.problems) - 1
            more = f" ({others} more problems, see prepare.py check)" if others else ""
            raise UserError(f"data.root: {self.problems[0]}{more}")
        return self

    @property
    def by_class(self) -> bool:
        """Whether a part of ``"train"`` is one of each class: not where videos may have several."""
        videos = self.splits.get("train", [])
        return not any(isinstance(video.label, tuple) or video.whole != video.id for video in videos)

    def part(self, split: str, val_fraction: float, fold: int = 0) -> list[Video]:
        """The videos of a split. Without a validation split, it is a part of the training videos:
        of each class (:attr:`by_class`) the share ``val_fraction``, see
        :func:`~rstg_pyg.train.data.video_lists.held_out`.

        Raises:
            UserError: If there is no such split, or none is left.
        """
        if split in self.splits and (split != "train" or "val" in self.splits or not val_fraction):
            return self.splits[split]
        if split == "test" or not val_fraction or "train" not in self.splits:
            hint = "; data.val_fraction=0.2 takes part of train" if split == "val" else ""
            have = ", ".join(self.splits)
            raise UserError(f"{self.root}: there are no videos of {split} (it has {have}){hint}")
        groups, by_class = defaultdict(list), self.by_class
        for video in self.splits["train"]:
            groups[video.label if by_class else None].append(video)
        val: set[str] = set()
        for videos in groups.values():
            val |= {video.id for video in held_out(videos, val_fraction, fold, leave_one=True)}
        if not val:
            has = f"every class of {self.root} has one video only"
            if not by_class:
                has = f"each video of {self.root} is the only one of a class"
            raise UserError(
                f"data.val_fraction: {has}, so none is left for validation; give more, or "
                f"data.val_fraction=0"
            )
        return [v for v in self.splits["train"] if (v.id in val) == (split == "val")]


def is_class_folder(root: str | Path) -> bool:
    """Whether a folder is surely laid out as :func:`read_folder` reads it: with a table, lists, a
    folder ``train``, or two folders with video files, and without lists of Something-Something.
    """
    root = home(root)
    if not os.path.isdir(root) or has_lists(root):
        return False
    if tables.find_metadata(root) or any(map(tables.find_lists, _list_folders(root))):
        return True
    walk = Walk()
    top = walk.subfolders(root)
    if any(split_of(path.name) == "train" for path in top):
        return True
    return sum(bool(walk.loose(path)) for path in top) > 1


def read_folder(root: str | Path) -> Listing:
    """Finds the videos of a data set and their classes.

    The first of these that is there: ``metadata.csv`` or ``metadata.jsonl``; lists ``train.csv``,
    ``val.csv``, ...; ``labels.csv`` or ``annotations.csv``; folders ``train``, ``val``, ``test`` with
    a metadata file or a folder per class; a folder per class. The listing is kept in the cache folder,
    and used again while no folder or table has changed.

    Raises:
        UserError: If there is no such thing.
    """
    root = home(root)
    if not os.path.isdir(root):
        raise UserError(f"data.root: {root} is no folder; give the one that has your videos")
    key = hashlib.sha256(os.path.realpath(root).encode(errors="surrogateescape")).hexdigest()[:16]
    cache = cache_folder() / f"listing-{key}.json"
    if (listing := _from_cache(cache, root)) is None:
        listing, looked_at = _find(root)
        if not listing.problems:  # a mended file changes no folder
            _to_cache(cache, listing, looked_at)
    return listing


def _find(root: Path) -> tuple[Listing, list[Path]]:
    """The listing, and the folders and tables that it depends on."""
    walk = Walk()
    top = walk.subfolders(root)
    lists: dict[str, Path] = {}
    classes = None
    for folder in _list_folders(root):
        walk.folders.append(folder)
        lists = lists or tables.find_lists(folder)
        classes = classes or tables.read_class_list(folder)
    splits = [(split, path) for path in top if (split := split_of(path.name))]
    problems: list[str] = []
    notes: list[str] = []
    metadata = tables.find_metadata(root, others=not lists)
    if metadata:
        rows = tables.read_metadata(metadata, root, notes)
        there = [s for s in SPLIT_WORDS if s in {row.split or "train" for row in rows}]
        places = dict.fromkeys(there, metadata)
        found = {s: [row for row in rows if (row.split or "train") == s] for s in there}
        layout = metadata.name
    elif lists:
        places = lists
        found = {split: tables.read_list(path, root, notes) for split, path in lists.items()}
        layout = "lists"
    else:
        places = dict(splits)
        if len(places) < len(splits):
            split, twice = next((split, path) for split, path in splits if places[split] != path)
            raise UserError(
                f"data.root: {twice} and {places[split]} are both folders of one split; "
                f"put them together"
            )
        places = places or {"train": root}
        _not_too_high(root, top, walk)
        found = {}
        layout = "class folders"
        for split in SPLIT_WORDS:
            if split in places:
                if table := tables.find_metadata(places[split]):
                    walk.folders.append(places[split])
                    places[split], layout = table, table.name
                    found[split] = tables.read_metadata(table, root, notes)
                else:
                    found[split] = _class_folders(places[split], root, walk, problems, notes)
        files = [row.id for rows in found.values() for row in rows if is_video_name(row.id)]
        frames = [row.id for rows in found.values() for row in rows if not is_video_name(row.id)]
        if files and frames and layout == "class folders":
            problems.append(
                f"{root}: {counted(len(files), 'video is a file', 'videos are files')} ({files[0]}) "
                f"and {counted(len(frames), 'is a folder', 'are folders')} of frames ({frames[0]}); "
                f"expected all of one kind"
            )
    looked_at = [*walk.folders, *places.values(), *([classes[0]] if classes else [])]
    looked_at += filter(os.path.isfile, (root / name for name in tables.OTHER_TABLES))
    names, videos = _numbered(found, classes, problems, notes)
    videos = {split: rows for split, rows in videos.items() if rows}
    if not videos and not problems:
        raise UserError(
            f"data.root: {root} has no videos; expected train/CLASS/clip.mp4 and val/CLASS/clip.mp4, "
            f"CLASS/clip.mp4, metadata.csv with file_name and label, or train.csv with path and label"
        )
    places = {split: path for split, path in places.items() if split in videos} or {"train": root}
    leave_out_copies(root, videos, problems, notes)
    note_overlaps(videos, notes)
    return Listing(root, layout, names, videos, places, problems, notes), looked_at


def _list_folders(root: Path) -> list[Path]:
    return [root / name for name in _LIST_FOLDERS if os.path.isdir(root / name)]


def _not_too_high(root: Path, top: list[Path], walk: Walk) -> None:
    """Class folders that have split folders are data sets."""
    if any(split_of(path.name) for path in top):
        return
    for path in top:
        if any(split_of(below.name) == "train" for below in walk.subfolders(path)):
            raise UserError(f"data.root: {root} is one level too high; give {path}")


def _class_folders(
    folder: Path, root: Path, walk: Walk, problems: list[str], notes: list[str]
) -> list[tables.Row]:
    """The videos in class folders, whatever folders lie in these."""
    rows, empty = [], []
    above = (identity(root), identity(folder))
    for path in walk.subfolders(folder):
        videos = walk.videos(path, above)
        if videos == [path]:
            problems.append(
                f"{path}: has images and no videos; frames need a folder per video in the class folder"
            )
        elif not videos:
            empty.append(str(path))
        else:
            for video in videos:
                name = video.relative_to(root).as_posix()
                check_id(str(video), name)
                rows.append(tables.Row(name, (normal(path.name),), str(video)))
    if empty and (rows or folder != root):
        problems.append(
            f"{folder}: {counted(len(empty), 'class folder has', 'class folders have')} no videos "
            f"({some(empty)}); fill or remove them"
        )
    if loose := [str(path) for path in walk.loose(folder)]:
        notes.append(
            f"{folder}: {counted(len(loose), 'video is', 'videos are')} in no class folder and not "
            f"used ({some(loose)})"
        )
    return rows


def _numbered(
    found: dict[str, list[tables.Row]],
    class_list: tuple[Path, dict[int, str]] | None,
    problems: list[str],
    notes: list[str],
) -> tuple[list[str], dict[str, list[Video]]]:
    """The classes, and the videos with their numbers."""
    rows = [row for rows in found.values() for row in rows]
    several = any(row.several for row in rows)
    if class_list is None:
        names = {name for row in rows for name in row.labels}
        digits = all(name.isascii() and name.isdigit() for name in names)
        classes = sorted(names, key=int) if digits else sorted(names)
        by_label = {name: number for number, name in enumerate(classes)}
    else:
        path, listed = class_list
        classes = [listed[number] for number in sorted(listed)]
        by_label = {str(number): classes.index(name) for number, name in listed.items()}
        by_label |= {name: number for number, name in enumerate(classes)}
        if wrong := [(row, name) for row in rows for name in row.labels if name not in by_label]:
            labels = list(dict.fromkeys(name for _, name in wrong))
            problems.append(
                f"{wrong[0][0].where}: the label {labels[0]!r} is not in {path.name}"
                f"{nearest(labels[0], by_label)}"
                + (f" ({len(labels) - 1} more labels are not)" if len(labels) > 1 else "")
            )
    videos: dict[str, list[Video]] = {}
    first: dict[str, str] = {}
    for split, rows in found.items():
        videos[split] = []
        for row in rows:
            if row.id in first:
                problems.append(
                    f"{row.where}: {row.id} is there twice (first in {first[row.id]}); several labels "
                    f"of one video are a list in one line"
                )
            elif all(name in by_label for name in row.labels):
                numbers = tuple(sorted({by_label[name] for name in row.labels}))
                videos[split].append(Video(row.id, numbers if several else numbers[0]))
            first[row.id] = row.where
    if videos.get("train"):
        counts = {
            split: Counter(label for video in rows for label in video.labels)
            for split, rows in videos.items()
        }
        for split in ("val", "test"):
            only = [n for n in sorted(counts.get(split, {})) if not counts["train"][n]]
            if only:
                there = [name for n, name in enumerate(classes) if counts["train"][n]]
                problems.append(
                    f"{counted(len(only), 'class is', 'classes are')} in {split} and not in train "
                    f"({some([classes[n] for n in only])}){nearest(classes[only[0]], there)}"
                )
        unused = [n for i, n in enumerate(classes) if not any(c[i] for c in counts.values())]
        if unused:
            number = counted(len(unused), "class of the list has", "classes of the list have")
            notes.append(f"{number} no videos ({some(unused)})")
    return classes, videos


def _times(paths: list[str]) -> list[int]:
    return [os.stat(path).st_mtime_ns for path in paths]


def _to_cache(cache: Path, listing: Listing, looked_at: list[Path]) -> None:
    """Writes a listing, unless something changed just now and could change again unnoticed."""
    paths = sorted({str(path) for path in looked_at})
    with suppress(OSError, UserError, ValueError):  # nothing depends on it
        times = _times(paths)
        if max(times) > (time.time() - _SETTLED) * 1e9:
            return
        values = dict(version=_VERSION, root=str(listing.root), times=dict(zip(paths, times)))
        values |= dict(layout=listing.layout, classes=listing.classes)
        values |= dict(splits={s: [v[:2] for v in videos] for s, videos in listing.splits.items()})
        values |= dict(places={split: str(path) for split, path in listing.places.items()})
        values |= dict(notes=listing.notes)
        write_text(cache, json.dumps(values))


def _from_cache(cache: Path, root: Path) -> Listing | None:
    """The listing, if it is there and nothing has changed."""
    try:
        values = json.loads(cache.read_bytes())
        times = values["times"]
        if (values["version"], values["root"]) != (_VERSION, str(root)):
            return None
        if _times(list(times)) != list(times.values()):
            return None
        return Listing(
            root,
            values["layout"],
            values["classes"],
            {
                s: [Video(v, tuple(of) if isinstance(of, list) else of) for v, of in videos]
                for s, videos in values["splits"].items()
            },
            {split: Path(path) for split, path in values["places"].items()},
            notes=values["notes"],
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
