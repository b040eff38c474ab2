"""What hypothesis tests of files and command lines share."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

LONG = settings.get_profile("nightly").max_examples


def examples(count: int) -> settings:
    """So many examples, forty times as many with ``--hypothesis-profile=nightly``."""
    return settings(max_examples=count * settings.default.max_examples // 100)


def nightly() -> bool:
    """Whether this is a long run."""
    return settings.default.max_examples >= LONG


class TooLongError(BaseException):
    """A case took longer than it may."""


def _too_long(number: int, frame: Any) -> None:
    raise TooLongError


@contextlib.contextmanager
def within(seconds: float, mebibytes: int = 1024) -> Iterator[None]:
    """A case may take so much time, and so much more memory than this process has."""
    status = Path("/proc/self/status").read_text().split()
    most = (int(status[status.index("VmData:") + 1]) << 10) + (mebibytes << 20)
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    kept = signal.signal(signal.SIGALRM, _too_long)
    resource.setrlimit(resource.RLIMIT_DATA, (most, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_DATA, limits)
        signal.signal(signal.SIGALRM, kept)


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Works in a folder. (``contextlib.chdir`` is of Python 3.11.)"""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def remove(path: Path) -> None:
    """Removes a file, a link or an empty or full folder."""
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            remove(inner)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def put(path: Path, data: bytes) -> None:
    """Writes a new file in the place of another: that one may have further names."""
    remove(path)
    path.write_bytes(data)


def _sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 40)


#: What can be in the place of a file, made after it was removed.
SPECIAL: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a broken link": lambda path: path.symlink_to("nowhere"),
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "of a terabyte": _sparse,
}
FOREIGN = (
    b"", b"\0", b"hello\n", bytes(5000), bytes(range(256)), b"<html><body>404</body></html>",
    b"%PDF-1.4\n", b"PK\x03\x04" + bytes(40), b"PK\x05\x06" + bytes(18), b"\x7fELF" + bytes(60),
    b"GIF89a\xff\xff\xff\xff\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 26 20\n(code-was-run) (w) file closefile\n%%EOF\n",
    b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n1.webm\n#EXT-X-ENDLIST\n",
    b"ffconcat version 1.0\nfile 1.webm\nfile 3.webm\n", b"RIFF\xff\xff\xff\xffAVI ",
    b"\x1a\x45\xdf\xa3", b"\0\0\0\x18ftypmp42", b"\xff\xd8\xff\xe0",
)  # fmt: skip


@st.composite
def damage(draw: st.DrawFn) -> tuple[str, Callable[[bytes], bytes]]:
    """Something that is done to the bytes of a file, and what it is called."""
    kind = draw(st.sampled_from(["cut", "cut at the end", "flip", "overwrite", "remove", "replace"]))
    place, share = draw(st.floats(0, 1)), draw(st.floats(0, 1))
    length, bit = draw(st.sampled_from([1, 8, 100])), draw(st.integers(0, 7))
    early, content = draw(st.booleans()), draw(st.sampled_from(FOREIGN))

    def apply(data: bytes) -> bytes:
        at = int(place * max(len(data) - 1, 0))
        if kind == "cut":
            return data[:at]
        if kind == "cut at the end":
            return data[: max(0, len(data) - 1 - int(39 * place))]
        if kind == "replace":
            return content
        out = bytearray(data)
        if kind == "flip" and data:
            out[at % 64 if early and len(data) > 64 else at] ^= 1 << bit
        elif kind == "overwrite":
            out[at : at + length] = (b"\xff" if early else b"\0") * min(length, len(data) - at)
        elif kind == "remove":
            del out[at : at + int(share * 200)]
        return bytes(out)

    return kind, apply
