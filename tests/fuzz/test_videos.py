"""Damaged frames and videos: the data loads as if nothing was wrong, or a message names the file.

Where bytes inside an image or a video are changed it may also load with other pixels: nothing in these
files tells.
"""

import shutil
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from helpers.damaged_data import BAD, FRAMES, LAYOUTS, SIZE, VIDEO_FORMATS, Case
from helpers.fuzz import SPECIAL, damage, examples, put, remove
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from rstg_pyg.train.data.sources import video_file

pytestmark = [pytest.mark.slow, pytest.mark.nightly]


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
        patch.setattr(video_file, "PATIENCE", 1.0)
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
