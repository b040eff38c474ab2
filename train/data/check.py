"""What ``prepare.py check`` reports: what is there, what is missing, and what is wrong."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path

from rstg_pyg.train.data.folder import is_class_folder, read_folder
from rstg_pyg.train.data.label_files import SPLITS, LabelFiles, find_label_files
from rstg_pyg.train.data.labels import Video, class_order, read_classes, read_split
from rstg_pyg.train.data.parallel import in_processes
from rstg_pyg.train.data.sources import FrameSource, find_sources, no_videos
from rstg_pyg.train.errors import UserError

_NAMED = 3  # videos that a line names


@dataclass
class SplitReport:
    """One split.

    Attributes:
        file: Its list of videos.
        num_videos: Videos in the list.
        num_labeled: Those with a label.
        counts: Videos per class.
        missing: Per kind of source, the videos that it lacks.
    """

    file: Path
    num_videos: int
    num_labeled: int
    counts: list[int]
    missing: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Report:
    """A data set's state.

    Attributes:
        files: The label files.
        classes: The classes; empty if their list cannot be read.
        class_order: ``"sorted"`` or ``"file"``.
        sources: What is known of each source of frames.
        splits: The splits whose lists can be read.
        problems: What is wrong, a line each.
        notes: What one should know, a line each.
        unreadable: Per kind of source, what is wrong with each damaged video; only after a deep check.
        deep: Whether every frame was read.
    """

    files: LabelFiles
    classes: list[str] = field(default_factory=list)
    class_order: str = "file"
    sources: dict[str, str] = field(default_factory=dict)
    splits: dict[str, SplitReport] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unreadable: dict[str, list[str]] = field(default_factory=dict)
    deep: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def text(self) -> str:
        """The report for people."""
        files = ", ".join(str(path.relative_to(self.files.root)) for path in self.files.all)
        kind = "own videos" if self.files.kind == "folder" else f"{self.files.kind} label files"
        lines = [f"{self.files.root}: {kind} ({files})"]
        if self.classes:
            order = "sorted" if self.class_order == "sorted" else "the file's, which is not sorted"
            lines.append(f"classes: {len(self.classes)}, order: {order}")
        lines += [f"{kind}: {detail}" for kind, detail in self.sources.items()]
        for split in SPLITS:
            lines += self._split_lines(split)
        if self.deep:
            found = sum(map(len, self.unreadable.values()))
            lines.append(f"every frame was read: {found} videos are unreadable")
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"problem: {problem}" for problem in self.problems]
        count = len(self.problems)
        lines.append(f"problems: {count}" if count else "nothing is wrong")
        return "\n".join(lines)

    def _split_lines(self, split: str) -> list[str]:
        report = self.splits.get(split)
        if report is None:
            there = split in self.files.splits
            return [f"{split}: {'its list cannot be used' if there else 'no list of videos'}"]
        if report.num_labeled == 0:
            return [f"{split}: {report.num_videos:,} videos, no labels (can be predicted)"]
        order = sorted(range(len(self.classes)), key=report.counts.__getitem__)
        least, most = order[0], order[-1]
        labeled = report.num_videos - report.num_labeled
        return [
            f"{split}: {report.num_videos:,} videos"
            + (f", {labeled:,} of them without a label" if labeled else "")
            + f"; smallest class {report.counts[least]:,} ({self.classes[least]}), "
            f"largest {report.counts[most]:,} ({self.classes[most]})"
        ]


def check(
    root: str | Path,
    annotations: str = "auto",
    deep: bool = False,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Looks at a data set: at the lists and the folders' names, or (deep) at every frame.

    Args:
        root: The data set's folder.
        annotations: Kind of the label files, see :func:`read_annotations`; or ``"folder"``, see
            :func:`read_folder`, which ``"auto"`` also takes where it surely fits.
        deep: Whether to read every frame of every video.
        workers: Processes that read.
        progress: Called with the numbers of videos that were read and of all.

    Raises:
        UserError: If there are no label files.
    """
    if annotations == "folder" or (annotations == "auto" and is_class_folder(root)):
        report, splits = _read_folder(root)
    else:
        report = Report(find_label_files(root, annotations))
        splits = _read_lists(report)
    report.deep = deep
    videos = list(dict.fromkeys(video.id for split in splits.values() for video in split))
    sources = find_sources(report.files.root, videos) if videos else []
    if videos and not sources:
        report.problems.append(no_videos(report.files.root, videos))
    for source in sources:
        _check_source(report, source, splits)
        if deep:
            _read_all(report, source, videos, workers, progress)
            _count_frames(report, source, splits)
    return report


