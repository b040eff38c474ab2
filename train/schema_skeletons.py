"""The section ``data`` of a config for skeletons."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rstg_pyg.train.schema_model import (
    Decay,
    Few,
    FewOrNone,
    Frames,
    NonNegative,
    NonNegativeInt,
    Number,
    Place,
    Positive,
    Section,
    Seed,
)

_Feature = Literal[
    "joint", "bone", "motion", "bone_motion", "acceleration", "motion_2", "motion_4", "motion_8"
]


class BuiltinSkeletonsConfig(Section):
    """Generated recordings; see :func:`rstg_pyg.train.skeletons.generated.generate_recordings`."""

    subjects: Few = 6
    #: Recordings of every action by every subject.
    repetitions: Few = 3


class SkeletonConfig(Section):
    """Recorded skeletons; see :mod:`rstg_pyg.train.data.skeletons`."""

    dataset: Literal["skeleton"]
    #: A folder or zip file of recordings; none: generated ones.
    root: Place | None = None
    builtin: BuiltinSkeletonsConfig = BuiltinSkeletonsConfig()
    #: Joints of a body: those of MSR Action3D (.txt) or of NTU RGB+D (.skeleton).
    layout: Literal["msr20", "ntu25"] = "msr20"
    #: Bodies that are kept.
    bodies: Annotated[int, Field(gt=0, le=10)] = 1
    #: Names of the actions 1, 2, ...; those without one are called ``action 1`` and so on.
    class_names: list[str] = []
    #: Whose recordings are trained with, validated and tested; ``test_subjects: null``: of all others.
    train_subjects: list[NonNegativeInt] = [1, 3, 5, 7, 9]
    val_subjects: list[NonNegativeInt] = []
    test_subjects: list[NonNegativeInt] | None = None
    seed: Seed = 0
    #: Frames of a clip, to which a recording is resampled.
    num_frames: Frames = 16
    #: Features of a joint, see :class:`rstg_pyg.graphs.SkeletonFeatures`.
    features: Annotated[list[_Feature], Field(min_length=1)] = ["joint", "bone", "motion"]
    motion_scale: Positive = 1.0
    #: All recordings: smoothing over frames (how often), turned to the camera, and given one body.
    smooth: FewOrNone = 0
    face_forward: bool = False
    same_bones: bool = False
    #: Training clips: least share of the recording, unevenness of time, largest turn and tilt in
    #: degrees, largest relative change of the axes and of the bones, noise in meters, share of
    #: absent joints.
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    warp: Decay = 0.0
    turn: Annotated[float, Field(ge=0, le=180)] = 0.0
    tilt: Annotated[float, Field(ge=0, le=180)] = 0.0
    scale: Decay = 0.0
    bone_scale: Decay = 0.0
    jitter: NonNegative = 0.0
    drop_joints: Decay = 0.0
    #: Clips of a recording in the test, whose logits are averaged: all of it, and parts of it.
    test_clips: Few = 1
    #: Share of joints that are taken away in the test.
    test_drop: Decay = 0.0
    #: Edges between hands, head, hip and feet besides the bones.
    together: bool = False
    #: Whether the joints' vectors are added up (RSTG-to-vec) or stay one after the other.
    sum_joints: bool = False
    #: Whether the last layer sees the maximum over time beside the mean.
    max_over_time: bool = False
    mean: Number = 0.0
    std: Positive = 1.0
    num_workers: FewOrNone = 0

    @property
    def channels(self) -> int:
        """Channels of a clip: the features, and whether a joint is there."""
        return 3 * len(self.features) + 1

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """Channels, frames, bodies, and joints of each."""
        return self.channels, self.num_frames, self.bodies, int(self.layout[-2:])
