"""The data set of a folder of videos."""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import suppress
from pathlib import Path

from rstg_pyg.train.data.clips import VideoClips
from rstg_pyg.train.data.folder.listing import read_folder
from rstg_pyg.train.data.sources import open_source
from rstg_pyg.train.data.video_lists import check_val_fraction
from rstg_pyg.train.errors import UserError, counted

_MOST_ROWS = 50  # classes that are shown one by one
_LOOKED_AT = 64  # videos that are opened to see how large they are


class VideoFolder(VideoClips):
    """Clips of one split of one's own videos, in the layouts of
    :func:`~rstg_pyg.train.data.folder.listing.read_folder`.

    An ordinary data set of torch: ``DataLoader(VideoFolder("clips", "train"), batch_size=8,
    shuffle=True)`` gives batches ``[B, 3, T, H, W]`` uint8 with their labels ``[B]``.

    Args:
        root: The folder, or a packed store made from it.
        split: ``"train"``, ``"val"`` or ``"test"``.
        protocol: A name of :data:`PROTOCOLS`; ``None`` for training clips, which are random.
        source: ``"auto"``, ``"packed"``, ``"frames"`` or ``"video"``.
        val_fraction: Where there is no validation split: which share of each class's training videos
            is ``"val"`` and not ``"train"``, by a hash of their ids. (default: 0.2)
        val_fold: Which of these shares, from 0: with 0.2, folds 0 to 4 are those of a five-fold
            cross-validation. (default: 0)
        **options: More arguments of :class:`~rstg_pyg.train.data.clips.VideoClips`.

    Attributes:
        listing (Listing): All videos of all splits.

    Raises:
        UserError: If there are no videos or something is wrong with them; or an argument is wrong.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        protocol: str | None = None,
        source: str = "auto",
        val_fraction: float = 0.2,
        val_fold: int = 0,
        **options,
    ):
        check_val_fraction(val_fraction, val_fold)
        self.listing = listing = read_folder(root).checked()
        self.val_fraction, self.val_fold = val_fraction, val_fold
        videos = listing.part(split, val_fraction, val_fold)
        frames = open_source(listing.root, [video.id for video in videos], source)
        super().__init__(videos, listing.classes, frames, split, "folder", protocol, **options)

    @property
    def origin(self) -> str:
        """Which data these are, with a hash of the classes' names."""
        names = hashlib.sha256("\n".join(self.classes).encode(errors="replace")).hexdigest()[:6]
        return f"{super().origin} (#{names})"

    def summary(self) -> str:
        """The classes with their numbers of videos, how large the videos are, and what else one should
        know before training. Up to 64 videos are opened.
        """
        parts = {}
        for split in ("train", "val", "test"):
            with suppress(UserError):
                parts[split] = self.listing.part(split, self.val_fraction, self.val_fold)
        counts = {
            split: Counter(label for video in videos for label in video.labels)
            for split, videos in parts.items()
        }
        totals = ", ".join(f"{split} {len(videos):,}" for split, videos in parts.items())
        number = len(self.classes)
        classes = counted(number, "class", "classes")
        lines = [f"{self.listing.root} ({self.listing.layout}): {classes}, videos: {totals}"]
        if number <= _MOST_ROWS:
            width = max(map(len, (*self.classes, "class")))
            lines.append(f"  {'class':{width}}" + "".join(f"{split:>8}" for split in parts))
            for label, name in enumerate(self.classes):
                row = "".join(f"{counts[split][label]:>8,}" for split in parts)
                lines.append(f"  {name:{width}}{row}")
        else:
            order = sorted(range(number), key=lambda label: counts["train"][label])
            least, most = (f"{counts['train'][i]:,} ({self.classes[i]})" for i in (order[0], order[-1]))
            lines.append(f"  training videos of the smallest class {least}, of the largest {most}")
        if number == 1:
            lines.append("  with one class there is nothing to learn: add folders of other classes")
        lines += self._sizes()
        if "val" in parts and "val" not in self.listing.splits:
            of = " of every class" if self.listing.by_class else ""
            lines.append(
                f"no validation videos: {self.val_fraction:.0%} of the training videos{of} are kept "
                f"for it (data.val_fraction)"
            )
        if self.multi_label:
            lines.append("several labels per video: a sigmoid for each class, mean average precision")
        if "test" not in parts:
            lines.append("no test videos: results are those of the validation videos")
        return "\n".join([*lines, *(f"note: {note}" for note in self.listing.notes)])

    def _sizes(self) -> list[str]:
        """What is seen of the sizes and lengths of some videos, spread over all."""
        step = -(-len(self) // _LOOKED_AT)
        sizes, lengths = set(), []
        for video in self.ids[::step]:
            with suppress(UserError):  # said when it is read
                height, width, _ = next(self.source.frames(video, [0])).shape
                sizes.add((width, height))
                lengths.append(self.source.num_frames(video))
        if not lengths:
            return []
        of = f"in {counted(len(lengths), 'video')} of {self.split}"
        of += " that were looked at" if step > 1 else ""
        low, high = min(sizes), max(sizes)
        size = f"{low[0]} x {low[1]}" + (f" to {high[0]} x {high[1]}" if low != high else "")
        least, most = min(lengths), max(lengths)
        length = f"{least:,}" + (f" to {most:,}" if least != most else "")
        lines = [f"{size} pixels, {length} {'frame' if most == 1 else 'frames'} {of}"]
        if short := sum(length < self.num_frames for length in lengths):
            lines.append(
                f"{short} of {len(lengths)} have fewer than the {self.num_frames} frames of a clip: "
                f"frames are repeated (data.sampling={self.sampling})"
            )
        return lines
