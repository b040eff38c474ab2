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
from rstg_pyg.train.data.labels import read_classes, read_split
from rstg_pyg.train.data.parallel import in_processes
from rstg_pyg.train.data.sources import FrameSource, find_sources, no_videos
from rstg_pyg.train.data.video_lists import Video, class_order
from rstg_pyg.train.errors import UserError, counted, some

Splits = dict[str, list[Video]]


@dataclass
class Report:
    """A data set's state.

    Attributes:
        found: What is there, a line each.
        notes: What one should know, a line each.
        problems: What is wrong, a line each.
    """

    found: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def text(self) -> str:
        """The report for people."""
        lines = [*self.found, *(f"note: {note}" for note in self.notes)]
        lines += [f"problem: {problem}" for problem in self.problems]
        return "\n".join([*lines, "nothing is wrong" if self.ok else f"problems: {len(self.problems)}"])


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
    report = Report()
    if annotations == "folder" or (annotations == "auto" and is_class_folder(root)):
        listing = read_folder(root)
        files, classes, splits = listing.files, listing.classes, listing.splits
        report.problems += listing.problems
        report.notes += listing.notes
    else:
        files = find_label_files(root, annotations)
        classes, splits = _read_lists(files, report)
    if "train" not in files.splits:
        report.problems.append(f"{files.root}: there are no videos of the split 'train'")
    if "val" not in files.splits:
        hint = "data.val_fraction=0.2 takes part of train"
        report.notes.append(f"{files.root}: there are no videos of the split 'val'; {hint}")
    names = ", ".join(str(path.relative_to(files.root)) for path in files.all)
    kind = "own videos" if files.kind == "folder" else f"{files.kind} label files"
    report.found.append(f"{files.root}: {kind} ({names})")
    if classes:
        order = "sorted" if class_order(classes) == "sorted" else "the file's, which is not sorted"
        report.found.append(f"classes: {len(classes)}, order: {order}")
    videos = list(dict.fromkeys(video.id for split in splits.values() for video in split))
    sources = find_sources(files.root, videos) if videos else []
    if videos and not sources:
        report.problems.append(no_videos(files.root, videos))
    unreadable = 0
    for source in sources:
        report.found.append(f"{source.kind}: {source.detail}")
        missing = set(source.missing(videos))
        _report_missing(report, source, splits, missing)
        if deep:
            there = [video for video in videos if video not in missing]
            found = in_processes(partial(read_through, source), there, workers)
            for count, problem in enumerate(found, 1):
                if problem is not None:
                    report.problems.append(problem)
                    unreadable += 1
                if progress is not None:
                    progress(count, len(there))
            _report_short(report, source, splits, missing, files)
    report.found += [_describe(split, splits, files, classes) for split in SPLITS]
    if deep:
        broken = counted(unreadable, "video is", "videos are")
        report.found.append(f"every frame was read: {broken} unreadable")
    return report


def _read_lists(files: LabelFiles, report: Report) -> tuple[list[str], Splits]:
    """The classes, and the videos of the splits whose lists can be read."""
    splits: Splits = {}
    try:
        classes = read_classes(files)
    except UserError as e:
        report.problems.append(str(e))
        return [], splits
    for split in files.splits:
        try:
            splits[split] = read_split(files, split, classes)
        except UserError as e:
            report.problems.append(str(e))
    if "train" in splits:
        labels = {video.label for video in splits["train"]}
        empty = [name for number, name in enumerate(classes) if number not in labels]
        if empty:
            report.notes.append(
                f"{files.splits['train']}: {counted(len(empty), 'class has', 'classes have')} no video "
                f"({some(empty)})"
            )
    for first, second in combinations(splits, 2):
        there = {video.id for video in splits[first]}
        shared = [video.id for video in splits[second] if video.id in there]
        if shared:
            report.problems.append(
                f"{files.splits[second]}: {counted(len(shared), 'video is', 'videos are')} in {first} "
                f"too ({some(shared)})"
            )
    return classes, splits


def _describe(split: str, splits: Splits, files: LabelFiles, classes: list[str]) -> str:
    """One line about a split."""
    if split not in splits:
        return f"{split}: {'its list cannot be used' if split in files.splits else 'no list of videos'}"
    counts = Counter(label for video in splits[split] for label in video.labels)
    number, unlabeled = len(splits[split]), sum(not video.labels for video in splits[split])
    if number == unlabeled:
        return f"{split}: {counted(number, 'video')}, no labels (can be predicted)"
    order = sorted(range(len(classes)), key=lambda label: counts[label])
    least, most = (f"{counts[label]:,} ({classes[label]})" for label in (order[0], order[-1]))
    without = f", {unlabeled:,} of them without a label" if unlabeled else ""
    return f"{split}: {counted(number, 'video')}{without}; smallest class {least}, largest {most}"


def _report_missing(report: Report, source: FrameSource, splits: Splits, missing: set[str]) -> None:
    for split, videos in splits.items():
        gone = [str(source.location(video.id)) for video in videos if video.id in missing]
        if gone:
            report.problems.append(
                f"{split}: {len(videos) - len(gone):,} of {len(videos):,} videos are there in the "
                f"{source.kind}; missing are {some(gone)}"
            )


def _report_short(
    report: Report, source: FrameSource, splits: Splits, missing: set[str], files: LabelFiles
) -> None:
    """A video that has lost its last frames looks like a shorter one; some lists say how long it is."""
    for split, videos in splits.items():
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
                f"{files.splits[split].name} says ({some(short)}); extract them again"
            )


def read_through(source: FrameSource, video: str) -> str | None:
    """Reads all frames of a video; returns what is wrong with it, or nothing."""
    try:
        for _ in source.frames(video):
            pass
    except UserError as e:
        return str(e)
    return None
