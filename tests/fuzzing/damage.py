"""Damage to the bytes of a file."""

from __future__ import annotations

import io
import random
import struct
import zlib

from PIL import Image


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


def huge_png(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = zlib.compress(bytes(3 * width + 1) * min(height, 200), 9)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def huge_jpeg(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (26, 20)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)
