"""Damaged data sets: every kind of damage, and what may become of it."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
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
            _write_labels(root, "v2" if layout == ".webm" else "v1")
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


def _write_labels(root: Path, kind: str, videos: dict[str, dict[str, int]] = SPLITS) -> None:
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


# ------------------------------------------------------------------ bytes


def truncated(rng: random.Random, data: bytes) -> bytes:
    cut = rng.choice((rng.randrange(len(data)), len(data) - rng.randrange(1, 40)))
    return data[: max(0, cut)]


def flipped(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    early = rng.random() < 0.4  # in the header
    for _ in range(rng.choice((1, 1, 3, 30))):
        out[rng.randrange(min(len(out), 64) if early else len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def overwritten(rng: random.Random, data: bytes) -> bytes:
    out, length = bytearray(data), rng.choice((1, 8, 100))
    at = rng.randrange(len(out))
    out[at : at + length] = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))
    return bytes(out)


def spliced(rng: random.Random, data: bytes) -> bytes:
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return rng.choice((data[:a] + data[b:], data[:b] + data[a:]))


def replaced(rng: random.Random, data: bytes) -> bytes:
    return rng.choice(
        (b"", b"\0", b"hello\n", rng.randbytes(rng.choice((3, 100, 5000))), bytes(5000),
         b"<html><body>404</body></html>", b"%PDF-1.4\n", b"PK\x03\x04" + bytes(40), EPS, GIF, PLAYLIST,
         b"ffconcat version 1.0\nfile 1.webm\nfile 3.webm\n", b"#EXTM3U\n", b"\x7fELF" + bytes(60),
         b"RIFF\xff\xff\xff\xffAVI ", b"\x1a\x45\xdf\xa3", b"\0\0\0\x18ftypmp42", b"\xff\xd8\xff\xe0")
    )  # fmt: skip


EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 26 20\n%%EndComments\n"
    b"(code-was-run) (w) file closefile showpage\n%%EOF\n"
)
GIF = b"GIF89a\xff\xff\xff\xff\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;"
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n1.webm\n#EXT-X-ENDLIST\n"

BYTES = (truncated, flipped, overwritten, spliced, replaced)

# ------------------------------------------------------------------ kinds

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
        "png": _huge_png(side, other),
        "bmp": b"BM" + struct.pack("<IIIIiiHHI", 90, 0, 54, 40, side, other, 1, 24, 0) + bytes(40),
        "jpg": _huge_jpeg(side, other),
        "webp": b"RIFF\x20\0\0\0WEBPVP8L\x14\0\0\0/\xff\xff\xff\x0f" + bytes(15),
    }
    suffix = rng.choice(list(data))
    (root / "videos" / BAD / f"00001.{suffix}").write_bytes(data[suffix])
    others = [p for video in ("1", "3") for p in _frames(root, video)]
    for path in others:
        Image.open(path).save(path.with_suffix(f".{suffix}"))
        path.unlink()
    return Case((f"00001.{suffix}", f"videos/{BAD}"), "not load")


def _huge_png(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = zlib.compress(bytes(3 * width + 1) * min(height, 200), 9)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _huge_jpeg(width: int, height: int) -> bytes:
    import io

    file = io.BytesIO()
    Image.fromarray(picture("1", 1)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


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
        ("missing frame", "missing last", "empty folder", "no folder", "folder is a file", "frame is a folder",
         "fifo", "endless", "loop", "dangling", "link out", "other size", "other digits", "strange names",
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
        (folder / "٠٠٠٠٧.jpg").write_bytes(path.read_bytes())
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
        path.write_bytes((templates.folder / other.strip(".") / "videos" / f"{BAD}{other}").read_bytes())
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


# ------------------------------------------------------------------ label files

LISTS = ("v1", "v2", "tsm", "mmaction")


def _labelled(root: Path, templates: Templates, layout: str) -> list[Path]:
    """A data set of frames with label files of a kind; returns those files."""
    templates.copy("frames", root)
    if layout == "v1":
        return sorted(root.glob("*.csv"))
    for path in root.glob("*.csv"):
        path.unlink()
    if layout == "v2":
        _write_labels(root, "v2")
        return sorted(root.glob("*.json"))
    classes, lists = ("category.txt", "{}_videofolder.txt") if layout == "tsm" else (
        "label_map.txt", "sthv1_{}_list_rawframes.txt")  # fmt: skip
    (root / classes).write_text("\n".join(CLASSES))
    for split, word in (("train", "train"), ("validation", "val")):
        lines = [f"{video} {FRAMES} {label}\n" for video, label in SPLITS[split].items()]
        (root / lists.format(word)).write_text("".join(lines))
    return sorted(root.glob("*.txt"))


def _option(layout: str) -> str:
    return layout if layout in ("tsm", "mmaction") else "auto"


def _label_damage(layout: str, damage) -> None:
    @kind(f"label file {layout} {damage.__name__}", 3)
    def make(rng: random.Random, root: Path, templates: Templates) -> Case:
        path = rng.choice(_labelled(root, templates, layout))
        data = path.read_bytes()
        damaged = damage(rng, data)
        path.write_bytes(damaged)
        names = (path.name, "something-something", "label", "category", "videos")
        return Case(names, "load" if damaged == data else "change", _option(layout))


for _layout in LISTS:
    for _bytes in BYTES:
        _label_damage(_layout, _bytes)

#: Ids that name nothing below the data set's folder, or nothing that a file system can hold.
WRONG_IDS = (
    "..", "../2", "../../secret", "2/../../../secret", "/etc/passwd", "/", ".", "", " ", "a\0b", "..\\2",
    "C:\\2", "C:2", "\\\\host\\share", "2/..", "x" * 300, "x/" * 3000, "²", "٢", "9" * 5000, "a\nb", "\x1b[2J",
    "~/x", "~root", "%2e%2e/2", "\u202e2", "-rf", "*", "con", "$(touch code-was-run)", "file:///etc/passwd",
    "http://127.0.0.1/2", "concat:1|2", "\ud800",
)  # fmt: skip


@kind("label file with a wrong id", 8)
def _(rng, root, templates):
    layout = rng.choice(LISTS)
    files = _labelled(root, templates, layout)
    name = rng.choice(WRONG_IDS)
    secret = root.parent / "secret"
    shutil.copytree(root / "videos" / BAD, secret)
    path = next(p for p in files if "train" in p.name)
    if layout == "v2":
        entries = json.loads(path.read_text())
        entries[1]["id"] = name
        write_json(path, entries)
    else:
        lines = {"v1": f"{name};{CLASSES[1]}", "tsm": f"{name} 6 1", "mmaction": f"{name} 6 1"}
        text = path.read_text().splitlines()[0] + "\n" + lines[layout] + "\n"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
    shown = (path.name, "videos", name[:20])
    return Case(shown, "not load", _option(layout))


GOOD_IDS = ("a b", " ä ö".strip(), "日本語", "é" * 60, "sub/dir/2", "a;b", "x.y.z", "'quoted'", '"', "100%", "#1",
            "a,b", "{0}", "%s", "🎥", "name.jpg")  # fmt: skip


@kind("label file with an odd id", 8)
def _(rng, root, templates):
    layout = rng.choice(LISTS)
    name = rng.choice([n for n in GOOD_IDS if layout != "v1" or ";" not in n])
    video = rng.random() < 0.3 and layout in ("v1", "v2")
    if video:
        templates.copy(".mp4", root)
        moved, target = root / f"videos/{BAD}.mp4", root / f"videos/{name}.mp4"
        for path in (*root.glob("*.csv"), *root.glob("*.json")):
            path.unlink()
    else:
        _labelled(root, templates, layout)
        moved, target = root / "videos" / BAD, root / "videos" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    moved.rename(target)
    videos = {"train": {"1": 0, name: 1}, "validation": {"3": 2}}
    if layout in ("v1", "v2"):
        _write_labels(root, layout, videos)
    else:
        path = next(p for p in root.glob("*train*"))
        path.write_text(f"1 {FRAMES} 0\n{name} {FRAMES} 1\n")
    return Case((), "load", _option(layout))


@kind("label file of wrong types", 12)
def _(rng, root, templates):
    files = _labelled(root, templates, "v2")
    path = rng.choice(files)
    content = json.loads(path.read_text())
    wrong = rng.choice(
        (None, True, 1.5, -1, 10**30, "", "x", [], {}, [[]], {"a": 1}, float("nan"), float("inf"), 2**63)
    )
    if path.name == "labels.json":
        key = rng.choice(list(content))
        where = rng.random()
        if where < 0.6:
            content[key] = wrong
        elif where < 0.8:
            content = wrong
        else:
            content = {rng.choice(("", "[]", " ")) if name == key else name: i for name, i in content.items()}
    else:
        where = rng.random()
        entry = rng.randrange(len(content))
        if where < 0.4:
            content[entry]["id"] = wrong
        elif where < 0.7:
            content[entry]["template"] = wrong
        elif where < 0.9:
            content[entry] = wrong
        else:
            content = wrong
    write_json(path, content)
    return Case((path.name, "videos", "labels.json"), "not load")


@kind("label file made by hand", 12)
def _(rng, root, templates):
    layout = rng.choice(LISTS)
    files = _labelled(root, templates, layout)
    path = rng.choice(files)
    text = path.read_text()
    may = "change"
    what = rng.choice(
        ("bom", "crlf", "blank", "utf-16", "latin", "twice", "deep", "long number", "long line", "folder",
         "fifo", "loop", "gone", "huge", "nul", "many")
    )  # fmt: skip
    if what in ("folder", "fifo", "loop", "gone"):
        path.unlink()
    if what in ("bom", "crlf", "blank"):
        marks = {"bom": "\ufeff" + text, "crlf": text.replace("\n", "\r\n"), "blank": "\n \n" + text + "\n\n"}
        path.write_bytes(marks[what].encode())
        may = "load"
    elif what == "utf-16":
        path.write_bytes(text.encode("utf-16"))
        may = "not load"
    elif what == "latin":
        path.write_bytes(text.encode() + "\xe9".encode("latin-1"))
        may = "not load"
    elif what == "twice":
        path.write_text(text + "\n" + text)
        may = "not load"
    elif what == "deep":
        path.write_text("[" * 100_000 if layout == "v2" else text + "[" * 100_000)
        may = "not load" if layout == "v2" else "change"
    elif what == "long number":
        number = "9" * 5000
        path.write_text(text.replace("1", number, 1) if rng.random() < 0.5 else text + number)
    elif what == "long line":
        path.write_text(text + "x" * 5_000_000)
        may = "not load" if layout == "v2" else "change"
    elif what == "folder":
        path.mkdir()
        may = "not load"
    elif what == "fifo":
        os.mkfifo(path)
        may = "not load"
    elif what == "loop":
        path.symlink_to(path.name)
        may = "not load"
    elif what == "gone":
        may = "not load"
    elif what == "huge":
        with open(path, "wb") as file:
            file.truncate(1 << 40)
        may = "not load"
    elif what == "nul":
        path.write_text(text.replace("1", "1\0", 1) if "1" in text else "\0" + text)
    elif what == "many":
        path.write_text(text + "\n".join(f"{i};nothing 1 1" for i in range(20_000)))
        may = "not load" if "label_map" not in path.name else "change"
    return Case(tuple(p.name for p in files) + ("label", "list of", "root", "videos"), may, _option(layout))
