"""Damaged frames and videos: every kind of damage, and what may become of it."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from fuzzing.damage import BYTES, huge_jpeg, huge_png, replaced, truncated
from PIL import Image

CLASSES = ["Moving something up", "Pulling something from left to right", "Turning something"]
#: Videos per split with their classes; the one that is damaged is ``BAD``.
SPLITS = {"train": {"1": 0, "2": 1}, "validation": {"3": 2}}
BAD, FRAMES, SIZE = "2", 6, (20, 26)
VIDEO_FORMATS = {
    ".webm": "libvpx-vp9", ".mp4": "libx264", ".avi": "mpeg4", ".mkv": "libvpx", ".mov": "mjpeg",
    ".mpg": "mpeg2video", ".gif": "gif",
}  # fmt: skip
LAYOUTS = ("frames", "png", *VIDEO_FORMATS)


class Case(NamedTuple):
    """A damaged data set.

    Attributes:
        names: What a message must name, one of them.
        may: ``load`` (as if nothing was wrong; nothing else), ``same`` (load unchanged, or be refused),
            ``change`` (load, as something else too, or be refused) or ``not load``.
        annotations: The kind of the label files.
    """

    names: tuple[str, ...]
    may: str
    annotations: str = "auto"


class Templates:
    """Whole data sets to copy, one per layout."""

    def __init__(self, folder: Path):
        self.folder = folder
        for layout in LAYOUTS:
            root = folder / layout.strip(".")
            write_labels(root, "v2" if layout == ".webm" else "v1")
            for video in ("1", "2", "3"):
                _write_media(root / "videos", video, layout)

    def copy(self, layout: str, root: Path) -> Path:
        """A copy at ``root``."""
        return shutil.copytree(self.folder / layout.strip("."), root, dirs_exist_ok=True)


def picture(video: str, frame: int) -> np.ndarray:
    """A picture that tells video and frame."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    red, green = np.full(SIZE, 60 * int(video)), np.full(SIZE, 30 * frame)
    return np.stack([red, green, (9 * x + 3 * y) % 256], -1).astype(np.uint8)


def write_labels(root: Path, kind: str, videos: dict[str, dict[str, int]] = SPLITS) -> None:
    root.mkdir(parents=True, exist_ok=True)
    if kind == "v2":
        write_json(root / "labels.json", {name: str(i) for i, name in enumerate(CLASSES)})
        for split, labels in videos.items():
            rows = [{"id": video, "template": CLASSES[label]} for video, label in labels.items()]
            write_json(root / f"{split}.json", rows)
        return
    name = "something-something-v1-{}.csv"
    (root / name.format("labels")).write_text("\n".join(CLASSES) + "\n")
    for split, labels in videos.items():
        lines = [f"{video};{CLASSES[label]}\n" for video, label in labels.items()]
        (root / name.format(split)).write_text("".join(lines))


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def _write_media(folder: Path, video: str, layout: str) -> None:
    pictures = [picture(video, i) for i in range(FRAMES)]
    if layout in ("frames", "png"):
        (folder / video).mkdir(parents=True)
        for i, pixels in enumerate(pictures, 1):
            suffix = "jpg" if layout == "frames" else "png"
            Image.fromarray(pixels).save(folder / video / f"{i:05d}.{suffix}", quality=95)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with av.open(str(folder / f"{video}{layout}"), "w") as container:
        stream = container.add_stream(VIDEO_FORMATS[layout], rate=25 if layout == ".mpg" else 12)
        stream.height, stream.width = SIZE
        formats = {".gif": "rgb8", ".mov": "yuvj420p"}
        stream.pix_fmt = formats.get(layout, "yuv420p")
        if layout in (".webm", ".mkv"):
            stream.options = {"cpu-used": "8", "deadline": "realtime"}
        for pixels in pictures:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


Kind = Callable[[random.Random, Path, Templates], Case]
KINDS: dict[str, tuple[Kind, int]] = {}  # with its share of the cases


def kind(name: str, share: int = 1):
    def add(function: Kind) -> Kind:
        KINDS[name] = function, share
        return function

    return add


def _frames(root: Path, video: str = BAD) -> list[Path]:
    return sorted((root / "videos" / video).iterdir())


