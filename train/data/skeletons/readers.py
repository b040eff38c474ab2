"""Files of skeletons, one per recording: the text of MSR Action3D and ``.skeleton`` of NTU RGB+D."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from rstg_pyg.train.errors import UserError

#: Joints of a body, by the name of the layout (see ``rstg_pyg.graphs.skeleton_graph``).
JOINTS = {"msr20": 20, "ntu25": 25}
#: Names of files: action, subject, and which repetition; setup, camera, person, repetition, action.
_MSR = re.compile(r"a(\d+)_s(\d+)_e(\d+).*\.txt")
_NTU = re.compile(r"S(\d+)C(\d+)P(\d+)R(\d+)A(\d+)\.skeleton")
_MOST_BYTES = 1 << 28
_HEAD = 10  # numbers of a body before its joints, in NTU's files
_ROW = 12  # numbers of a joint there: 3 of its position, 4 in the images, 4 of its turn, and its state


@dataclass(frozen=True)
class Recording:
    """The joints of some bodies over time.

    Attributes:
        name: The file's name without its ending.
        action: The number of the action, from 1, or -1 if the name says none.
        subject: The number of the person, from 1, or -1.
        pos: Positions in meters, x to the right and y up, ``[T, M, N, 3]``; zero where a joint is not
            there.
        mask: Which joints are there, bool ``[T, M, N]``.
        layout: ``"msr20"`` or ``"ntu25"``.
    """

    name: str
    action: int
    subject: int
    pos: Tensor
    mask: Tensor
    layout: str


def read_recording(path: str | Path, bodies: int = 1) -> Recording:
    """Reads one file.

    Args:
        path: A ``.txt`` file in the format of MSR Action3D, or a ``.skeleton`` file.
        bodies: How many bodies are kept: those that are there in the most frames, then those that move
            the most.

    Raises:
        UserError: If the file cannot be read, or nobody is in it.
    """
    path = Path(path)
    try:
        found = _parse(path.name, path.read_bytes(), str(path), bodies)
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror or e})") from e
    if len(found.pos) == 0:
        raise UserError(f"{path}: no joint is there in any frame (they are all at 0 0 0)")
    return found


def read_recordings(root: str | Path, bodies: int = 1) -> tuple[list[Recording], list[str]]:
    """Reads all recordings in a folder (and folders in it) or in a zip file.

    Args:
        root: The folder or the zip file. Files of other names are passed over.
        bodies: As in :func:`read_recording`.

    Returns:
        The recordings, by name, and the names of those in which nobody is, which are left out.

    Raises:
        UserError: If a file is damaged, a name occurs twice, or there is no recording.
    """
    found: dict[str, Recording] = {}
    empty = []
    for name, data, where in _files(Path(root)):
        recording = _parse(name, data, where, bodies)
        if recording.name in found or recording.name in empty:
            raise UserError(f"{where}: there are two recordings {recording.name}; remove one")
        if len(recording.pos):
            found[recording.name] = recording
        else:
            empty.append(recording.name)
    if not found:
        raise UserError(
            f"{root}: expected recordings like a01_s01_e01_skeleton3D.txt or "
            f"S001C001P001R001A001.skeleton (got none)"
        )
    layouts = {recording.layout for recording in found.values()}
    if len(layouts) > 1:
        raise UserError(f"{root}: expected .txt or .skeleton files (got both); give one kind")
    return [found[name] for name in sorted(found)], sorted(empty)


def _files(root: Path) -> Iterator[tuple[str, bytes, str]]:
    """Names, contents and places of the recordings."""
    try:
        if root.is_dir():
            for path in sorted(root.rglob("*")):
                if _fits(path.name) and path.is_file():
                    yield path.name, path.read_bytes(), str(path)
        elif zipfile.is_zipfile(root):
            with zipfile.ZipFile(root) as file:
                for entry in file.infolist():
                    name = PurePosixPath(entry.filename).name
                    if _fits(name) and entry.file_size <= _MOST_BYTES:
                        yield name, file.read(entry), f"{root}, {entry.filename}"
        else:
            raise UserError(f"data.root: expected a folder or a zip file of recordings (got {root})")
    except (OSError, zipfile.BadZipFile, EOFError) as e:
        raise UserError(f"{root}: cannot be read ({e})") from e


def _fits(name: str) -> bool:
    return bool(_MSR.fullmatch(name) or _NTU.fullmatch(name))


def _parse(name: str, data: bytes, where: str, bodies: int) -> Recording:
    """The recording in a file. Frames in which no joint is there are left out."""
    read, layout = (_read_ntu, "ntu25") if name.endswith(".skeleton") else (_read_msr, "msr20")
    try:
        pos, mask = read(data.decode(), bodies)
    except (ValueError, IndexError) as e:
        kind = (
            "20 lines x y z confidence for every frame" if layout == "msr20" else "NTU RGB+D's format"
        )
        raise UserError(f"{where}: expected {kind} ({str(e) or 'it ends too early'})") from None
    there = mask.flatten(1).any(1)
    action = subject = -1
    if match := _MSR.fullmatch(name):
        action, subject = int(match[1]), int(match[2])
    elif match := _NTU.fullmatch(name):
        action, subject = int(match[5]), int(match[3])
    short = name.rsplit(".", 1)[0]
    return Recording(short, action, subject, pos[there], mask[there], layout)


def _numbers(text: str) -> np.ndarray:
    found = np.array(text.split(), dtype=np.float64)
    if not np.isfinite(found).all():
        raise ValueError("not all numbers are finite")
    return found


def _read_msr(text: str, bodies: int) -> tuple[Tensor, Tensor]:
    """One body; a joint at the origin is not there. The confidence is not used: it is 0 for many joints
    that are where they should be.
    """
    numbers = _numbers(text)
    if numbers.size == 0 or numbers.size % (4 * JOINTS["msr20"]):
        raise ValueError(f"got {numbers.size} numbers, no multiple of {4 * JOINTS['msr20']}")
    pos = numbers.reshape(-1, JOINTS["msr20"], 4)[..., :3]
    return _with_bodies(torch.from_numpy(pos).float().unsqueeze(1), bodies)


def _with_bodies(pos: Tensor, bodies: int) -> tuple[Tensor, Tensor]:
    """Adds bodies that are not there, if there are too few."""
    more = pos.new_zeros(len(pos), max(bodies - pos.size(1), 0), *pos.shape[2:])
    pos = torch.cat([pos, more], dim=1)
    return pos, (pos != 0).any(-1)


def _read_ntu(text: str, bodies: int) -> tuple[Tensor, Tensor]:
    """Bodies are told apart by their ids. A joint with the state 0 (not tracked) is not there."""
    numbers = iter(_numbers(text).tolist())

    def count(what: str, most: int) -> int:
        value = next(numbers, -1.0)
        if value != int(value) or not 0 <= value <= most:
            raise ValueError(f"expected the number of {what}")
        return int(value)

    frames: list[dict[float, np.ndarray]] = []
    for _ in range(count("frames", 100_000)):
        frames.append({})
        for _ in range(count("bodies", 100)):
            head = _take(numbers, _HEAD)
            if count("joints", 1000) != JOINTS["ntu25"]:
                raise ValueError(f"expected {JOINTS['ntu25']} joints")
            rows = np.array(_take(numbers, _ROW * JOINTS["ntu25"])).reshape(-1, _ROW)
            frames[-1][head[0]] = rows[:, :3] * (rows[:, 11:] != 0)
    if next(numbers, None) is not None:
        raise ValueError("there is more after the last frame")
    often = Counter(body for frame in frames for body in frame)
    moves = {
        body: float(np.var([frame[body] for frame in frames if body in frame], axis=0).sum())
        for body in often
    }
    kept = sorted(often, key=lambda body: (-often[body], -moves[body]))[:bodies]
    none = np.zeros((JOINTS["ntu25"], 3))
    pos = np.array([[frame.get(body, none) for body in kept] for frame in frames])
    pos = pos.reshape(len(frames), len(kept), JOINTS["ntu25"], 3)
    return _with_bodies(torch.from_numpy(pos).float(), bodies)


def _take(numbers: Iterator[float], count: int) -> list[float]:
    found = [value for _, value in zip(range(count), numbers)]
    if len(found) < count:
        raise ValueError("it ends too early")
    return found
