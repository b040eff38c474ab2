"""Finds the videos in class folders. Links are followed; one that leads to a folder above is not."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from rstg_pyg.train.data.sources.images import SUFFIXES
from rstg_pyg.train.data.sources.places import is_video_name, without_suffix
from rstg_pyg.train.errors import UserError


def identity(path: Path) -> tuple[int, int]:
    """What tells a file or folder from others, whatever links lead to it."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


class Walk:
    """Looks into folders.

    Attributes:
        folders (list of Path): Those that were listed, but for the frame folders of single videos.
    """

    def __init__(self) -> None:
        self.folders: list[Path] = []

    def subfolders(self, folder: Path) -> list[Path]:
        """The folders in a folder, in order; hidden ones, and such as ``__MACOSX``, do not count."""
        return [folder / name for name in self._list(folder)[1]]

    def loose(self, folder: Path) -> list[Path]:
        """The video files that lie directly in a folder."""
        return [folder / name for name in self._list(folder)[0]]

    def videos(self, folder: Path, above: tuple[tuple[int, int], ...] = ()) -> list[Path]:
        """The videos in a folder and those below it: files, and folders with numbered images.

        A frame folder that lies beside a file of its name is the same video and left out. A folder with
        images and nothing else is itself the video.

        Args:
            folder: Where to look.
            above: The :func:`identity` of the folders above.
        """
        here = identity(folder)
        if here in above:
            return []
        files, folders, frames = self._list(folder)
        if frames and not files and not folders:
            self.folders.pop()
            return [folder]
        names = {without_suffix(name) for name in files}
        found = [folder / name for name in files]
        for name in folders:
            below = self.videos(folder / name, (*above, here))
            if below != [folder / name] or name not in names:
                found += below
        return found

    def _list(self, folder: Path) -> tuple[list[str], list[str], bool]:
        """The names of the videos and of the folders in a folder, and whether there are frames."""
        self.folders.append(folder)
        files, folders, frames = [], [], False
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith((".", "__")):
                        continue
                    with suppress(OSError):  # a loop of links
                        if entry.is_dir():
                            folders.append(entry.name)
                            continue
                    if is_video_name(entry.name):  # a broken link too: it is missing, not absent
                        files.append(entry.name)
                    elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                        frames = frames or any("0" <= c <= "9" for c in entry.name)
        except OSError as e:
            raise UserError(f"{folder}: cannot be listed ({e.strerror or e})") from e
        return sorted(files), sorted(folders), frames
