"""Damaged data sets: each loads as if nothing was wrong, or ends with a message that names the file.

Where bytes inside an image or a video are changed it may also load with other pixels: nothing in these
files tells.
"""

import json
import shutil
import struct
import tempfile
import zlib
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from helpers.fuzz import SPECIAL, damage, examples, put, remove, within
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from rstg_pyg.train.build import build_dataset
from rstg_pyg.train.config import parse_config
from rstg_pyg.train.data.sources import videos as video_files
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.prepare import main as prepare

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

CLASSES = ["Moving something up", "Pulling something from left to right", "Turning something"]
#: Videos per split with their classes; the one that is damaged is ``BAD``.
SPLITS = {"train": {"1": 0, "2": 1}, "validation": {"3": 2}}
BAD, FRAMES, SIZE = "2", 6, (20, 26)
VIDEO_FORMATS = {
    ".webm": "libvpx-vp9", ".mp4": "libx264", ".avi": "mpeg4", ".mkv": "libvpx", ".mov": "mjpeg",
    ".mpg": "mpeg2video", ".gif": "gif",
}  # fmt: skip
LAYOUTS = ("frames", "png", *VIDEO_FORMATS)
LISTS = ("v1", "v2", "tsm", "mmaction")


def write_labels(root, kind, splits=SPLITS):
    """The label files of a kind, the only ones there; returns them."""
    for path in root.iterdir():
        if path.suffix in (".csv", ".json", ".txt"):
            path.unlink()
    names = {
        "v1": ("something-something-v1-labels.csv", "something-something-v1-{}.csv"),
        "v2": ("labels.json", "{}.json"),
        "tsm": ("category.txt", "{}_videofolder.txt"),
        "mmaction": ("label_map.txt", "sthv1_{}_list_rawframes.txt"),
    }[kind]
    classes = {name: str(i) for i, name in enumerate(CLASSES)}
    (root / names[0]).write_text(json.dumps(classes) if kind == "v2" else "\n".join(CLASSES) + "\n")
    for split, videos in splits.items():
        word = split[:3] if kind in ("tsm", "mmaction") and split == "validation" else split
        rows = [{"id": video, "template": CLASSES[label]} for video, label in videos.items()]
        lines = {"v1": "{};{}\n", "v2": "", "tsm": "{} 6 {}\n", "mmaction": "{} 6 {}\n"}[kind]
        values = [(v, CLASSES[label] if kind == "v1" else label) for v, label in videos.items()]
        text = json.dumps(rows) if kind == "v2" else "".join(lines.format(*value) for value in values)
        (root / names[1].format(word)).write_bytes(text.encode("utf-8", "surrogatepass"))
    return sorted(path for path in root.iterdir() if path.suffix in (".csv", ".json", ".txt"))


