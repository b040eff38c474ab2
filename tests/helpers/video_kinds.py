"""Makes small videos of every kind, with PyAV and Pillow, and compares what is read of them.

``python tests/helpers/video_kinds.py --files 300`` prints how many of each kind are read right.

``KINDS`` has a function for each kind: it writes a video into a folder with numbers from a generator
and returns its path. What is in a frame depends on its number, so that no two frames are alike.
"""

from __future__ import annotations

import argparse
import struct
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageSequence

from rstg_pyg.train.data.sources import open_video
from rstg_pyg.train.errors import UserError

Rng = np.random.Generator


def picture(number: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """A blurred pattern that moves to the right, ``[H, W, 3]``."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 16, 3), dtype=np.uint8)
    image = Image.fromarray(np.roll(small, number, axis=1)).resize((width, height), Image.BICUBIC)
    pixels = np.array(image)
    pixels[:8, : 8 * (number % (width // 8) + 1)] = 255 - (3 * number) % 200
    return pixels


def write(path: Path, codec: str, count: int = 30, rate: int = 25, **settings) -> Path:
    """A video of so many frames.

    Args:
        path: Where, the suffix names the container.
        codec: The encoder.
        count: Frames.
        rate: Frames per second.
        settings: ``options`` of the encoder, ``size`` (height, width), ``pix_fmt``, ``bit_rate``,
            ``times`` in multiples of the frame's duration, ``aspect`` of the pixels, ``audio`` to have
            a second stream, ``pixels`` as a function of the frame's number.
    """
    size = settings.get("size", (48, 64))
    pixels = settings.get("pixels", lambda number: picture(number, *size, settings.get("seed", 0)))
    with av.open(str(path), "w", format=settings.get("format")) as container:
        stream = container.add_stream(codec, rate=rate, options=settings.get("options", {}))
        stream.height, stream.width = size
        stream.pix_fmt = settings.get("pix_fmt", "yuv420p")
        stream.bit_rate = settings.get("bit_rate", 400_000)
        if "aspect" in settings:
            stream.codec_context.sample_aspect_ratio = settings["aspect"]
        if "times" in settings:
            stream.codec_context.time_base = Fraction(1, rate)
        sound = container.add_stream("aac", rate=8000, layout="mono") if "audio" in settings else None
        for number in range(count):
            kind = "rgba" if pixels(number).shape[2] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(pixels(number), format=kind)
            frame.pts = settings["times"][number] if "times" in settings else number
            frame.time_base = Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts = 8000, 0
            container.mux(sound.encode(silence))
            container.mux(sound.encode())
    return path


def copy(path: Path, to: Path, first: int, shift: int = 0) -> Path:
    """The packets of a video from the ``first`` on, without decoding, ``shift`` frames earlier: a cut
    that begins between key frames, or (with ``shift``) one with an edit list before its beginning.
    """
    with av.open(str(path)) as source, av.open(str(to), "w") as container:
        stream = source.streams.video[0]
        copied = container.add_stream_from_template(stream)
        step = int(1 / (stream.average_rate * stream.time_base))
        for packet in [p for p in source.demux(stream) if p.size][first:]:
            packet.pts, packet.dts = packet.pts - shift * step, packet.dts - shift * step
            packet.stream = copied
            container.mux(packet)
    return to


def patch(path: Path, old: bytes, new: bytes, last: bool = False) -> Path:
    """Replaces bytes of a file, which must be there."""
    data = path.read_bytes()
    assert len(old) == len(new) and old in data
    at = data.rindex(old) if last else data.index(old)
    path.write_bytes(data[:at] + new + data[at + len(old) :])
    return path


def display(path: Path, matrix: list[list[float]]) -> Path:
    """Gives an mp4's video a display matrix, ``[[a, b], [c, d]]``."""
    plain, (first, second) = np.diag([1 << 16, 1 << 16, 1 << 30]), matrix
    wanted = np.array([[*first, 0], [*second, 0], [0, 0, 1 << 14]]) * (1 << 16)
    # The track's matrix stands after the file's.
    return patch(path, plain.astype(">i4").tobytes(), wanted.round().astype(">i4").tobytes(), last=True)


def longer(path: Path, times: float) -> Path:
    """Lets a webm's header say that it is so many times as long."""
    at = path.read_bytes().index(b"\x44\x89\x88")
    seconds = struct.unpack(">d", path.read_bytes()[at + 3 : at + 11])[0]
    return patch(path, b"\x44\x89\x88" + struct.pack(">d", seconds),
                 b"\x44\x89\x88" + struct.pack(">d", times * seconds))  # fmt: skip


def webp(path: Path, count: int, durations: int | list[int] = 80, alpha: bool = False) -> Path:
    """An animated WebP."""
    images = [Image.fromarray(picture(number)) for number in range(count)]
    if alpha:
        for image in images:
            image.putalpha(Image.new("L", image.size, 128))
    images[0].save(
        path,
        save_all=True,
        append_images=images[1:],
        duration=durations,
        lossless=True,
        minimize_size=False,
    )
    return path


def _length(rng: Rng) -> int:
    return int(rng.integers(9, 61))


def _options(codec: str, rng: Rng) -> dict[str, str]:
    gap = str(int(rng.integers(4, 20)))
    if codec == "libx264":
        return {"preset": "ultrafast", "g": gap, "bf": str(int(rng.integers(0, 4)))}
    if codec == "libx265":
        return {"preset": "ultrafast", "x265-params": f"keyint={gap}:bframes=3:log-level=none"}
    if codec.startswith("libvpx"):
        return {"cpu-used": "8", "deadline": "realtime", "g": gap, "auto-alt-ref": "0"}
    if codec == "libsvtav1":
        return {"preset": "10", "svtav1-params": f"keyint={gap}"}
    return {"g": gap}


#: Codecs of each container.
CONTAINERS = {
    ".mp4": ("libx264", "libx265", "mpeg4", "libvpx-vp9", "libsvtav1"),
    ".mkv": ("libx264", "libx265", "libvpx", "libvpx-vp9", "mpeg2video", "mjpeg", "libsvtav1"),
    ".webm": ("libvpx", "libvpx-vp9", "libsvtav1"),
    ".mov": ("libx264", "mjpeg", "mpeg4"),
    ".avi": ("mpeg4", "mjpeg", "libx264"),
    ".ts": ("libx264", "mpeg2video", "libx265"),
    ".mpeg": ("mpeg2video", "mpeg1video"),
    ".flv": ("libx264", "flv"),
    ".wmv": ("wmv2", "msmpeg4"),
    ".3gp": ("libx264", "mpeg4"),
    ".ogv": ("libtheora",),
    ".nut": ("ffv1",),
    ".gif": ("gif",),
}
KINDS: dict[str, Callable[[Path, Rng], Path]] = {}

ORIENTATIONS = {  # EXIF's number: the display matrix, and what it does to pixels
    1: ([[1, 0], [0, 1]], lambda x: x),
    2: ([[-1, 0], [0, 1]], lambda x: x[:, ::-1]),
    3: ([[-1, 0], [0, -1]], lambda x: x[::-1, ::-1]),
    4: ([[1, 0], [0, -1]], lambda x: x[::-1]),
    5: ([[0, 1], [1, 0]], lambda x: x.swapaxes(0, 1)),
    6: ([[0, 1], [-1, 0]], lambda x: np.rot90(x, -1)),  # shown a quarter turn clockwise
    7: ([[0, -1], [-1, 0]], lambda x: np.rot90(x[::-1, ::-1].swapaxes(0, 1), 0)),
    8: ([[0, -1], [1, 0]], lambda x: np.rot90(x, 1)),
}


def _plain(suffix: str, codec: str) -> Callable[[Path, Rng], Path]:
    pix_fmt = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")

    def make(folder: Path, rng: Rng) -> Path:
        count, seed = _length(rng), int(rng.integers(1000))
        size = (64, 96) if codec == "libsvtav1" else (48, 64)
        settings = dict(pix_fmt=pix_fmt, options=_options(codec, rng), seed=seed, size=size)
        return write(folder / f"plain{suffix}", codec, count, **settings)

    return make


for _suffix, _codecs in CONTAINERS.items():
    for _codec in _codecs:
        if _codec in av.codecs_available:
            KINDS[f"{_suffix[1:]}, {_codec}"] = _plain(_suffix, _codec)


def kind(function: Callable[[Path, Rng], Path]) -> Callable[[Path, Rng], Path]:
    """Adds a kind."""
    KINDS[function.__doc__.strip(".")] = function
    return function


@kind
def _edit_list(folder: Path, rng: Rng) -> Path:
    """cut without re-encoding, edit list."""
    options = {"preset": "ultrafast", "g": "12", "bf": "2", "sc_threshold": "0"}
    whole = write(folder / "whole.mp4", "libx264", 60, options=options)
    return copy(whole, folder / "cut.mp4", first=12, shift=int(rng.integers(15, 23)))


@kind
def _between_keys(folder: Path, rng: Rng) -> Path:
    """begins between key frames."""
    options = {"preset": "ultrafast", "g": "15", "bf": "0", "sc_threshold": "0"}
    suffix = rng.choice([".mp4", ".mkv", ".ts"])
    whole = write(folder / f"whole{suffix}", "libx264", 45, options=options)
    return copy(whole, folder / f"part{suffix}", first=int(rng.integers(1, 14)))


@kind
def _all_sync(folder: Path, rng: Rng) -> Path:
    """mp4, all samples marked as key frames."""
    codec = str(rng.choice(["libx264", "libx265", "mpeg4", "libvpx-vp9"]))
    path = write(folder / "nostss.mp4", codec, _length(rng), options=_options(codec, rng))
    patch(path, b"stss", b"free")
    if rng.random() < 0.5 and b"ctts" in path.read_bytes():
        patch(path, b"ctts", b"free")
    return path


@kind
def _intra_refresh(folder: Path, rng: Rng) -> Path:
    """intra refresh."""
    options = {"preset": "ultrafast", "intra-refresh": "1", "g": "12", "bf": "0"}
    return write(
        folder / f"refresh{rng.choice(['.mp4', '.mkv', '.ts'])}", "libx264", 50, options=options
    )


@kind
def _open_groups(folder: Path, rng: Rng) -> Path:
    """open groups of pictures."""
    options = {"preset": "ultrafast", "x264-params": "open-gop=1:keyint=10:bframes=3:scenecut=0"}
    return write(folder / f"open{rng.choice(['.mp4', '.mkv', '.ts'])}", "libx264", 50, options=options)


@kind
def _joined(folder: Path, rng: Rng) -> Path:
    """joined transport streams."""
    options = {"preset": "ultrafast", "g": "10"}
    parts = [write(folder / f"{i}.ts", "libx264", _length(rng), options=options) for i in range(2)]
    path = folder / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@kind
def _held(folder: Path, rng: Rng) -> Path:
    """last frame held, header longer."""
    path = write(folder / "held.webm", "libvpx-vp9", 25, options=_options("libvpx-vp9", rng))
    return longer(path, 5)


@kind
def _varying(folder: Path, rng: Rng) -> Path:
    """variable frame rate."""
    count = _length(rng)
    times = np.cumsum(rng.choice([1, 1, 2, 9], count)).tolist()
    options = {"preset": "ultrafast", "g": "8"}
    path = folder / f"vfr{rng.choice(['.mp4', '.mkv'])}"
    return write(path, "libx264", count, times=times, options=options)


@kind
def _cover(folder: Path, rng: Rng) -> Path:
    """the first video stream is a cover."""
    path = folder / "cover.mkv"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=25)
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "g": "10"})
        if rng.random() < 0.5:  # FFmpeg prefers streams that are marked so
            cover.disposition = av.stream.Disposition.default
        for each, pix_fmt in ((cover, "yuvj420p"), (stream, "yuv420p")):
            each.height, each.width, each.pix_fmt = 48, 64, pix_fmt
        container.mux(cover.encode(av.VideoFrame.from_ndarray(255 - picture(0), format="rgb24")))
        for number in range(_length(rng)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode())
        container.mux(cover.encode())
    return path


