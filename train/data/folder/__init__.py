"""Videos of one's own: a folder per class, a table of files and labels, or lists."""

from rstg_pyg.train.data.folder.dataset import VideoFolder
from rstg_pyg.train.data.folder.listing import Listing, is_class_folder, read_folder

__all__ = ["Listing", "VideoFolder", "is_class_folder", "read_folder"]
