"""What the bytes of a video file say: how long it must be, and where decoding can start."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import av
from av.bitstream import BitStreamFilterContext

#: FFmpeg's names of the formats that are read. Others (playlists, scripts) could make FFmpeg read other
#: files.
FORMATS = (
    "matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,avi,gif,mpeg,mpegvideo,mpegts,asf,asf_o,flv,ogg,ivf,m4v,h264,"
    "hevc,obu,mjpeg,yuv4mpegpipe,apng,nut,mxf,dv,rm"
)

_BOXES = (b"mdat", b"moov", b"moof")  # the parts of an mp4 that hold something
#: The units of a packet that only key frames have: IDR, IRAP, a sequence header.
_KEY_UNITS = {"h264": "5", "hevc": "16-21", "av1": "1"}
_UNKNOWN = [(1 << 7 * length) - 1 for length in range(1, 9)]  # a size of all ones, per length


def missing_bytes(path: Path) -> int | None:
    """The number of bytes missing at the end of a video file, as its header says.

    An incomplete download is shorter.

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
    """A size in EBML: zero bits (one per byte that follows), a one bit, and the number."""
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


def key_test(stream: av.VideoStream) -> Callable[[av.Packet], bool]:
    """A function that tells from a packet's bytes whether decoding can start there.

    Some files mark all packets as key frames, or the first of several that make up a picture (intra
    refresh). The function consumes the packet. It is false for codecs other than H.264, HEVC, AV1,
    VP8, VP9 and MJPEG.
    """
    codec = stream.codec_context.codec.canonical_name
    only = f"filter_units=pass_types={_KEY_UNITS.get(codec)}"

    def is_key(packet: av.Packet) -> bool:
        if codec in _KEY_UNITS:
            try:
                return any(unit.size for unit in BitStreamFilterContext(only, stream).filter(packet))
            except av.error.FFmpegError:
                return False
        first = bytes(packet)[0]
        if codec == "vp8":
            return not first & 1
        if codec == "vp9":
            shift = 1 if first & 0x30 == 0x30 else 2  # profile 3 has one bit more before these two
            return first >> shift & 3 == 0  # neither shows an earlier frame nor depends on one
        return codec == "mjpeg"

    return is_key