@kind
def _colon(folder: Path, rng: Rng) -> Path:
    """a colon in the name."""
    return write(folder / "12:30.mp4", "libx264", _length(rng), options={"preset": "ultrafast"})


@kind
def _turned(folder: Path, rng: Rng) -> Path:
    """turned or mirrored, up to 4 degrees off."""
    number, degrees = int(rng.integers(1, 9)), rng.integers(-4, 5)
    path = write(folder / f"turned-{number}.mp4", "libx264", 12, options={"preset": "ultrafast"})
    angle = np.radians(degrees)
    off = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return display(path, (np.array(ORIENTATIONS[number][0]) @ off).tolist())


@kind
def _animated_webp(folder: Path, rng: Rng) -> Path:
    """animated WebP."""
    return webp(folder / "a.webp", _length(rng))


def in_order(path: Path) -> list[np.ndarray]:
    """All frames as stored, with PyAV alone and without seeking; what does not decode is left out."""
    if path.suffix == ".webp":  # FFmpeg has no reader
        with Image.open(path) as image:
            return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    frames, reformatter = [], VideoReformatter()
    with av.open(f"file:{path}") as container:
        streams = container.streams.video
        for packet in container.demux(streams[1] if path.stem == "cover" else streams[0]):
            try:
                decoded = packet.decode()
            except av.error.InvalidDataError:
                continue
            frames += [reformatter.reformat(f, format="rgb24").to_ndarray() for f in decoded]
    return frames


