"""Our readers of videos against other libraries: the same clips, one thread, in turns."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rstg_pyg.train.benchmarking.cases import timed
from rstg_pyg.train.data.folder import VideoFolder
from rstg_pyg.train.data.packing import pack
from rstg_pyg.train.data.sampling import uniform
from rstg_pyg.train.data.transforms import center_crop, resize_short_side, short_side_size

_SIDE, _CROP = 256, 224

#: Videos: suffix, encoder with its options, bit rate, height, width, frames.
_VIDEOS: dict[str, tuple] = {
    "webm 240p": (".webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, 4e5, 240, 426, 48),
    "mp4 480p": (".mp4", "libx264", {"preset": "veryfast"}, 15e5, 480, 854, 300),
    "mp4 1080p": (".mp4", "libx264", {"preset": "veryfast"}, 8e6, 1080, 1920, 120),
}
_Reader = Callable[[Path, int], "Tensor | np.ndarray"]


def compare_readers(seconds: float, progress: Callable[[str], None]) -> dict[str, Any]:
    """Renders videos into a temporary folder and times clips of 8 and 32 frames that are spread over a
    video, resized to short side 256 and cropped to 224.

    Args:
        seconds: For each kind of data and length, about.
        progress: Called with what is measured.

    Returns:
        ``rows`` with ``data``, ``frames``, ``reader``, ``clips_per_second``, ``ms`` (median),
        ``spread`` (of the quartiles, relative) and ``difference`` (mean, of 255, from our pixels:
        others scale otherwise); ``compared``: the others' versions; and ``absent``: what was not, with
        the reason.
    """
    videos, images, versions, absent = _rivals()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for data in (*_VIDEOS, "JPEG folder", "packed store"):
            root = Path(folder, data)
            if data in _VIDEOS:
                rivals, paths = videos, _render(root, *_VIDEOS[data])
            elif data == "JPEG folder":
                rivals, paths = images, _render_images(root)
            else:  # the others read the folder that it was made from
                pack(Path(folder, "JPEG folder"), root, annotations="folder", short_side=_SIDE)
            for frames in (8, 32):
                progress(f"{data}, {frames} frames")
                ours = VideoFolder(
                    root, "train", "center1", num_frames=frames, short_side=_SIDE, val_fraction=0
                )
                turn, other = cycle(range(len(ours))), cycle(paths)  # the last one is kept in memory
                calls = {"rstg_pyg": lambda: ours[next(turn)][0]}  # noqa: B023
                calls |= {name: partial(_call, read, other, frames) for name, read in rivals.items()}
                clip = calls["rstg_pyg"]()
                by = {name: float((call() - clip.float()).abs().mean()) for name, call in calls.items()}
                for name, figures in zip(calls, timed(calls, 100, seconds, "cpu")):
                    rows.append({
                        "data": data, "frames": frames, "reader": name,
                        "clips_per_second": 1000 / figures["ms"], "ms": figures["ms"],
                        "spread": figures["spread"], "difference": by[name],
                    })  # fmt: skip
    return {"rows": rows, "compared": versions, "absent": absent}


def _call(read: _Reader, paths: Iterator[Path], frames: int) -> Tensor:
    pixels = torch.as_tensor(read(next(paths), frames))
    return center_crop(pixels, _CROP).permute(3, 0, 1, 2).contiguous()


def _render(root: Path, suffix: str, codec: str, options: dict, rate: float, *size: int) -> list[Path]:
    """Two classes of one video each, with equal pixels (one file is not taken for two classes)."""
    paths = [root / name / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        path.parent.mkdir(parents=True)
        with av.open(str(path), "w") as container:
            container.metadata["title"] = path.stem
            stream: Any = container.add_stream(codec, rate=30, options=options, bit_rate=int(rate))
            stream.height, stream.width, stream.pix_fmt = *size[:2], "yuv420p"
            for pixels in _pictures(*size):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    return paths


def _render_images(root: Path) -> list[Path]:
    paths = [root / name / name for name in "ab"]
    for path in paths:
        path.mkdir(parents=True)
        for number, pixels in enumerate(_pictures(_SIDE, 454, 48)):
            Image.fromarray(pixels).save(path / f"{number:05}.jpg", quality=90)
    return paths


def _pictures(height: int, width: int, count: int) -> Iterator[np.ndarray]:
    """A large picture that moves, a small one that crosses it, and noise."""
    rng = np.random.default_rng(0)
    sizes = [((40, 70), (width + count, height + count)), ((12, 12), (height // 3, height // 3))]
    coarse = [Image.fromarray(rng.integers(0, 247, (*size, 3), dtype=np.uint8)) for size, _ in sizes]
    back, front = (np.array(image.resize(to)) for image, (_, to) in zip(coarse, sizes))
    noise = rng.integers(0, 9, (height + 64, width, 1), dtype=np.uint8)
    for number in range(count):
        pixels = back[number // 2 : number // 2 + height, number : number + width].copy()
        top, left = height // 3, (width - len(front)) * number // count
        pixels[top : top + len(front), left : left + len(front)] = front
        row = rng.integers(64)
        yield pixels + noise[row : row + height]


def _rivals() -> tuple[dict[str, _Reader], dict[str, _Reader], dict[str, str], dict[str, str]]:
    """Other readers of videos and of folders of images; versions; what is absent, with the reason."""
    videos: dict[str, _Reader] = {"PyAV, plain loop": _pyav}
    images: dict[str, _Reader] = {"Pillow, plain loop": _pillow}
    found, versions, absent = {}, {"av": version("av"), "pillow": version("pillow")}, {}
    names = {"decord": "decord", "torchcodec": "torchcodec.decoders", "cv2": "cv2"}
    for name, module in {**names, "torchvision": "torchvision.io"}.items():
        try:
            found[name] = import_module(module)
            versions[name] = getattr(import_module(name), "__version__", "unknown")
        except Exception as e:  # a library that FFmpeg needs may be absent
            absent[name] = str(e).strip().split("\n")[0]
    if decord := found.get("decord"):
        videos["decord"] = partial(_decord, decord, inside=False)
        videos["decord, scaled inside"] = partial(_decord, decord, inside=True)
    if codec := found.get("torchcodec"):
        videos["torchcodec"] = partial(_torchcodec, codec, inside=False)
        videos["torchcodec, scaled inside"] = partial(_torchcodec, codec, inside=True)
    if cv2 := found.get("cv2"):
        cv2.setNumThreads(1)
        videos["OpenCV"], images["OpenCV"] = partial(_opencv, cv2), partial(_opencv_images, cv2)
    if (vision := found.get("torchvision")) and hasattr(vision, "decode_jpeg"):
        images["torchvision, decode_jpeg"] = partial(_torchvision_images, vision)
    if vision and not hasattr(vision, "read_video"):
        absent["torchvision, videos"] = "this release has no reader of videos"
    return videos, images, versions, absent


def _pyav(path: Path, count: int) -> Tensor:
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = list(container.decode(video=0))
    return torch.cat([
        resize_short_side(torch.from_numpy(frames[i].to_ndarray(format="rgb24"))[None], _SIDE)
        for i in uniform(len(frames), count)
    ])  # fmt: skip


@cache
def _scaled_size(path: Path) -> tuple[int, int]:
    """Found once: all videos of a data set may be known to have one size."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        return short_side_size(video.height, video.width, _SIDE)


