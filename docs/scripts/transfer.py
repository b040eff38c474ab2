"""Clips of mini-something as class folders of mp4 files: ``python docs/scripts/transfer.py FOLDER``.

``FOLDER/sixteen``: 16 of the 20 classes, with 200 clips for training and 25 for validation each.
``FOLDER/twenty``: all of them, with 30 other clips for training and 50 for testing each.
``FOLDER/twenty_N``: the same test clips, with N clips per class for training: 5 and 10 of those 30, or
100 and 300 others, which ``sixteen`` does not have either.
"""

import sys
from pathlib import Path

import av

from rstg_pyg.train.data.mini import EVENTS, MiniSomething

LEFT_OUT = (
    "Pushing something from left to right",
    "Pushing something from right to left",
    "Putting something behind something",
    "Pulling something from behind of something",
)
#: Data set, split, clips per class, their split of mini-something, and the first of them.
PARTS = (
    ("sixteen", "train", 200, "train", 0),
    ("sixteen", "val", 25, "validation", 0),
    ("twenty", "train", 30, "test", 0),
    ("twenty", "test", 50, "test", 30),
    ("twenty_5", "train", 5, "test", 0),
    ("twenty_10", "train", 10, "test", 0),
    ("twenty_100", "train", 100, "train", 200),
    ("twenty_300", "train", 300, "train", 200),
)


def write(path: Path, frames) -> None:
    """Writes frames ``[T, H, W, 3]`` as mp4, nearly without loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=12, options={"crf": "12", "preset": "veryfast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        file.mux(stream.encode())


clips = MiniSomething(size=52)
for data, split, count, source, first in PARTS:
    for item in range(first * len(EVENTS), (first + count) * len(EVENTS)):
        label = clips.label(item)
        if data != "sixteen" or label not in LEFT_OUT:
            write(Path(sys.argv[1], data, split, label, f"{item}.mp4"), clips.render(source, item))
    test = Path(sys.argv[1], data, "test")
    if not test.exists() and data.startswith("twenty_"):
        test.symlink_to(Path("..", "twenty", "test"))
