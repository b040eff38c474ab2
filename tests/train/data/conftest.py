"""Tiny data sets: in the layouts of Something-Something, and videos in class folders."""

import json

import numpy as np
import pytest
from helpers.video_kinds import write
from PIL import Image

CLASSES = [
    "Pretending to take something, but failing",
    "Pulling something from left to right",
    "Pulling something from right to left",
]


def picture(video, frame, height=30, width=40):
    """A smooth image that tells which video and frame it is: (red, green) = (20 video, 5 frame)."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = 20 * video % 256
    image[..., 1] = 5 * frame % 256
    image[..., 2] = np.linspace(0, 255, width).astype(np.uint8)
    return image


def write_frames(folder, video, count, name="{:05d}.jpg", start=1, **size):
    folder.mkdir(parents=True)
    for i in range(count):
        path = folder / name.format(i + start)
        Image.fromarray(picture(video, i, **size)).save(path, quality=95)


def write_video(path, video, count, codec=None, rate=12, options=None, **size):
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = codec or ("libvpx-vp9" if path.suffix == ".webm" else "mpeg4")
    write(
        path, codec, count, rate, size=picture(video, 0, **size).shape[:2], bit_rate=2_000_000,
        options=options or {"cpu-used": "8", "deadline": "realtime", "crf": "10"},
        pixels=lambda frame: picture(video, frame, **size),
    )  # fmt: skip


#: Per split, the class of each video; video ids count on from 1.
SPLIT_LABELS = {"train": [0, 1, 2, 1], "validation": [2, 0], "test": [0, 0]}
#: Frames of video i.
LENGTHS = [6, 9, 4, 40, 1, 7, 5, 12]


def split_ids():
    number = 0
    for split, labels in SPLIT_LABELS.items():
        yield split, [(str(number + k + 1), label) for k, label in enumerate(labels)]
        number += len(labels)


@pytest.fixture
def v1(tmp_path):
    """Frames in folders, labels in csv files."""
    root = tmp_path / "v1"
    root.mkdir()
    (root / "something-something-v1-labels.csv").write_text("\n".join(CLASSES) + "\n")
    for split, videos in split_ids():
        lines = [name if split == "test" else f"{name};{CLASSES[label]}" for name, label in videos]
        (root / f"something-something-v1-{split}.csv").write_text("\n".join(lines) + "\n")
    for i, count in enumerate(LENGTHS, 1):
        write_frames(root / "20bn-something-something-v1" / str(i), i, count)
    return root


@pytest.fixture
def v2(tmp_path):
    """Videos in webm files, labels in json files."""
    return make_v2(tmp_path / "v2")


def make_v2(root, name="labels/{}.json", videos=True):
    rows = {"labels": {template: str(i) for i, template in enumerate(CLASSES)}}
    for split, entries in split_ids():
        rows[split] = [{"id": video} for video, _ in entries]
        for row, (_, label) in zip(rows[split], entries if split != "test" else ()):
            template = CLASSES[label].replace("something", "[something]")
            row |= {"label": "pulling a cup", "template": template, "placeholders": ["a cup"]}
    for what, content in rows.items():
        path = root / name.format(what)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    for i, count in enumerate(LENGTHS, 1):
        if videos:
            write_video(root / "20bn-something-something-v2" / f"{i}.webm", i, count)
    return root


class Files:
    """The makers above, for tests that need them with other arguments."""

    classes, lengths = CLASSES, LENGTHS
    picture, frames, video = map(staticmethod, (picture, write_frames, write_video))
    make_v2 = staticmethod(make_v2)


@pytest.fixture
def files():
    return Files


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/rstg_pyg"


@pytest.fixture
def root(tmp_path, files):
    """Two classes with three training videos and one for validation each; every video is another."""
    names = [f"train/{c}/{n}.mp4" for c in "ab" for n in range(3)] + ["val/a/8.mp4", "val/b/9.mp4"]
    for number, name in enumerate(names):
        files.video(tmp_path / "clips" / name, number, 3 + number)
    return tmp_path / "clips"
