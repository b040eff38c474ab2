"""Predicts the classes of your own videos: ``python train/predict.py VIDEO ... --ckpt CKPT``.

A video is a file (mp4, webm, avi, gif, ...), a folder of numbered frames, or ``-``: a list of paths on
standard input. The network, the sampling and size of clips, and the class names come from the
checkpoint. If a video cannot be read, the others are still predicted, and the exit code is 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from rstg_pyg.train.command import command
from rstg_pyg.train.data.protocols import PROTOCOLS
from rstg_pyg.train.data.sources import open_video
from rstg_pyg.train.drawing.overlay import find_graph
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import output_file, write_json
from rstg_pyg.train.predictor import Predictor, Video

_MOST_LINES = 8  # of a stream


@command
def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = parse_arguments(argv)
    videos = [path for name in arguments.videos for path in _paths(name)]
    predictor = Predictor.load(arguments.ckpt, arguments.device, arguments.protocol, arguments.labels)
    print(predictor.describe(), flush=True)
    if arguments.overlay is not None:
        find_graph(predictor.model, arguments.place)
    if arguments.stream and not predictor.model.streams:
        print("this network combines frames: --stream keeps the sampled frames and predicts at the end")
        arguments.stream = False
    answers = []
    for number, video in enumerate(videos, 1):
        out = None if arguments.overlay is None else Path(arguments.overlay)
        if out is not None and len(videos) > 1:
            out = out.with_stem(f"{out.stem}-{number}")
        try:
            answers.append(predict(predictor, video, arguments, out))
        except UserError as e:
            print(f"error: {e}", file=sys.stderr, flush=True)
            answers.append({"video": video, "error": str(e)})
    if arguments.json is not None:
        found = {"checkpoint": arguments.ckpt, "protocol": predictor.describe(), "videos": answers}
        write_json(Path(arguments.json), found)
    return 2 if any("error" in answer for answer in answers) else 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line.

    Raises:
        UserError: If an argument cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="predict.py", description="Predict the classes of videos.", allow_abbrev=False
    )
    add = parser.add_argument
    add("videos", nargs="+", metavar="VIDEO", help="a file, a folder of frames, or - (stdin)")
    add("--ckpt", required=True, help="a run folder, a checkpoint, or safetensors weights")
    add("--top", type=int, default=5, metavar="K", help="classes shown (default: 5)")
    add("--overlay", metavar="OUT.gif|OUT.png", help="draw grid and attention on the frames")
    add("--place", help="which graph the overlay shows (default: the last)")
    add("--stream", action="store_true", help="predict while frames arrive")
    add("--protocol", choices=tuple(PROTOCOLS), help="clips of a video (default: the checkpoint's)")
    add("--device", choices=("auto", "cpu", "gpu"), default="auto")
    add("--json", metavar="OUT", help="also write all probabilities shown to a file")
    add("--labels", metavar="FILE", help="names of the classes: a label file of the data set")
    arguments = parser.parse_args(argv)
    if arguments.top < 1:
        raise UserError(f"--top: expected at least 1 (got {arguments.top})")
    if arguments.overlay is not None:
        output_file("--overlay", arguments.overlay, (".gif", ".png"))
        if os.path.realpath(arguments.overlay) in map(os.path.realpath, arguments.videos):
            raise UserError(
                f"--overlay: {arguments.overlay} is a video to predict; choose another name"
            )
    if arguments.json is not None:
        output_file("--json", arguments.json, (".json",))
    if arguments.place is not None and arguments.overlay is None:
        raise UserError("--place: selects the graph for --overlay; give --overlay too")
    return arguments


def _paths(name: str) -> list[str]:
    """The videos of an argument: a path, or the lines of standard input for ``-``."""
    if name != "-":
        return [name]
    paths = [line.strip() for line in sys.stdin if line.strip()]
    if not paths:
        raise UserError("-: expected paths on standard input, one per line (got none)")
    return paths


def predict(
    predictor: Predictor, path: str, arguments: argparse.Namespace, out: Path | None
) -> dict[str, Any]:
    """Predicts one video and prints the result.

    Returns:
        The video, its number of frames and the best classes with their probabilities.

    Raises:
        UserError: If the video cannot be read.
    """
    source, name = video = open_video(path)
    length = source.num_frames(name)
    note = ""
    if length < predictor.num_frames:
        note = f", fewer than the clip's {predictor.num_frames}: some are used more than once"
    if source.varying_times(name) is not None:
        note += ", variable frame rate: sampled by time"
    print(f"\n{path} ({length:,} {'frame' if length == 1 else 'frames'}{note})", flush=True)
    if arguments.stream:
        best = predictor.ranked(_stream(predictor, video), arguments.top)
    else:
        best = predictor(video, arguments.top)
    for _, name, probability in best:
        print(f"  {probability:6.1%}  {name}", flush=True)
    if out is not None:
        title = f"{best[0].name}  {best[0].probability:.1%}"
        found = predictor.draw_attention(video, out, title, arguments.place)
        print(f"  attention at {found.place} drawn in {out}", flush=True)
    entries = [{"class": i, "name": name, "probability": p} for i, name, p in best]
    return {"video": path, "frames": length, "predictions": entries}


def _stream(predictor: Predictor, video: Video) -> Tensor:
    """Predicts while frames arrive and prints the best class at intervals; returns the logits."""
    every = -(-len(set(predictor.times(video).reshape(-1).tolist())) // _MOST_LINES)
    for number, (frame, logits) in enumerate(predictor.stream(video), 1):
        if number % every == 0:
            [(_, name, probability)] = predictor.ranked(logits, 1)
            print(f"  frame {frame + 1:>6,}: {probability:6.1%}  {name}", flush=True)
    print("  at the end:", flush=True)
    return logits


if __name__ == "__main__":
    sys.exit(main())
