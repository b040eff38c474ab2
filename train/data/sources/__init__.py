"""Where the frames of videos come from: folders of images, video files, or a packed store."""

from rstg_pyg.train.data.sources.base import SOURCES, FrameSource, Times
from rstg_pyg.train.data.sources.find import find_sources, no_videos, open_source, open_video

__all__ = ["SOURCES", "FrameSource", "Times", "find_sources", "no_videos", "open_source", "open_video"]
