"""Videos as folders of numbered images."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from torch import Tensor

from rstg_pyg.train.data.paths import beside
from rstg_pyg.train.data.sources.images import SUFFIXES, decode_image, read_file
from rstg_pyg.train.data.sources.places import Place, PlacedVideos, find_place, names_of_folders
from rstg_pyg.train.errors import UserError

_NAME = re.compile(r"(.*?)([0-9]+)(\.\w+)")
_FLOW = ("flow", "x_", "y_")  # optical flow, which TSM and mmaction put beside the frames
_MOST_LOOKED_AT = 64


def frame_numbers(folder: Path) -> tuple[list[str], dict[int, str]]:
    """The names in a video's folder, and those of its frames by their numbers.

    Frames are images of one prefix and suffix: ``00001.jpg``, ``img_1.png`` or ``ID-000001.jpg``. Where
    several kinds are in one folder it is the one with the most.

    Raises:
        UserError: If there is no such folder, or two frames have one number.
    """
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        near = beside(folder.name, folder.parent)
        raise UserError(f"{folder}: the video's folder is missing{near}") from None
    except OSError as e:
        raise UserError(f"{folder}: cannot be read ({e.strerror or e})") from e
    kinds: dict[tuple[str, str], dict[int, str]] = {}
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None or match[3].lower() not in SUFFIXES:
            continue
        if match[1].startswith(_FLOW) and not match[1].startswith(folder.name):
            continue
        kind = kinds.setdefault((match[1], match[3].lower()), {})
        if (other := kind.setdefault(int(match[2]), name)) != name:
            raise UserError(f"{folder}: {other} and {name} are frames of one number; remove one")
    return names, max(kinds.values(), key=len, default={})


class FrameFolder:
    """A video as a folder of images, which are numbered without a gap.

    Args:
        folder: The folder. How frames are named is found in it.
        starts: The numbers that a first frame may have.

    Attributes:
        num_frames (int): The number of frames.

    Raises:
        UserError: If the folder or a frame is missing.
    """

    fps = times = None

    def __init__(self, folder: Path, starts: Collection[int] = (0, 1)):
        self.folder = folder
        names, frames = frame_numbers(folder)
        if not frames:
            have = f"{len(names)} files, such as {names[0]}" if names else "nothing"
            raise UserError(
                f"{folder}: expected frames like 00001.jpg (the folder has {have}); extract the video "
                f"again"
            )
        numbers = sorted(frames)
        first = max(number for number in starts if number <= numbers[0])
        for number, wanted in zip(numbers, range(first, numbers[-1] + 1)):
            if number != wanted:
                raise _missing_frame(folder, wanted, frames[number], names)
        self.names = [frames[number] for number in numbers]
        self.num_frames = len(numbers)

    def frames(self, indices: Sequence[int] | None = None) -> Iterator[Tensor]:
        """Yields frames ``[H, W, 3]`` uint8 of the given numbers (by default all)."""
        for index in range(self.num_frames) if indices is None else indices:
            path = self.folder / self.names[index]
            yield decode_image(read_file(path), path)


def _missing_frame(folder: Path, number: int, next_name: str, names: list[str]) -> UserError:
    name = _NAME.sub(lambda match: f"{match[1]}{number:0{len(match[2])}d}{match[3]}", next_name)
    near = beside(name, names)
    return UserError(f"{folder / name}: the frame is missing, expected numbers without a gap{near}")


def find_frame_folders(root: Path, videos: Sequence[str]) -> PlacedVideos | None:
    """The frame folders of the videos below ``root``, if there are any."""
    place = find_place(root, videos, names_of_folders, lambda place: _first(place) is not None)
    return None if place is None else frame_folders(place, _first(place) or 0)


def frame_folders(place: Place, first: int) -> PlacedVideos:
    """The frame folders at a place. The first frame has the number 0, 1 or ``first``."""
    open_one = partial(FrameFolder, starts={0, 1, first})
    return PlacedVideos(place, "frames", f"frame folders in {place.folder}", open_one)


def _first(place: Place) -> int | None:
    """The usual number of the first frame: the smallest one in the first folders."""
    found = (frame_numbers(path)[1] for path in islice(place.paths.values(), _MOST_LOOKED_AT))
    return min((min(frames) for frames in found if frames), default=None)
