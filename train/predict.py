"""Predicts the classes of one's own videos: ``python train/predict.py VIDEO ... --ckpt CKPT``.

A video is a file (mp4, webm, avi, gif, ...), a folder of numbered frames, or ``-``: a list of paths on
standard input. How clips are sampled and scaled, the network and the names of the classes come from the
checkpoint. Ends with exit code 2 if a video cannot be read; the others are predicted all the same.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch

from rstg_pyg.train.command import command
from rstg_pyg.train.data.protocols import PROTOCOLS
from rstg_pyg.train.data.sources import FrameSource, open_video
from rstg_pyg.train.drawing.overlay import attention, find_graph, overlay
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import (
    output_file,
    write_atomically,
    write_json,
)
from rstg_pyg.train.predictor import Predictor

_MOST_LINES = 8  # of a stream


@command
def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = parse_arguments(argv)
    videos = [path for name in arguments.videos for path in _paths(name)]
    labels = None if arguments.labels is None else Path(arguments.labels)
    predictor = Predictor.load(Path(arguments.ckpt), arguments.device, arguments.protocol, labels)
    print(predictor.describe(), flush=True)
    if arguments.overlay is not None:
        find_graph(predictor.model, arguments.place)
    if arguments.stream and not predictor.model.streams:
        print(
            "this network looks across frames: --stream keeps the sampled frames and predicts at "
            "the end"
        )
    answers = []
    for number, video in enumerate(videos, 1):
        try:
            out = _numbered(arguments.overlay, number if len(videos) > 1 else None)
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
    parser.add_argument(
        "videos", nargs="+", metavar="VIDEO", help="a file, a folder of frames, or - (paths from stdin)"
    )
    parser.add_argument("--ckpt", required=True, help="a checkpoint of a run, or safetensors weights")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes shown (default: 5)")
    parser.add_argument(
        "--overlay", metavar="OUT.gif|OUT.png", help="draw grid and attention on the frames"
    )
    parser.add_argument("--place", help="which graph the overlay shows (default: the last)")
    parser.add_argument("--stream", action="store_true", help="predict while frames arrive")
    parser.add_argument(
        "--protocol", choices=tuple(PROTOCOLS), help="clips of a video (default: the checkpoint's)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--json", metavar="OUT", help="also write all probabilities shown to a file")
    parser.add_argument(
        "--labels", metavar="FILE", help="names of the classes: a label file of the data set"
    )
    arguments = parser.parse_args(argv)
    if arguments.top < 1:
        raise UserError(f"--top: expected at least 1 (got {arguments.top})")
    if arguments.overlay is not None:
        output_file("--overlay", arguments.overlay, (".gif", ".png"))
        if any(_same_file(arguments.overlay, video) for video in arguments.videos):
            raise UserError(
                f"--overlay: {arguments.overlay} is a video to predict; choose another name"
            )
    if arguments.json is not None:
        output_file("--json", arguments.json, (".json",))
    if arguments.place is not None and arguments.overlay is None:
        raise UserError("--place: chooses the graph for --overlay; give that, too")
    return arguments


def _same_file(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _paths(name: str) -> list[str]:
    """The videos that an argument names: itself, or the lines of standard input."""
    if name != "-":
        return [name]
    paths = [line.strip() for line in sys.stdin if line.strip()]
    if not paths:
        raise UserError("-: expected paths on standard input, one per line (got none)")
    return paths


def _numbered(out: str | None, number: int | None) -> Path | None:
    """The overlay's name; with several videos each has its number."""
    if out is None or number is None:
        return None if out is None else Path(out)
    return Path(out).with_stem(f"{Path(out).stem}-{number}")


def predict(
    predictor: Predictor, video: str, arguments: argparse.Namespace, out: Path | None
) -> dict[str, Any]:
    """Predicts one video and prints what came out.

    Args:
        predictor: The network.
        video: The path.
        arguments: The command line's.
        out: Where the overlay goes, if one is wanted.

    Returns:
        The video, its number of frames and the best classes with their probabilities.

    Raises:
        UserError: If the video cannot be read.
    """
    source, name = open_video(video)
    length = source.num_frames(name)
    note = ""
    if length < predictor.num_frames:
        note = f", fewer than the clip's {predictor.num_frames}: some are seen more than once"
    print(f"\n{video} ({length:,} {'frame' if length == 1 else 'frames'}{note})", flush=True)
    if arguments.stream and predictor.model.streams:
        logits = _stream(predictor, source, name)
        clip = None if out is None else predictor.middle_clip(source, name)
    else:
        clips = predictor.clips(source, name)
        logits = predictor.logits(clips)
        clip = clips[predictor.middle]
    probabilities, classes = logits.softmax(0).topk(min(arguments.top, len(logits)))
    best = [
        {"class": c, "name": predictor.names[c], "probability": p}
        for c, p in zip(classes.tolist(), probabilities.tolist())
    ]
    for entry in best:
        print(f"  {entry['probability']:6.1%}  {entry['name']}", flush=True)
    if out is not None:
        _draw(predictor, source, name, clip, f"{best[0]['name']}  {best[0]['probability']:.1%}", out,
              arguments.place)  # fmt: skip
    return {"video": video, "frames": length, "predictions": best}


def _stream(predictor: Predictor, source: FrameSource, name: str) -> torch.Tensor:
    """Predicts while frames arrive and prints the best class now and then; returns the logits."""
    every = -(-len(set(predictor.times(source, name).reshape(-1).tolist())) // _MOST_LINES)
    for number, (frame, logits) in enumerate(predictor.stream(source, name), 1):
        if number % every == 0:
            probability, best = logits.softmax(0).max(0)
            print(
                f"  frame {frame + 1:>6,}: {float(probability):6.1%}  {predictor.names[int(best)]}",
                flush=True,
            )
    print("  in the end:", flush=True)
    return logits


def _draw(
    predictor: Predictor,
    source: FrameSource,
    name: str,
    clip: torch.Tensor,
    title: str,
    out: Path,
    place: str | None,
) -> None:
    """Writes the overlay."""
    rate = source.frames_per_second(name)
    captions = [
        f"frame {index + 1}" + (f", {index / rate:.1f} s" if rate else "")
        for index in predictor.times(source, name)[0].tolist()
    ]
    found = attention(predictor.model, predictor.normalized(clip), place)
    write_atomically(out, overlay(clip, found, title, captions, out.suffix))
    print(f"  attention at {found.place} drawn in {out}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