def write_video(folder, video, layout):
    """Six frames that tell video and number."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    pictures = []
    for frame in range(FRAMES):
        red, green = np.full(SIZE, 60 * int(video)), np.full(SIZE, 30 * frame)
        pictures.append(np.stack([red, green, (9 * x + 3 * y) % 256], -1).astype(np.uint8))
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
        stream.pix_fmt = {".gif": "rgb8", ".mov": "yuvj420p"}.get(layout, "yuv420p")
        if layout in (".webm", ".mkv"):
            stream.options = {"cpu-used": "8", "deadline": "realtime"}
        for pixels in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def read(root, annotations="auto"):
    """All frames of all videos, and clips as training and evaluation have them."""
    data = {
        "dataset": "something", "root": str(root), "annotations": annotations, "num_frames": 4,
        "short_side": 24, "crop_size": 16, "brightness": 0.0, "protocol": "full3x2",
    }  # fmt: skip
    model = {"backbone": {"filters": [4], "padding": 1}, "rstg": {"scales": [1]}}
    config, found = parse_config({"name": "x", "data": data, "model": model}, "x.yaml"), {}
    for split in ("train", "val", "test"):
        dataset = build_dataset(config, split)
        for item, video in enumerate(dataset.ids):
            clip, label = dataset[item]
            about = torch.tensor([label, len(dataset.label_names)])
            found[f"{split} {item}"] = [about, clip, *dataset.source.frames(video)]
    return found


class Whole(dict):
    """Data sets that nothing is wrong with, and what is read of them: ``{layout: (folder, found)}``."""

    def __repr__(self):
        return "Whole()"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    place, out = tmp_path_factory.mktemp("whole"), Whole()
    for layout in LAYOUTS:
        root = place / layout.strip(".")
        for video in ("1", "2", "3"):
            write_video(root / "videos", video, layout)
        write_labels(root, "v2" if layout == ".webm" else "v1")
        out[layout] = root, read(root)
    return out


class Case:
    """A copy of a data set, which something is done to.

    Args:
        whole: The data sets that nothing is wrong with.
        layout: Which of them.
    """

    def __init__(self, whole, layout):
        self.template, self.wanted = whole[layout]
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name) / "data"
        shutil.copytree(self.template, self.root)
        self.videos = self.root / "videos"
        images = layout in ("frames", "png")
        self.frames = sorted((self.videos / BAD).iterdir()) if images else []
        self.bad = self.videos / BAD if images else self.videos / f"{BAD}{layout}"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.folder.cleanup()

    def ends(self, may, *names, annotations="auto"):
        """Reads the data and judges.

        Args:
            may: ``load`` (as if nothing was wrong), ``same`` (that, or be refused), ``change`` (also
                load as something else), ``not load``.
            names: What a message must name, one of them.
            annotations: The kind of the label files.
        """
        try:
            with within(60):
                prepare(["check", "--root", str(self.root), "--deep", "--workers", "1"])
                found = read(self.root, annotations)
        except UserError as error:
            message = str(error)
            assert may != "load", f"refused: {message}"
            message.encode()
            assert len(message) <= 3000 and message.count("\n") <= 3 and "Traceback" not in message
            assert any(name in message for name in names), f"{names} not in {message}"
            return
        finally:
            assert not (self.root.parent / "code-was-run").exists()
        assert may != "not load", "loaded as if nothing was wrong"
        same = len(found) == len(self.wanted) and all(
            len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))
            for a, b in zip(found.values(), self.wanted.values())
        )
        assert same or may == "change", "loaded as something else"


@examples(40)
@given(st.sampled_from(LAYOUTS), st.integers(0, FRAMES - 1), damage())
def test_bytes_of_frames_and_videos(whole, layout, frame, done):
    kind, apply = done
    with Case(whole, layout) as case:
        path = case.frames[frame] if case.frames else case.bad
        data = path.read_bytes()
        path.write_bytes(apply(data))
        sure = kind.startswith("cut") or kind == "replace"
        case.ends("load" if apply(data) == data else "same" if sure else "change", path.name)


@pytest.fixture(scope="module")
def impatient():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video_files, "PATIENCE", 1.0)
        yield


@examples(16)
@given(st.sampled_from(LAYOUTS), st.integers(0, FRAMES - 1), st.sampled_from(list(SPECIAL)))
@example("frames", FRAMES - 1, "missing")
def test_what_is_no_file(impatient, whole, layout, frame, kind):
    with Case(whole, layout) as case:
        path = case.frames[frame] if case.frames else case.bad
        remove(path)
        SPECIAL[kind](path)
        last = case.frames and frame == FRAMES - 1 and kind == "missing"
        case.ends("change" if last else "not load", path.name, str(case.bad))  # or a shorter video


def test_links_are_followed(whole):
    for layout in ("frames", ".mp4"):
        with Case(whole, layout) as case:
            path = case.frames[2] if case.frames else case.bad
            path.rename(case.root.parent / "elsewhere")
            path.symlink_to(case.root.parent / "elsewhere")
            case.ends("load")


def test_frame_folders(whole):
    with Case(whole, "frames") as case:  # names that are none of a frame
        for name in (".DS_Store", "a b.jpg", "é.jpg", "..jpg", "x" * 200 + ".jpg", "9" * 200 + ".png",
                     "n\new.jpg", "\u0660\u0660\u0660\u0660\u0667.jpg", "0000²0.jpg"):  # fmt: skip
            (case.bad / name).write_bytes(b"x")
        open(bytes(case.bad) + b"/\xff\xfe.jpg", "wb").close()
        case.ends("load")
        case.frames[2].unlink()
        case.ends("not load", BAD)
    for content in (None, b"", b"x"):
        with Case(whole, "frames") as case:
            remove(case.bad)
            if content is None:
                case.bad.mkdir()
            elif content:
                case.bad.write_bytes(content)
            case.ends("not load", BAD)
    with Case(whole, "frames") as case:
        Image.new("RGB", (31, 20)).save(case.frames[1])
        case.ends("not load", BAD)


def huge(suffix, width, height):
    """An image of a few bytes that says that it has so many pixels."""
    if suffix == "png":
        head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        rows = zlib.compress(bytes(3 * width + 1) * min(height, 200), 9)
        chunks = [(b"IHDR", head), (b"IDAT", rows), (b"IEND", b"")]
        data = b"\x89PNG\r\n\x1a\n"
        for name, body in chunks:
            crc = struct.pack(">I", zlib.crc32(name + body))
            data += struct.pack(">I", len(body)) + name + body + crc
        return data
    if suffix == "jpg":
        file = BytesIO()
        Image.new("RGB", (26, 20)).save(file, "JPEG")
        data = bytearray(file.getvalue())
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", height, width)
        return bytes(data)
    if suffix == "bmp":
        head = struct.pack("<IIIIiiHHI", 90, 0, 54, 40, width, height, 1, 24, 0)
        return b"BM" + head + bytes(40)
    return b"RIFF\x20\0\0\0WEBPVP8L\x14\0\0\0/\xff\xff\xff\x0f" + bytes(15)


@examples(6)
@given(
    st.sampled_from(["png", "jpg", "bmp", "webp"]),
    st.sampled_from([(65_000, 65_000), (16_000, 16_000), (65_535, 3), (12_000, 12_000)]),
)
def test_images_that_say_they_are_huge(whole, suffix, size):
    with Case(whole, "png") as case:
        for path in case.videos.rglob("*.png"):
            if path.parent != case.bad:
                Image.open(path).save(path.with_suffix(f".{suffix}"))
            if path.parent == case.bad or suffix != "png":
                path.unlink()
        put(case.bad / f"00001.{suffix}", huge(suffix, *size))
        case.ends("not load", f"00001.{suffix}", f"videos/{BAD}")


@examples(5)
@given(
    st.sampled_from([".gif", ".avi", ".mov", ".mp4", ".webm"]), st.sampled_from([30_000, 65_000])
)  # fmt: skip
def test_videos_that_say_they_are_huge(whole, layout, side):
    with Case(whole, layout) as case:
        (height, width), data = SIZE, case.bad.read_bytes()
        order = {".gif": "<HH", ".avi": "<II", ".mov": ">HH", ".mp4": ">HH"}.get(layout)
        if order is None:
            data = data.replace(b"\xb0\x81" + bytes([width]), b"\xb0\x81\xff")
        else:
            data = data.replace(struct.pack(order, width, height), struct.pack(order, side, side))
        case.bad.write_bytes(data)
        case.ends("change", case.bad.name)


def test_images_of_other_modes_and_sizes(whole):
    kinds = dict.fromkeys(("1", "L", "LA", "P", "RGBA", "CMYK", "TIFF", "GIF", (1, 1), (1, 9)), True)
    kinds |= dict.fromkeys(("I;16", "F", (1, 5000), (3000, 2)), False)
    for kind, loads in kinds.items():
        with Case(whole, "png") as case:
            for path in case.frames:
                image = Image.new("RGB", kind if isinstance(kind, tuple) else SIZE[::-1], (9, 99, 199))
                if kind == "I;16":
                    image = Image.fromarray(np.full(SIZE, 30_000, np.uint16))
                elif kind == "F":
                    image = Image.new("F", SIZE[::-1])
                elif isinstance(kind, str) and kind not in ("TIFF", "GIF"):
                    image = image.convert(kind)
                other = "GIF" if kind == "GIF" else "TIFF" if kind in ("F", "CMYK", "TIFF") else "PNG"
                image.save(path, format=other)
            case.ends("change" if loads else "not load", BAD)


@examples(6)
@given(st.sampled_from(list(VIDEO_FORMATS)), st.sampled_from(["HLS", "ffconcat", *VIDEO_FORMATS]))
@example(".mp4", "ffconcat")
def test_videos_that_are_something_else(whole, layout, kind):
    with Case(whole, layout) as case:
        secret = case.root.parent / f"secret{layout}"
        case.bad.rename(secret)
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n"
        if kind == "HLS":  # another video must not be read in the place of this one
            case.bad.write_text(playlist)
        elif kind == "ffconcat":
            case.bad.write_text(f"ffconcat version 1.0\nfile '1{layout}'\n")
        else:
            shutil.copy(whole[kind][0] / "videos" / f"{BAD}{kind}", case.bad)
        case.ends("change" if kind in VIDEO_FORMATS else "not load", case.bad.name)


#: Ids that name nothing below the data set's folder, or nothing that a file system can hold.
WRONG_IDS = (
    "..", "../2", "../../secret", "2/../../../secret", "/etc/passwd", "/", ".", "", " ", "a\0b",
    "..\\2", "C:\\2", "C:2", "\\\\host\\share", "2/..", "x" * 300, "x/" * 3000, "²", "٢", "9" * 5000,
    "a\nb", "\x1b[2J", "~/x", "~root", "%2e%2e/2", "\u202e2", "-rf", "*", "con",
    "$(touch code-was-run)", "file:///etc/passwd", "http://127.0.0.1/2", "concat:1|2", "\ud800",
)  # fmt: skip
GOOD_IDS = ("a b", "ä ö", "日本語", "é" * 60, "sub/dir/2", "x.y.z", "'quoted'", '"', "100%", "#1",
            "a,b", "{0}", "%s", "🎥", "name.jpg")  # fmt: skip


@examples(16)
@given(st.sampled_from(LISTS), st.sampled_from(WRONG_IDS))
def test_wrong_ids(whole, kind, name):
    with Case(whole, "frames") as case:
        shutil.copytree(case.bad, case.root.parent / "secret")
        write_labels(case.root, kind, {**SPLITS, "train": {"1": 0, name: 1}})
        case.ends("not load", "train", "videos", name[:20], annotations=option(kind))


@examples(12)
@given(st.sampled_from(LISTS), st.sampled_from(GOOD_IDS), st.sampled_from(["frames", ".mp4"]))
def test_odd_ids(whole, kind, name, layout):
    layout = "frames" if kind in ("tsm", "mmaction") else layout
    with Case(whole, layout) as case:
        target = case.videos / (name if layout == "frames" else f"{name}{layout}")
        target.parent.mkdir(parents=True, exist_ok=True)
        case.bad.rename(target)
        write_labels(case.root, kind, {**SPLITS, "train": {"1": 0, name: 1}})
        case.ends("load", annotations=option(kind))


def option(kind):
    return kind if kind in ("tsm", "mmaction") else "auto"


@examples(24)
@given(st.sampled_from(LISTS), st.integers(0, 2), damage() | st.sampled_from(list(SPECIAL)))
def test_label_files(whole, kind, which, done):
    with Case(whole, "frames") as case:
        path = write_labels(case.root, kind)[which]
        names = (path.name, "something-something", "label", "category", "videos", "list of")
        data = path.read_bytes()
        if isinstance(done, str):
            remove(path)
            SPECIAL[done](path)
            case.ends("not load", *names, annotations=option(kind))
        else:
            path.write_bytes(done[1](data))
            case.ends("load" if done[1](data) == data else "change", *names, annotations=option(kind))


WRONG = (None, True, 1.5, -1, 10**30, "", "x", [], {}, [[]], {"a": 1}, float("nan"), 2**63)


@examples(16)
@given(
    st.sampled_from(["labels", "train", "validation"]),
    st.sampled_from(WRONG),
    st.sampled_from(["id", "template", "entry", "all"]),
)
def test_label_values_of_other_types(whole, name, wrong, place):
    with Case(whole, "frames") as case:
        write_labels(case.root, "v2")
        path = case.root / f"{name}.json"
        content = json.loads(path.read_text())
        if place == "all":
            content = wrong
        elif name == "labels":
            content[CLASSES[1]] = wrong
        elif place == "entry":
            content[-1] = wrong
        else:
            content[-1][place] = wrong
        path.write_text(json.dumps(content))
        case.ends("not load", path.name, "videos", "labels.json")


BY_HAND = {
    "a mark at the beginning": (lambda text: b"\xef\xbb\xbf" + text, "load"),
    "line ends of Windows": (lambda text: text.replace(b"\n", b"\r\n"), "load"),
    "blank lines": (lambda text: b"\n \n" + text + b"\n\n", "load"),
    "UTF-16": (lambda text: text.decode().encode("utf-16"), "not load"),
    "Latin-1": (lambda text: text + b"\xe9", "not load"),
    "everything twice": (lambda text: text + b"\n" + text, "not load"),
    "deep brackets": (lambda text: b"[" * 100_000 + text, "not load"),
    "a long number": (lambda text: text + b"9" * 5000, "change"),
    "a zero byte": (lambda text: b"\0" + text, "not load"),
    "many lines": (lambda text: text + b"\n".join(b"%d;no 1 1" % i for i in range(9000)), "change"),
}


@examples(24)
@given(st.sampled_from(LISTS), st.integers(0, 2), st.sampled_from(list(BY_HAND)))
def test_label_files_made_by_hand(whole, kind, which, what):
    change, may = BY_HAND[what]
    with Case(whole, "frames") as case:
        files = write_labels(case.root, kind)
        files[which].write_bytes(change(files[which].read_bytes()))
        if what == "deep brackets" and kind != "v2":
            may = "change"
        case.ends(may, *(path.name for path in files), "label", "videos", annotations=option(kind))
