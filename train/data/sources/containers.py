"""What the bytes of a video's file tell: how long it must be, and where decoding can begin."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import BinaryIO

#: FFmpeg's names of the formats that are read. Others (playlists, scripts) could have files read that
#: nobody named.
FORMATS = (
    "matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,avi,gif,mpeg,mpegvideo,mpegts,asf,asf_o,flv,ogg,ivf,m4v,h264,"
    "hevc,obu,mjpeg,yuv4mpegpipe,apng,nut,mxf,dv,rm"
)

_BOXES = (b"mdat", b"moov", b"moof")  # the parts of an mp4 that hold something
_UNKNOWN = [(1 << 7 * length) - 1 for length in range(1, 9)]  # a size of all ones, per length


def missing_bytes(path: Path) -> int | None:
    """How many bytes are missing at the end of a video's file: a download that broke off is shorter
    than it says itself.

    WebM and Matroska give the size of their segment, MP4 and MOV those of their boxes, AVI and WebP
    that of their RIFF chunk; a GIF ends with a semicolon. Of other formats nothing is known: ``None``.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(12)
        file.seek(0)
        if start[:4] == b"\x1a\x45\xdf\xa3":
            end = _segment_end(file)
        elif start[4:8] in (b"ftyp", *_BOXES, b"wide", b"free", b"skip"):
            end = _boxes_end(file, size)
        elif start[:4] == b"RIFF" and start[8:] in (b"AVI ", b"WEBP"):
            end = 8 + struct.unpack("<I", start[4:8])[0]
        elif start[:4] == b"GIF8":
            file.seek(max(0, size - 1024))
            end = size if file.read().rstrip(b"\0").endswith(b";") else size + 1
        else:
            return None
    return max(0, end - size)


def _segment_end(file: BinaryIO) -> int:
    """Where the segment of a Matroska file ends; 0 if it does not say."""
    file.seek(4)
    header = _size(file)
    if header is None:
        return 0
    file.seek(header, os.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return 0
    segment = _size(file)
    return 0 if segment is None else file.tell() + segment


def _size(file: BinaryIO) -> int | None:
    """A size of EBML: as many zero bits as bytes follow, a one, and the number."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    number = int.from_bytes(first + file.read(more), "big") & ((1 << 7 * (more + 1)) - 1)
    return None if number == _UNKNOWN[more] else number


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Where the last box of an MP4 that holds something ends."""
    end = at = 0
    while at + 8 <= size:
        file.seek(at)
        length, name = struct.unpack(">I4s", file.read(8))
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        if length < 8:  # 0: up to the file's end
            break
        at += length
        if name in _BOXES:
            end = at
    return end


def is_key(codec: str, header: bytes, data: bytes) -> bool:
    """Whether decoding can begin at a packet, from the packet's own bytes: some files mark all packets
    as key frames, or such as are only the first of several that make up a picture (intra refresh).

    Args:
        codec: FFmpeg's name of the codec.
        header: The codec's extra data.
        data: The packet. Of a codec that is not known here nothing is: false.
    """
    if not data:
        return False
    if codec == "h264":
        return any(unit & 31 == 5 for unit in _units(header, data, 4))  # IDR
    if codec == "hevc":
        return any(16 <= unit >> 1 & 63 <= 21 for unit in _units(header, data, 21))  # IRAP
    if codec == "vp8":
        return not data[0] & 1
    if codec == "vp9":
        shift = 1 if data[0] & 0x30 == 0x30 else 2  # profile 3 has one bit more before these two
        return data[0] >> shift & 3 == 0  # neither shows an earlier frame nor depends on one
    if codec == "av1":
        return 1 in _open_bitstream_units(data)  # a sequence header
    return codec == "mjpeg"


def _units(header: bytes, data: bytes, place: int) -> list[int]:
    """The first bytes of a packet's NAL units; ``place`` is where the header has their sizes' width."""
    if header[:1] != b"\x01":  # start codes, as in transport streams
        return [match[1][0] for match in re.finditer(rb"\x00\x00\x01(.)", data, re.DOTALL)]
    width, found, at = (header[place] & 3) + 1, [], 0
    while at + width < len(data):
        found.append(data[at + width])
        at += width + int.from_bytes(data[at : at + width], "big")
    return found


def _open_bitstream_units(data: bytes) -> list[int]:
    """The kinds of a packet's units in AV1."""
    found, at = [], 0
    while at < len(data):
        head = data[at]
        found.append(head >> 3 & 15)
        at += 2 if head & 4 else 1
        if not head & 2:  # no size: up to the end
            break
        size = shift = 0
        while at < len(data):
            byte = data[at]
            size, shift, at = size | (byte & 127) << shift, shift + 7, at + 1
            if byte < 128:
                break
        at += size
    return found