def shown(path: Path) -> list[np.ndarray]:
    """All frames as a player shows them."""
    turn = ORIENTATIONS[int(path.stem[7:])][1] if path.stem.startswith("turned-") else lambda x: x
    return [turn(frame) for frame in in_order(path)]


def wrong(kind: str, seed: int, folder: Path, draws: int) -> str:
    """Makes a video and reads it in order, and at random places of a file that is opened anew; what is
    wrong with the frames, or nothing.
    """
    rng = np.random.default_rng(seed)
    path = KINDS[kind](folder, rng)
    wanted = shown(path)
    try:
        source, video = open_video(path)
        count, read = source.num_frames(video), list(source.frames(video))
        if not count == len(read) == len(wanted):
            return f"{count} and {len(read)} of {len(wanted)} frames"
        if not all(np.array_equal(a, b) for a, b in zip(read, wanted)):
            return "other pixels in order"
        for _ in range(draws):
            places = sorted({int(i) for i in rng.integers(0, len(wanted), rng.integers(1, 5))})
            source, video = open_video(path)
            found = list(source.frames(video, places))
            if [frame.numpy().tobytes() for frame in found] != [wanted[i].tobytes() for i in places]:
                return f"other pixels at {places}"
    except UserError as e:
        return f"refused: {e}"
    return ""


def main() -> None:
    """Prints a line for each kind."""
    parser = argparse.ArgumentParser(description="Read videos of every kind.")
    parser.add_argument("--files", type=int, default=300)
    files, results = parser.parse_args().files, {name: [] for name in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(files):
            (here := Path(folder, str(number))).mkdir()
            name = list(KINDS)[number % len(KINDS)]
            results[name].append(wrong(name, number, here, draws=10).replace(str(here), ""))
    for name, problems in results.items():
        bad = [problem for problem in problems if problem]
        example = f"; {bad[0]}" if bad else ""
        print(f"{name}: {len(problems) - len(bad)} of {len(problems)}{example}")
    right = sum(not problem for problems in results.values() for problem in problems)
    print(f"all: {right} of {files}")


if __name__ == "__main__":
    main()
