"""Recordings of skeletons: files of MSR Action3D and of NTU RGB+D, and clips of them."""

from rstg_pyg.train.data.skeletons.clips import SkeletonClips
from rstg_pyg.train.data.skeletons.readers import Recording, read_recording, read_recordings

__all__ = ["Recording", "SkeletonClips", "read_recording", "read_recordings"]
