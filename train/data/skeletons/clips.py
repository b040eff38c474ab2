"""Clips of recorded skeletons, as data sets of videos give them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rstg_pyg.train.data.skeletons.readers import Recording
from rstg_pyg.train.errors import counted

#: Makes a clip ``[C + 1, T, M, N]`` of a recording; its last channel says which joints are there.
Transform = Callable[[Recording], Tensor]


class SkeletonClips(Dataset):
    """Clips of recordings: node features of all joints in a number of frames.

    As in :class:`~rstg_pyg.train.data.clips.VideoClips` a clip is asked for by its visit,
    ``epoch * len(dataset) + item``: what is random in it depends on the seed and the visit only.

    Args:
        recordings: The recordings of this split.
        actions: The numbers of the actions, in the order of the classes.
        transforms: One function for random training clips, or several whose clips are evaluated
            together.
        split: ``"train"``, ``"val"`` or ``"test"``.
        seed: Random seed.
        kind: What results call the data.
        names: The names of the actions 1, 2, ... (default: none, ``"action 1"`` and so on)
    """

    multi_label = False

    def __init__(
        self,
        recordings: Sequence[Recording],
        actions: Sequence[int],
        transforms: Sequence[Transform],
        split: str,
        seed: int = 0,
        kind: str = "skeletons",
        names: Sequence[str] = (),
    ):
        self.recordings = list(recordings)
        self.ids = [recording.name for recording in recordings]
        number = {action: i for i, action in enumerate(actions)}
        self.labels = torch.tensor([number[recording.action] for recording in recordings])
        self.actions, self.transforms = list(actions), list(transforms)
        self.split, self.seed, self.kind, self.names = split, seed, kind, list(names)

    @property
    def num_clips(self) -> int:
        """Clips per recording."""
        return len(self.transforms)

    @property
    def label_names(self) -> list[str]:
        """The names of the classes."""
        names = {number: name for number, name in enumerate(self.names, 1)}
        return [names.get(action, f"action {action}") for action in self.actions]

    @property
    def origin(self) -> str:
        """Which data these are: a run of other ones cannot be continued with them."""
        return f"{self.kind} {len(self.actions)} classes"

    @property
    def protocol_text(self) -> str:
        """How recordings are evaluated."""
        return self.describe()

    def describe(self) -> str:
        """One line about the recordings of this split."""
        subjects = sorted({recording.subject for recording in self.recordings})
        who = ", ".join(map(str, subjects))
        several = f"; mean of {self.num_clips} clips" if self.num_clips > 1 else ""
        return (
            f"{self.kind} {self.split}: {counted(len(self), 'recording')} of "
            f"{'subject' if len(subjects) == 1 else 'subjects'} {who}, "
            f"{counted(len(self.actions), 'class', 'classes')}{several}"
        )

    def blank(self) -> Tensor:
        """A clip without joints, of the shape of all others."""
        return torch.zeros_like(self[0][0])

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, visit: int) -> tuple[Tensor, Any]:
        """The clip of a visit and its label.

        Returns:
            ``[C + 1, T, M, N]``, of which the last channel says whether a joint is there; with several
            clips per recording ``[L, C + 1, T, M, N]``.
        """
        if visit < 0:
            raise IndexError(f"Expected a visit from 0 (got {visit})")
        recording = self.recordings[visit % len(self)]
        with torch.random.fork_rng(devices=[]):
            key = np.random.SeedSequence((self.seed, visit)).generate_state(1, np.uint64)
            torch.manual_seed(int(key[0]))
            clips = [transform(recording) for transform in self.transforms]
        clip = torch.stack(clips) if len(clips) > 1 else clips[0]
        return clip.contiguous(), int(self.labels[visit % len(self)])