def _damage(name: str, layout: str, damage, share: int) -> None:
    what = "jpeg" if layout == "frames" else "png" if layout == "png" else f"video {layout}"

    @kind(f"{what} {name}", share)
    def make(rng: random.Random, root: Path, templates: Templates) -> Case:
        templates.copy(layout, root)
        images = layout in ("frames", "png")
        path = rng.choice(_frames(root)) if images else root / "videos" / f"{BAD}{layout}"
        data = path.read_bytes()
        damaged = damage(rng, data)
        path.write_bytes(damaged)
        if damaged == data:
            return Case((), "load")
        cut = damage is truncated or damage is replaced
        return Case((path.name,), "same" if cut else "change")


for _layout, _share in {"frames": 6, "png": 3, ".webm": 4, ".mp4": 4}.items():
    for _bytes in BYTES:
        _damage(_bytes.__name__, _layout, _bytes, _share)
for _layout in (".avi", ".mkv", ".mov", ".mpg", ".gif"):
    for _bytes in BYTES:
        _damage(_bytes.__name__, _layout, _bytes, 2)


@kind("image of a huge declared size", 3)
def _(rng, root, templates):
    templates.copy("frames", root)
    side, other = rng.choice([(65_000, 65_000), (16_000, 16_000), (65_535, 3), (12_000, 12_000)])
    for path in _frames(root):
        path.unlink()
    data = {
        "png": huge_png(side, other),
        "bmp": b"BM" + struct.pack("<IIIIiiHHI", 90, 0, 54, 40, side, other, 1, 24, 0) + bytes(40),
        "jpg": huge_jpeg(side, other),
        "webp": b"RIFF\x20\0\0\0WEBPVP8L\x14\0\0\0/\xff\xff\xff\x0f" + bytes(15),
    }
    suffix = rng.choice(list(data))
    (root / "videos" / BAD / f"00001.{suffix}").write_bytes(data[suffix])
    others = [p for video in ("1", "3") for p in _frames(root, video)]
    for path in others:
        Image.open(path).save(path.with_suffix(f".{suffix}"))
        path.unlink()
    return Case((f"00001.{suffix}", f"videos/{BAD}"), "not load")


@kind("image of an odd size", 3)
def _(rng, root, templates):
    templates.copy("png", root)
    height, width = rng.choice([(1, 1), (1, 9), (9, 1), (3, 2), (1, 5000), (5000, 1), (2, 3000)])
    for path in _frames(root):
        Image.new("RGB", (width, height), (9, 99, 199)).save(path)
    wide = max(height, width) > 1000
    return Case((BAD,), "not load" if wide else "change")


@kind("image of another mode or format", 3)
def _(rng, root, templates):
    templates.copy("png", root)
    mode = rng.choice(["1", "L", "LA", "P", "RGBA", "I;16", "F", "CMYK", "tiff", "gif"])
    for path in _frames(root):
        if mode == "I;16":
            Image.fromarray(np.full(SIZE, 30_000, np.uint16)).save(path)
        elif mode in ("F", "CMYK", "tiff"):
            image = Image.new("RGB" if mode == "tiff" else mode, SIZE[::-1])
            image.save(path, format="TIFF")
        elif mode == "gif":
            Image.new("RGB", SIZE[::-1]).save(path, format="GIF")
        else:
            Image.new("RGB", SIZE[::-1]).convert(mode).save(path)
    return Case((BAD,), "not load" if mode in ("I;16", "F") else "change")


