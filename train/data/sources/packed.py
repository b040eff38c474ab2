"""The packed store: the frames of all videos, as JPEG of one short side, in one large file.

The store is an LMDB file. A training clip is a few frames of a random video, which LMDB finds by key
and hands over without a copy, from memory that all workers share; the shards of WebDataset are made to
be read from end to end, which would tie the order of an epoch to that of the files. LMDB is also whole
after any interruption: a transaction is on the disk or never happened. What LMDB lacks is checksums, so
every frame has one (CRC-32), verified whenever it is read.

A store is a folder with the LMDB file and a copy of the label files, so it is a data set's root by
itself. ``packing.py`` writes it; once it is there it never changes.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import lmdb
import numpy as np
from torch import Tensor

from rstg_pyg.train.data.paths import beside
from rstg_pyg.train.data.sources.base import FrameSource
from rstg_pyg.train.data.sources.images import decode_image, encode_jpeg
from rstg_pyg.train.data.sources.places import without_suffix
from rstg_pyg.train.errors import UserError

STORE = "videos.lmdb"
MADE_KEY = b"made"

_VIDEO, _TIMES = b"video/", b"times/"
_HEADER = struct.Struct("<IfI")  # number of frames, frames per second (0: unknown), CRC of the table
_ENTRY = np.dtype([("size", "<u4"), ("crc", "<u4")])  # a row of the table: one per frame


@dataclass(frozen=True)
class Made:
    """The settings of a store.

    Attributes:
        short_side: Short side of the frames, in pixels.
        quality: JPEG quality.
        extractor: The programs that decoded, resized and encoded.
        source: Kind of the source, ``"frames"`` or ``"video"``.
        fps: Frame rates of the videos, of which every frame was kept: the lowest and the highest;
            ``None``: unknown. (Older stores have the first video's.)
    """

    short_side: int
    quality: int
    extractor: str
    source: str
    fps: float | list[float] | None = None

    def to_bytes(self) -> bytes:
        """The settings as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Made:
        """Reads :meth:`to_bytes`.

        Raises:
            ValueError, TypeError, LookupError: If it is something else.
        """
        made = cls(**json.loads(data))
        str(made)
        return made

    def __str__(self) -> str:
        rates = self.fps if isinstance(self.fps, list) else [self.fps]
        low, high = rates[0], rates[-1]
        rate = f"{low:g} frames per second" if low else "frame rate unknown"
        if low != high:
            rate = f"{low:.4g} to {high:.4g} frames per second"
        return (
            f"short side {self.short_side}, JPEG quality {self.quality}, from {self.source}, {rate}, "
            f"by {self.extractor}"
        )


def video_key(video: str) -> bytes:
    """The key of a video's record."""
    return _VIDEO + video.encode()


def times_key(video: str) -> bytes:
    """The key of a video's times, stored if its frame rate varies."""
    return _TIMES + video.encode()


class Record(NamedTuple):
    """A video as it is stored.

    Attributes:
        data: Header, table of the frames' sizes and checksums, frames.
        fps: Frame rate, 0 if it is unknown.
        times: When the frames are shown, if the rate varies, else empty.
    """

    data: bytes
    fps: float
    times: bytes


def encode_video(source: FrameSource, video: str, short_side: int, quality: int) -> Record:
    """A video as the store's record."""
    frames = [encode_jpeg(frame, quality) for frame in source.frames(video, short_side=short_side)]
    table = np.array([(len(data), zlib.crc32(data)) for data in frames], _ENTRY).tobytes()
    fps = source.frames_per_second(video) or 0.0
    times = source.varying_times(video)
    data = b"".join([_HEADER.pack(len(frames), fps, zlib.crc32(table)), table, *frames])
    return Record(data, fps, b"" if times is None else times.tobytes())


def list_videos(transaction: lmdb.Transaction) -> list[str]:
    """The ids of all videos in a store."""
    cursor = transaction.cursor()
    if not cursor.set_range(_VIDEO):
        return []
    keys = (bytes(key) for key in cursor.iternext(keys=True, values=False))
    return [key[len(_VIDEO) :].decode(errors="replace") for key in keys]


class PackedVideos(FrameSource):
    """Reads a packed store. Each process opens the file when it first needs it.

    Args:
        path: The LMDB file.

    Raises:
        UserError: If the file is not a store or is truncated.
    """

    kind = "packed"

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._opened: _Opened | None = None
        made = self._get(MADE_KEY)
        if made is None:
            raise UserError(f"{self.path}: not a store of prepare.py pack; make it again")
        try:
            self.made = Made.from_bytes(bytes(made))
        except (ValueError, TypeError, LookupError, RecursionError) as e:
            raise UserError(
                f"{self.path}: the packed store's settings are damaged ({e}); copy it again, or pack "
                f"it again"
            ) from e
        self.detail = f"packed store {self.path}: {self.made}"

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_opened": None}

    def location(self, video: str) -> Path:
        """The video's place in the store."""
        return self.path / video

    def missing(self, videos: list[str]) -> list[str]:
        """The videos without a record."""
        there = set(self.videos())
        return [v for v in videos if v not in there and without_suffix(v) not in there]

    def videos(self) -> list[str]:
        """The ids of all videos."""
        return list_videos(self._transaction())

    def _open(self, video: str) -> _StoredVideo:
        for name in (video, without_suffix(video)):
            if (record := self._get(video_key(name))) is not None:
                times = self._get(times_key(name))
                return _StoredVideo(record, times, self.path, video)
        near = beside(video, self.videos())
        raise UserError(f"{self.path}: the video {video} is not in the packed store{near}")

    def _transaction(self) -> Any:
        if self._opened is None or self._opened.process != os.getpid():
            self._opened = _open(self.path)
        return self._opened.transaction

    def _get(self, key: bytes) -> memoryview | None:
        try:
            return self._transaction().get(key)
        except lmdb.Error as e:
            raise UserError(
                f"{self.path}: the packed store is damaged ({e}); copy it again, or pack it again"
            ) from e


class _StoredVideo:
    """A video of a packed store. ``times`` is not ``None`` if the frame rate varies.

    Raises:
        UserError: If its table of frames is damaged.
    """

    def __init__(self, record: memoryview, times: memoryview | None, path: Path, video: str):
        self.record, self.path, self.video = record, path, video
        self.times = None if times is None else np.frombuffer(bytes(times), np.float64)
        try:
            self.num_frames, fps, crc = _HEADER.unpack_from(record)
            self.table = np.frombuffer(record, _ENTRY, self.num_frames, _HEADER.size)
        except (struct.error, ValueError):
            raise self._damaged(f"the video {video}") from None
        if self.num_frames == 0 or zlib.crc32(self.table.tobytes()) != crc:
            raise self._damaged(f"the video {video}")
        self.fps = fps or None

    def frames(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """Yields the frames of the given numbers."""
        table = self.table
        ends = _HEADER.size + table.nbytes + table["size"].cumsum(dtype=np.int64)
        for index in indices:
            data = self.record[int(ends[index] - table["size"][index]) : int(ends[index])]
            if zlib.crc32(data) != table["crc"][index]:
                raise self._damaged(f"frame {index} of the video {self.video}")
            yield decode_image(data, f"{self.path / self.video}, frame {index}")

    def _damaged(self, what: str) -> UserError:
        return UserError(
            f"{self.path}: {what} is damaged (wrong checksum); copy the store again, or pack it again"
        )


class _Opened:
    """A store opened for reading. Memory returned by its transaction is valid while it is open."""

    def __init__(self, path: Path):
        self.process = os.getpid()
        try:
            self.environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False)
        except lmdb.Error as e:
            raise UserError(f"{path}: the packed store cannot be read ({e})") from e
        pages = self.environment.info()["last_pgno"] + 1
        if path.stat().st_size < pages * self.environment.stat()["psize"]:
            self.environment.close()  # reading on would end the process with SIGBUS
            raise UserError(f"{path}: the packed store is truncated; copy it again, or pack it again")
        self.transaction = self.environment.begin(buffers=True)


#: LMDB wants a file to be opened once per process, so the data sets of a process share what is open.
_opened: WeakValueDictionary[Path, _Opened] = WeakValueDictionary()


def _open(path: Path) -> _Opened:
    """The store, opened once per process; one inherited from the parent process is closed."""
    path = path.resolve()
    opened = _opened.get(path)
    if opened is None or opened.process != os.getpid():
        if opened is not None:
            opened.environment.close()
        opened = _opened[path] = _Opened(path)
    return opened
