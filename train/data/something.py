"""Something-Something: its lists of videos, and clips of them."""

from __future__ import annotations

from pathlib import Path

from rstg_pyg.train.data.clips import VideoClips
from rstg_pyg.train.data.label_files import find_label_files
from rstg_pyg.train.data.labels import read_classes, read_split
from rstg_pyg.train.data.sources import open_source
from rstg_pyg.train.data.video_lists import Video, check_val_fraction, held_out
from rstg_pyg.train.errors import UserError


class SomethingSomething(VideoClips):
    """Clips of one split of Something-Something, or of any data set in its layout.

    Args:
        root: The folder that holds the label files and the videos' folder, or a packed store.
        split: ``"train"``, ``"val"`` or ``"test"``.
        protocol: A name of :data:`PROTOCOLS`; ``None`` for training clips, which are random.
        source: ``"auto"``, ``"packed"``, ``"frames"`` or ``"video"``.
        annotations: ``"auto"``, ``"v1"``, ``"v2"``, ``"tsm"`` or ``"mmaction"``.
        val_fraction: Which share of the training list is ``"val"`` and not ``"train"``, by a hash of
            the videos' ids. (default: 0: ``"val"`` has a list of its own)
        name: What results call the data. (default: the kind of annotations)
        **options: More arguments of :class:`~rstg_pyg.train.data.clips.VideoClips`.

    Raises:
        UserError: If the data set or an argument is wrong.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        protocol: str | None = None,
        source: str = "auto",
        annotations: str = "auto",
        name: str | None = None,
        val_fraction: float = 0.0,
        **options,
    ):
        check_val_fraction(val_fraction)
        files = find_label_files(root, annotations)
        classes = read_classes(files)
        share = val_fraction if split in ("train", "val") else 0
        videos = read_split(files, "train" if share else split, classes)
        if share:
            videos = _part(videos, split, share)
        frames = open_source(root, [video.id for video in videos], source)
        kind = files.kind if name is None else name
        super().__init__(videos, classes, frames, split, kind, protocol, **options)


def _part(videos: list[Video], split: str, share: float) -> list[Video]:
    """The videos of a split if the training list is divided into two."""
    val = {video.id for video in held_out(videos, share)}
    part = [video for video in videos if (video.id in val) == (split == "val")]
    if not part:
        raise UserError(f"data.val_fraction: {share:g} of {len(videos)} videos leaves none for {split}")
    return part
