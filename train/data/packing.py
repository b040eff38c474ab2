"""Writes a packed store (see ``sources/packed.py``), some videos per transaction.

Until it is complete, the store is called ``NAME.partial``. If the program ends early, for example by
SIGKILL or a full disk, the store has only complete videos, and the same call continues it.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import av
import lmdb
import PIL
import torch

from rstg_pyg.train.data.folder import Listing, is_class_folder, read_folder
from rstg_pyg.train.data.folder.tables import write_tables
from rstg_pyg.train.data.labels import Annotations, read_annotations
from rstg_pyg.train.data.parallel import in_processes
from rstg_pyg.train.data.sources import FrameSource, open_source
from rstg_pyg.train.data.sources.packed import (
    MADE_KEY,
    STORE,
    Made,
    PackedVideos,
    Record,
    encode_video,
    list_videos,
    times_key,
    video_key,
)
from rstg_pyg.train.errors import UserError, counted
from rstg_pyg.train.files import (
    cannot_be_written,
    flush_folder,
    lock,
    remove_leftovers,
    write_atomically,
)

_TRANSACTION = 64 << 20  # bytes
_LONGEST_KEY = 511  # LMDB's
_NAMED = 5  # broken videos that an error names


class Packed(NamedTuple):
    """What :func:`pack` made.

    Attributes:
        store: The store's folder.
        videos: Videos in it.
        added: Videos that this call added.
        size: Bytes.
        made: What made it.
    """

    store: Path
    videos: int
    added: int
    size: int
    made: Made


def pack(
    root: str | Path,
    out: str | Path,
    annotations: str = "auto",
    source: str = "auto",
    short_side: int = 256,
    quality: int = 90,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Packed:
    """Packs all videos that a data set's label files name.

    Args:
        root: The data set's folder.
        out: The store's folder, which becomes a root too. It appears when it is whole.
        annotations: Kind of the label files, see :func:`check`.
        source: Kind of the frames, see :func:`open_source`.
        short_side: Short side of the frames.
        quality: JPEG quality.
        workers: Processes that decode and encode.
        progress: Called with the numbers of videos that are done and of all.

    Raises:
        UserError: If the data set is wrong, a video is missing or damaged (the others are packed
            first), the disk is full, the store is there already, or was begun with other settings or
            from another folder.
    """
    if short_side < 1 or not 1 <= quality <= 100:
        raise UserError(
            f"expected --short-side from 1 and --quality from 1 to 100 (got {short_side} and {quality})"
        )
    out = Path(out).expanduser()
    if not out.name:
        raise UserError("--out: expected the name of a new folder (got nothing)")
    if os.path.lexists(out):
        raise UserError(f"{out}: exists already; choose another name, or remove it to pack again")
    labels: Annotations | Listing
    if annotations == "folder" or (annotations == "auto" and is_class_folder(root)):
        labels = read_folder(root).checked()
    else:
        labels = read_annotations(root, annotations)
    videos = list(dict.fromkeys(video.id for split in labels.splits.values() for video in split))
    frames = open_source(root, videos, source)
    if frames.kind == "packed":
        raise UserError(f"{root}: is a packed store already; give the data set that it was made from")

    broken: list[str] = []
    with _Writer(out.with_name(f"{out.name}.partial")) as writer:
        writer.begin(_made(frames, short_side, quality), os.path.realpath(root))
        there = set(writer.videos())
        todo = [video for video in videos if video not in there]
        encode = partial(_try_to_encode, frames, short_side, quality)
        for count, (video, record) in enumerate(zip(todo, in_processes(encode, todo, workers)), 1):
            if isinstance(record, str):
                broken.append(record)
            else:
                writer.put(video, record)
            if progress is not None:
                progress(len(videos) - len(todo) + count, len(videos))
    if broken:
        raise UserError(
            f"{len(broken):,} of {counted(len(videos), 'video')} cannot be packed. The others are in "
            f"{writer.folder}; fix these and run it again:\n" + "\n".join(broken[:_NAMED])
        )
    _finish(writer.folder, out, labels)
    store = out / STORE
    return Packed(out, len(videos), len(todo), store.stat().st_size, PackedVideos(store).made)


def _made(source: FrameSource, short_side: int, quality: int) -> Made:
    codec = ".".join(map(str, av.library_versions["libavcodec"]))
    decoder = f"PyAV {av.__version__} (libavcodec {codec}), " if source.kind == "video" else ""
    extractor = f"{decoder}torch {torch.__version__} bicubic, Pillow {PIL.__version__}"
    return Made(short_side, quality, extractor, source.kind)


def _try_to_encode(source: FrameSource, short_side: int, quality: int, video: str) -> Record | str:
    """The video's record, or an error message."""
    if len(video_key(video)) > _LONGEST_KEY:
        return f"{video[:40]}...: the id is longer than the {_LONGEST_KEY} bytes that LMDB allows"
    try:
        return encode_video(source, video, short_side, quality)
    except UserError as e:
        return str(e)


