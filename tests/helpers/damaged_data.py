"""Data sets of a few frames, and how it ends when something is done to them."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from helpers.fuzz import within
from helpers.video_kinds import write
from PIL import Image

from rstg_pyg.train.build import build_dataset
from rstg_pyg.train.config import parse_config
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.prepare import main as prepare

CLASSES = ["Moving something up", "Pulling something from left to right", "Turning something"]
#: Videos per split with their classes; the one that is damaged is ``BAD``.
SPLITS = {"train": {"1": 0, "2": 1}, "validation": {"3": 2}}
BAD, FRAMES, SIZE = "2", 6, (20, 26)
VIDEO_FORMATS = {
    ".webm": "libvpx-vp9", ".mp4": "libx264", ".avi": "mpeg4", ".mkv": "libvpx", ".mov": "mjpeg",
    ".mpg": "mpeg2video", ".gif": "gif",
}  # fmt: skip
LAYOUTS = ("frames", "png", *VIDEO_FORMATS)


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
    write(
        folder / f"{video}{layout}", VIDEO_FORMATS[layout], FRAMES, 25 if layout == ".mpg" else 12,
        size=SIZE, pix_fmt={".gif": "rgb8", ".mov": "yuvj420p"}.get(layout, "yuv420p"),
        options={"cpu-used": "8", "deadline": "realtime"} if layout in (".webm", ".mkv") else {},
        pixels=pictures.__getitem__,
    )  # fmt: skip


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


def whole_sets(place):
    """Writes and reads a data set of every layout."""
    out = Whole()
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