def _decord(decord: Any, path: Path, count: int, inside: bool) -> Tensor:
    size = dict(zip(("height", "width"), _scaled_size(path))) if inside else {}
    video = decord.VideoReader(str(path), num_threads=1, **size)
    pixels = torch.from_numpy(video.get_batch(uniform(len(video), count)).asnumpy())
    return pixels if inside else resize_short_side(pixels, _SIDE)


def _torchcodec(decoders: Any, path: Path, count: int, inside: bool) -> Tensor:
    options: dict[str, Any] = {"dimension_order": "NHWC", "num_ffmpeg_threads": 1}
    if inside:
        scale = import_module("torchcodec.transforms").Resize
        options["transforms"] = [scale(_scaled_size(path))]
    video = decoders.VideoDecoder(path, **options)
    pixels = video.get_frames_at(uniform(len(video), count).tolist()).data
    return pixels if inside else resize_short_side(pixels, _SIDE)


def _opencv(cv2: Any, path: Path, count: int) -> np.ndarray:
    video, frames, at = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1]), [], -1
    for index in uniform(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), count).tolist():
        for _ in range(index - at):
            video.grab()
        at = index
        frames.append(_scaled(cv2, video.retrieve()[1]))
    return np.stack(frames)


def _opencv_images(cv2: Any, path: Path, count: int) -> np.ndarray:
    files = sorted(path.iterdir())
    return np.stack([_scaled(cv2, cv2.imread(str(files[i]))) for i in uniform(len(files), count)])


def _scaled(cv2: Any, pixels: np.ndarray) -> np.ndarray:
    before = (pixels.shape[0], pixels.shape[1])
    height, width = short_side_size(before[0], before[1], _SIDE)
    way = cv2.INTER_AREA if before[0] > height else cv2.INTER_CUBIC
    if before != (height, width):
        pixels = cv2.resize(pixels, (width, height), interpolation=way)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _pillow(path: Path, count: int) -> Tensor:
    files = sorted(path.iterdir())
    frames = [np.array(Image.open(files[i]).convert("RGB")) for i in uniform(len(files), count)]
    return resize_short_side(torch.from_numpy(np.stack(frames)), _SIDE)


def _torchvision_images(io: Any, path: Path, count: int) -> Tensor:
    files = sorted(path.iterdir())
    with warnings.catch_warnings():  # it is to be removed
        warnings.simplefilter("ignore")
        frames = [io.decode_jpeg(io.read_file(str(files[i]))) for i in uniform(len(files), count)]
    return resize_short_side(torch.stack(frames).permute(0, 2, 3, 1), _SIDE)