@kind("frame folder", 10)
def _(rng, root, templates):
    templates.copy("frames", root)
    folder = root / "videos" / BAD
    paths = _frames(root)
    path = rng.choice(paths)
    what = rng.choice(
        ("missing frame", "missing last", "empty folder", "no folder", "folder is a file",
         "frame is a folder",
         "fifo", "endless", "loop", "dangling", "link out", "other size", "other digits",
         "strange names",
         "hidden", "huge file")
    )  # fmt: skip
    if what in ("frame is a folder", "fifo", "endless", "loop", "dangling", "huge file"):
        path.unlink()
    if what == "missing frame":
        path = rng.choice(paths[:-1])
        path.unlink()
    elif what == "missing last":
        paths[-1].unlink()
        return Case((), "change")  # a shorter video, as far as anybody can tell
    elif what == "empty folder":
        for path in paths:
            path.unlink()
    elif what in ("no folder", "folder is a file"):
        shutil.rmtree(folder)
        if what == "folder is a file":
            folder.write_text("x")
    elif what == "frame is a folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "endless":
        path.symlink_to("/dev/zero")
    elif what == "loop":
        path.symlink_to(path.name)
    elif what == "dangling":
        path.symlink_to("nowhere")
    elif what == "link out":  # a link that the user made is followed
        target = root.parent / "elsewhere.jpg"
        path.rename(target)
        path.symlink_to(target)
        return Case((), "load")
    elif what == "other size":
        Image.new("RGB", (31, 20)).save(path)
    elif what == "other digits":
        (folder / "\u0660\u0660\u0660\u0660\u0667.jpg").write_bytes(path.read_bytes())
        (folder / "0000²0.jpg").write_bytes(path.read_bytes())
        return Case((), "load")
    elif what == "strange names":
        for name in ("a b.jpg", "é.jpg", "..jpg", "x" * 200 + ".jpg", "9" * 200 + ".png", "n\new.jpg"):
            (folder / name).write_bytes(b"x")
        os.close(os.open(os.fsencode(folder) + b"/\xff\xfe.jpg", os.O_CREAT))
        if rng.random() < 0.5:
            path = paths[2]
            path.unlink()
            return Case((BAD,), "not load")
        return Case((), "load")
    elif what == "hidden":
        (folder / ".DS_Store").write_bytes(b"x")
        return Case((), "load")
    elif what == "huge file":
        with open(path, "wb") as file:
            file.truncate(1 << 40)
    return Case((BAD,), "not load")


@kind("video file", 8)
def _(rng, root, templates):
    layout = rng.choice(list(VIDEO_FORMATS))
    templates.copy(layout, root)
    path = root / "videos" / f"{BAD}{layout}"
    what = rng.choice(
        ("missing", "folder", "fifo", "loop", "endless", "of another format", "playlist", "concat",
         "huge file", "link out")
    )  # fmt: skip
    data = path.read_bytes()
    if what == "link out":
        path.rename(root.parent / "elsewhere")
        path.symlink_to(root.parent / "elsewhere")
        return Case((), "load")
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "loop":
        path.symlink_to(path.name)
    elif what == "endless":
        path.symlink_to("/dev/zero")
    elif what == "of another format":
        other = rng.choice(list(VIDEO_FORMATS))
        path.write_bytes(
            (templates.folder / other.strip(".") / "videos" / f"{BAD}{other}").read_bytes()
        )
        return Case((path.name,), "change")
    elif what in ("playlist", "concat"):  # names another video, which must not be read in its place
        secret = root.parent / f"secret{layout}"
        secret.write_bytes(data)
        text = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n"
        name = rng.choice((f"../../{secret.name}", f"1{layout}"))
        path.write_text(text if what == "playlist" else f"ffconcat version 1.0\nfile '{name}'\n")
    elif what == "huge file":
        with open(path, "wb") as file:
            file.write(data[: len(data) // 2])
            file.truncate(1 << 40)
    return Case((path.name,), "not load")


@kind("video of a huge declared size", 4)
def _(rng, root, templates):
    layout = rng.choice((".gif", ".avi", ".mov", ".mp4", ".webm"))
    templates.copy(layout, root)
    path = root / "videos" / f"{BAD}{layout}"
    data, (height, width) = path.read_bytes(), SIZE
    small = {
        ".gif": struct.pack("<HH", width, height),
        ".avi": struct.pack("<II", width, height),
        ".mov": struct.pack(">HH", width, height),
        ".mp4": struct.pack(">HH", width, height),
        ".webm": b"\xb0\x81" + bytes([width]),
    }[layout]
    side = rng.choice((30_000, 65_000))
    large = {
        ".gif": struct.pack("<HH", side, side),
        ".avi": struct.pack("<II", side, side),
        ".mov": struct.pack(">HH", side, side),
        ".mp4": struct.pack(">HH", side, side),
        ".webm": b"\xb0\x81\xff",
    }[layout]
    path.write_bytes(data.replace(small, large))
    return Case((path.name,), "change")
