"""Videos as folders of numbered images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from rstg_pyg.train.data.paths import beside, missing_names
from rstg_pyg.train.data.sources.base import FrameSource
from rstg_pyg.train.data.sources.images import SUFFIXES, decode_image, read_file
from rstg_pyg.train.errors import UserError

_NAME = re.compile(r"(.*?)([0-9]+)(\.\w+)")
_FLOW = ("flow", "x_", "y_")  # optical flow, which TSM and mmaction put beside the frames
_MOST_LOOKED_AT = 3


@dataclass(frozen=True)
class Template:
    """How frames are named: ``img_00001.jpg`` is prefix ``img_``, five digits, suffix ``.jpg``.

    Attributes:
        prefix: What precedes the number.
        digits: The number's width, filled with zeros.
        suffix: What follows the number.
        start: The number of the first frame, 0 or 1 as a rule.
    """

    prefix: str
    digits: int
    suffix: str
    start: int

    def name(self, index: int) -> str:
        """The name of frame ``index``, counted from 0."""
        return f"{self.prefix}{index + self.start:0{self.digits}d}{self.suffix}"

    def numbers(self, names: list[str]) -> list[int]:
        """The sorted numbers of those names that are frames."""
        found = []
        for name in names:
            match = _NAME.fullmatch(name)
            if match and (match[1], match[3]) == (self.prefix, self.suffix):
                if f"{int(match[2]):0{self.digits}d}" == match[2]:
                    found.append(int(match[2]))
        return sorted(found)

    def __str__(self) -> str:
        return f"{self.prefix}{{:0{self.digits}d}}{self.suffix} from {self.start}"


def detect_template(folders: Sequence[Path]) -> Template | None:
    """How the frames in the given folders are named, or nothing if there are none."""
    groups: dict[tuple[str, str], list[str]] = {}  # the numbers by prefix and suffix
    for folder in folders:
        for name in _names(folder):
            match = _NAME.fullmatch(name)
            if match and match[3].lower() in SUFFIXES and not match[1].startswith(_FLOW):
                groups.setdefault((match[1], match[3]), []).append(match[2])
    if not groups:
        return None
    (prefix, suffix), numbers = max(sorted(groups.items()), key=lambda group: len(group[1]))
    return Template(prefix, min(map(len, numbers)), suffix, start=min(map(int, numbers)))


class FrameFolders(FrameSource):
    """Videos as folders of images.

    Args:
        folder: The folder of the videos' folders.
        template: How frames are named; see :func:`detect_template`.
    """

    kind = "frames"

    def __init__(self, folder: Path, template: Template):
        self.folder = folder
        self.template = template
        self.detail = f"frame folders in {folder}, {template}"

    @classmethod
    def find(cls, folder: Path, samples: Sequence[str]) -> FrameFolders | None:
        """The frame folders of the sample videos, if ``folder`` has them."""
        there = [folder / video for video in samples if os.path.isdir(folder / video)]
        template = detect_template(there[:_MOST_LOOKED_AT]) or detect_template(there)
        return cls(folder, template) if template else None

    def location(self, video: str) -> Path:
        """The video's folder."""
        return self.folder / video

    def missing(self, videos: list[str]) -> list[str]:
        """The videos without a folder."""
        return missing_names(self.folder, videos, "")

    def num_frames(self, video: str) -> int:
        """The number of images, which must be numbered without a gap."""
        folder = self.location(video)
        names = _names(folder)
        numbers = self.template.numbers(names)
        if not numbers:
            have = f"{len(names)} files, such as {names[0]}" if names else "nothing"
            raise UserError(
                f"{folder}: expected frames like {self.template.name(0)} (the folder has {have}); "
                f"extract the video again"
            )
        first = self.template.start
        if numbers[0] < first or numbers[-1] - first + 1 != len(numbers):
            there = set(numbers)
            gap = next((n for n in range(first, numbers[-1]) if n not in there), numbers[0])
            raise self._missing_frame(video, gap - first, "missing" if gap >= first else "unexpected")
        return len(numbers)

    def _frames(self, video: str, indices: Sequence[int]) -> Iterator[Tensor]:
        folder = self.location(video)
        for index in indices:
            path = folder / self.template.name(index)
            try:
                data = read_file(path)
            except FileNotFoundError:
                raise self._missing_frame(video, index) from None
            yield decode_image(data, path)

    def _missing_frame(self, video: str, index: int, problem: str = "missing") -> UserError:
        name, names = self.template.name(index), _names(self.location(video))
        near = beside(name, [n for n in names if n != name])
        return UserError(
            f"{self.location(video) / name}: the frame is {problem}, expected "
            f"{self.template.name(0)} and so on without a gap{near}"
        )


def _names(folder: Path) -> list[str]:
    """The names in a video's folder, in order."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        near = beside(folder.name, folder.parent)
        raise UserError(f"{folder}: the video's folder is missing{near}") from None
    except OSError as e:
        raise UserError(f"{folder}: cannot be read ({e.strerror or e})") from e
