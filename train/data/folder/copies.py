"""Finds videos of a data set that are the same file."""

from __future__ import annotations

import filecmp
import math
import os
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from rstg_pyg.train.data.sources.places import find_place, names_of_videos
from rstg_pyg.train.data.video_lists import Video, split_range
from rstg_pyg.train.errors import counted

_OVERLAP = 0.5  # seconds that parts of two splits may share: ends are often rounded
_START = 1 << 16  # bytes of two files that are compared first


def leave_out_copies(
    root: Path, splits: dict[str, list[Video]], problems: list[str], notes: list[str]
) -> None:
    """Finds videos that are the same file, by a link or as a copy, in two splits; where validation is a
    part of train, also within train, from which copies are left out. Parts of videos are not looked at.
    """
    whole = {
        split: [video for video in videos if video.whole == video.id]
        for split, videos in splits.items()
    }
    paths = {video.id: root / video.id for videos in whole.values() for video in videos}
    if not all(map(os.path.lexists, paths.values())):  # the files lie elsewhere, or are missing
        place = find_place(root, list(paths), names_of_videos)
        paths |= place.paths if place else {}
    by_file: dict[tuple[int, int], list[tuple[str, Video]]] = defaultdict(list)
    by_size: dict[int, list[tuple[str, Video]]] = defaultdict(list)
    for split, mine in whole.items():
        for video in mine:
            with suppress(OSError, ValueError):
                status = os.stat(paths[video.id])
                same = by_file[status.st_dev, status.st_ino]
                if not same and os.path.isfile(paths[video.id]) and status.st_size:
                    by_size[status.st_size].append((split, video))
                same.append((split, video))

    def matters(group: list[tuple[str, Video]]) -> bool:
        also_within = "val" not in splits and [split for split, _ in group].count("train") > 1
        return also_within or len({split for split, _ in group}) > 1

    groups = list(by_file.values())
    for of_size in filter(matters, by_size.values()):
        groups += _equal(of_size, paths)
    pairs = [(group[0], other) for group in filter(matters, groups) for other in group[1:]]
    across = [(one, two) for one, two in pairs if one[0] != two[0]]
    within = [(one, two) for (a, one), (b, two) in pairs if a == b == "train"]
    if across:
        (a, one), (b, two) = across[0]
        more = f", and {len(across) - 1:,} more" if len(across) > 1 else ""
        problems.append(
            f"{counted(len(across), 'video is', 'videos are')} in two splits: {one.id} ({a}) and "
            f"{two.id} ({b}) are the same file{more}; remove them from one"
        )
    if other_class := [(one, two) for one, two in within if one.label != two.label]:
        one, two = other_class[0]
        problems.append(f"{one.id} and {two.id} are the same file, of two classes; remove one")
    elif within:
        copies = {two.id: one.id for one, two in within}
        splits["train"] = [video for video in splits["train"] if video.id not in copies]
        copy, first = next(iter(copies.items()))
        more = f", and {len(copies) - 1:,} more" if len(copies) > 1 else ""
        one_copy, copies_of = "video of train is a copy", "videos of train are copies"
        notes.append(
            f"{root}: {counted(len(copies), one_copy, copies_of)} of others and not used: {copy} of "
            f"{first}{more}"
        )


def note_overlaps(splits: dict[str, list[Video]], notes: list[str]) -> None:
    """Notes parts of videos that share seconds with a part in another split."""
    by_video: dict[str, list[tuple[float, float, str, str]]] = defaultdict(list)
    for split, videos in splits.items():
        for video in videos:
            name, start, end = split_range(video.id)
            by_video[name].append((start, math.inf if end is None else end, split, video.id))
    found = []
    for parts in by_video.values():
        latest: dict[str, tuple[float, str]] = {}  # of each split, the part that ends last
        for start, end, split, part in sorted(parts):
            for other, (stop, before) in latest.items():
                if other != split and min(stop, end) - start > _OVERLAP:
                    found.append(f"{before} ({other}) and {part} ({split})")
            latest[split] = max((end, part), latest.get(split, (end, part)))
    if found:
        more = f", and {len(found) - 1:,} more" if len(found) > 1 else ""
        notes.append(f"parts of two splits show the same seconds: {found[0]}{more}")


def _equal(
    videos: list[tuple[str, Video]], paths: dict[str, Path]
) -> list[list[tuple[str, Video]]]:
    """Those of one size by content: groups of equal files."""
    starts: dict[bytes, list[list[tuple[str, Video]]]] = defaultdict(list)
    for split, video in videos:
        with suppress(OSError):
            with open(paths[video.id], "rb") as file:
                groups = starts[file.read(_START)]
            for group in groups:
                if filecmp.cmp(paths[group[0][1].id], paths[video.id], shallow=False):
                    group.append((split, video))
                    break
            else:
                groups.append([(split, video)])
    return [group for groups in starts.values() for group in groups]
