"""SyncMNIST: generated videos of digits, two of which move alike."""

from rstg_pyg.train.data.syncmnist.digits import Digits, load_digits
from rstg_pyg.train.data.syncmnist.path_file import Paths, as_paths
from rstg_pyg.train.data.syncmnist.videos import CHUNK, SyncMNIST, Videos

__all__ = ["CHUNK", "Digits", "Paths", "SyncMNIST", "Videos", "as_paths", "load_digits"]