class _Writer:
    """Writes the LMDB file of an unfinished store."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._size = 0  # bytes in the open transaction

    def __enter__(self) -> _Writer:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / "lock", "a+", encoding="utf-8", errors="surrogateescape")
            lock(self._lock)
            path = self.folder / STORE
            free = shutil.disk_usage(self.folder).free + (path.stat().st_size if path.exists() else 0)
            self._environment = lmdb.open(
                str(path), subdir=False, map_size=max(free, 1 << 30), lock=False
            )
        except BlockingIOError:
            raise UserError(
                f"{self.folder}: another program is packing it; wait until it is done"
            ) from None
        except OSError as e:
            raise cannot_be_written(self.folder, e) from e
        except (lmdb.Error, UnicodeEncodeError) as e:  # LMDB takes names in UTF-8 only
            raise UserError(f"{self.folder}: cannot be written ({e}); choose another place") from e
        self._transaction = self._environment.begin(write=True)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                self._commit(last=True)
        finally:
            self._environment.close()  # drops what was not committed
            self._lock.close()

    def begin(self, made: Made, root: str) -> None:
        """Stores settings and data set, or checks that the store was begun with the same ones."""
        self._lock.seek(0)
        began = self._lock.read()
        if began not in ("", root):
            raise UserError(
                f"{self.folder}: was begun with the videos of {began}\n"
                f"choose another name, or remove the folder to begin anew"
            )
        if not began:
            self._lock.write(root)
            self._lock.flush()
        found = self._transaction.get(MADE_KEY)
        if found is not None:
            before = Made.from_bytes(found)
            if replace(before, fps=None) != made:
                raise UserError(
                    f"{self.folder}: was begun with other settings ({before}; now {made})\n"
                    f"use those, or remove the folder to begin anew"
                )
            made = before
        self._made = made
        self._transaction.put(MADE_KEY, made.to_bytes())

    def videos(self) -> list[str]:
        """The ids of the videos that are there."""
        return list_videos(self._transaction)

    def put(self, video: str, record: Record) -> None:
        """Adds a video."""
        known = self._made.fps if isinstance(self._made.fps, list) else []
        rates = [*known, *([record.fps] if record.fps else [])]
        self._made = replace(self._made, fps=[min(rates), max(rates)] if rates else None)
        try:
            self._transaction.put(video_key(video), record.data)
            if record.times:
                self._transaction.put(times_key(video), record.times)
            self._transaction.put(MADE_KEY, self._made.to_bytes())
        except lmdb.Error as e:
            raise self._full(e) from e
        self._size += len(record.data)
        if self._size >= _TRANSACTION:
            self._commit()

    def _commit(self, last: bool = False) -> None:
        try:
            self._transaction.commit()
        except (lmdb.Error, OSError) as e:
            raise self._full(e) from e
        path = self.folder / STORE
        if not path.is_file():  # LMDB still writes to the file that has no name any more
            raise cannot_be_written(path, FileNotFoundError(errno.ENOENT, ""))
        self._size = 0
        if not last:
            self._transaction = self._environment.begin(write=True)

    def _full(self, error: Exception) -> UserError:
        with self._environment.begin() as transaction:
            count = len(list_videos(transaction))
        free = shutil.disk_usage(self.folder).free
        return UserError(
            f"{self.folder}: cannot be written ({error}; {free / 1e6:.0f} MB are free there); "
            f"{counted(count, 'whole video is', 'whole videos are')} in it\n"
            f"if the disk is full free some space and run it again: it goes on"
        )


def _finish(unfinished: Path, out: Path, labels: Annotations | Listing) -> None:
    """Copies the label files into the store and gives it its final name."""
    if isinstance(labels, Listing):
        write_tables(unfinished, labels.classes, labels.splits)
        remove_leftovers(unfinished)
    else:
        for path in labels.files.all:
            copy = unfinished / path.relative_to(labels.files.root)
            write_atomically(copy, partial(shutil.copyfile, path))
            remove_leftovers(copy.parent)
    try:
        (unfinished / "lock").unlink(missing_ok=True)
        os.replace(unfinished, out)
        flush_folder(out.parent)
    except OSError as e:
        raise cannot_be_written(out, e) from e