def _read_folder(root: str | Path) -> tuple[Report, dict[str, list[Video]]]:
    """The report on a folder of one's own videos, and the videos."""
    listing = read_folder(root)
    problems, notes = list(listing.problems), list(listing.notes)
    report = Report(listing.files, listing.classes, problems=problems, notes=notes)
    report.class_order = class_order(listing.classes)
    for split, videos in listing.splits.items():
        _count(report, split, videos)
    if "train" not in listing.splits:
        problems.append(f"{listing.root}: there are no videos of the split 'train'")
    if "val" not in listing.splits:
        notes.append(f"{listing.root}: no videos of 'val'; data.val_fraction=0.2 takes part of train")
    return report, listing.splits


def _read_lists(report: Report) -> dict[str, list[Video]]:
    """Reads the label files; returns the videos of the splits whose lists can be read."""
    splits: dict[str, list[Video]] = {}
    try:
        report.classes = read_classes(report.files)
    except UserError as e:
        report.problems.append(str(e))
        return splits
    report.class_order = class_order(report.classes)
    for split in report.files.splits:
        try:
            splits[split] = read_split(report.files, split, report.classes)
        except UserError as e:
            report.problems.append(str(e))
            continue
        _count(report, split, splits[split])
    _look_at_labels(report, splits)
    return splits


def _count(report: Report, split: str, videos: list[Video]) -> None:
    counts = Counter(video.label for video in videos)
    unlabeled = counts.pop(None, 0)
    report.splits[split] = SplitReport(
        report.files.splits[split],
        len(videos),
        len(videos) - unlabeled,
        [counts[label] for label in range(len(report.classes))],
    )


def _look_at_labels(report: Report, splits: dict[str, list[Video]]) -> None:
    root, files = report.files.root, report.files.splits
    if "train" not in files:
        report.problems.append(f"{root}: there is no list of the split 'train'")
    if "val" not in files:
        report.notes.append(
            f"{root}: there is no list of the split 'val'; data.val_fraction=0.1 takes part of train"
        )
    if "train" in report.splits:
        counts = report.splits["train"].counts
        empty = [name for name, count in zip(report.classes, counts) if count == 0]
        if empty:
            report.notes.append(
                f"{files['train']}: {len(empty)} classes have no video ({_some(empty)})"
            )
    for first, second in combinations(splits, 2):
        there = {video.id for video in splits[first]}
        shared = [video.id for video in splits[second] if video.id in there]
        if shared:
            report.problems.append(
                f"{files[second]}: {len(shared)} videos are in {first} too ({_some(shared)})"
            )


def _check_source(report: Report, source: FrameSource, splits: dict[str, list[Video]]) -> None:
    report.sources[source.kind] = source.detail
    for split, videos in splits.items():
        ids = [video.id for video in videos]
        missing = source.missing(ids)
        report.splits[split].missing[source.kind] = missing
        if missing:
            report.problems.append(
                f"{split}: {len(ids) - len(missing):,} of {len(ids):,} videos are there in the "
                f"{source.kind}; missing are {_some([str(source.location(v)) for v in missing])}"
            )


def _read_all(
    report: Report,
    source: FrameSource,
    videos: list[str],
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    missing = {v for split in report.splits.values() for v in split.missing[source.kind]}
    there = [video for video in videos if video not in missing]
    found = report.unreadable.setdefault(source.kind, [])
    for count, problem in enumerate(in_processes(partial(read_through, source), there, workers), 1):
        if problem is not None:
            found.append(problem)
            report.problems.append(problem)
        if progress is not None:
            progress(count, len(there))


def _count_frames(report: Report, source: FrameSource, splits: dict[str, list[Video]]) -> None:
    """A video that has lost its last frames looks like a shorter one; some lists say how long it is."""
    for split, videos in splits.items():
        missing = set(report.splits[split].missing[source.kind])
        short = []
        for video in videos:
            with contextlib.suppress(UserError):  # damaged, and reported
                if video.frames is not None and video.id not in missing:
                    count = source.num_frames(video.id)
                    if count < video.frames:
                        short.append(f"{source.location(video.id)} has {count} of {video.frames}")
        if short:
            report.problems.append(
                f"{split}: {len(short):,} of {len(videos):,} videos have fewer frames than "
                f"{report.files.splits[split].name} says ({_some(short)}); extract them again"
            )


def read_through(source: FrameSource, video: str) -> str | None:
    """Reads all frames of a video; returns what is wrong with it, or nothing."""
    try:
        for _ in source.frames(video):
            pass
    except UserError as e:
        return str(e)
    return None


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
