"""Predicts the classes of your own videos: ``python train/predict.py VIDEO ... [--ckpt CKPT]``.

A video is a file (mp4, webm, avi, gif, ...), a folder of numbered frames, a folder of videos, a pattern
(``'clips/*.mp4'``), an address (``rtsp://...``), or ``-``: a list of paths on standard input. For a
network of skeletons it is a file of a recording. The network, the sampling and size of clips, and the
class names come from the checkpoint; without one the model ``smt_demo`` of the package is used.
``--windows`` gives the classes of a long video over time. If a video cannot be read, the others are
still predicted, and the exit code is 2.
"""

from __future__ import annotations

import argparse
import glob
import itertools
import os
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from rstg_pyg import models
from rstg_pyg.train.command import command
from rstg_pyg.train.data.folder.walk import Walk
from rstg_pyg.train.data.protocols import PROTOCOLS
from rstg_pyg.train.data.skeletons import read_recording
from rstg_pyg.train.data.sources import open_video
from rstg_pyg.train.data.video_lists import split_range
from rstg_pyg.train.errors import UserError, counted, printable
from rstg_pyg.train.exported import ExportedNetwork
from rstg_pyg.train.files import output_file, write_json, write_text
from rstg_pyg.train.predictions import Windows, entries, write_table
from rstg_pyg.train.predictor import Predictor, Video
from rstg_pyg.train.skeletons.attention import has_attention, skeleton_page
from rstg_pyg.train.skeletons.build import skeleton_clips
from rstg_pyg.train.windows import is_live

_MOST_LINES = 8  # of a stream
_MODEL = "smt_demo"  # without --ckpt
_SECONDS = 4.0  # of the windows of a camera


@command
def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = parse_arguments(argv)
    videos = [path for name in arguments.videos for path in _paths(name)]
    _check_outputs(arguments, videos)
    if arguments.ckpt is None:
        print(f"no --ckpt: this uses {_MODEL}, a small network that comes with the package")
    predictor = Predictor.load(
        models.FOLDER / _MODEL if arguments.ckpt is None else arguments.ckpt,
        arguments.device,
        arguments.protocol,
        arguments.labels,
    )
    print(predictor.describe(), flush=True)
    if predictor.takes_skeletons:
        _check_skeletons(predictor, arguments)
    elif arguments.overlay is not None:
        predictor.check_attention(arguments.place)
    if arguments.stream and not predictor.model.streams:
        exported = isinstance(predictor.model, ExportedNetwork)
        why = "an exported file takes whole clips" if exported else "this network combines frames"
        print(f"{why}: --stream keeps the sampled frames and predicts at the end")
        arguments.stream = False
    answers: list[dict[str, Any]] = []
    complete = False
    try:
        for number, video in enumerate(videos, 1):
            answers.append({"video": video})
            try:
                predict(predictor, answers[-1], arguments, f"-{number}" if len(videos) > 1 else "")
            except UserError as e:
                print(f"error: {e}", file=sys.stderr, flush=True)
                answers[-1]["error"] = str(e)
        complete = True
    finally:  # also after Ctrl-C, by which a camera ends
        complete = complete or (len(answers) == len(videos) and is_live(videos[-1]))
        if not complete and answers:
            last = answers.pop()
            answers += [{**last, "error": "interrupted"}] if last.get("windows") else []
        if answers and arguments.json is not None:
            found = {"checkpoint": arguments.ckpt or _MODEL, "protocol": predictor.describe()}
            write_json(_named(Path(arguments.json), complete), {**found, "videos": answers})
        if answers and arguments.csv is not None:
            write_table(_named(Path(arguments.csv), complete), answers)
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
    add("videos", nargs="*", metavar="VIDEO",
        help="a file, a folder of frames or of videos, a pattern, an address, or - (stdin)",
    )  # fmt: skip
    add("--ckpt", help=f"a run folder, a checkpoint, a model or its name (default: {_MODEL})")
    add("--top", type=int, default=5, metavar="K", help="classes shown (default: 5)")
    add("--windows", type=float, metavar="SECONDS",
        help="classes over time: of windows of so many seconds, which overlap by half",
    )  # fmt: skip
    add("--camera", metavar="N", help=f"watch a camera (windows of {_SECONDS:g} s), until Ctrl-C")
    add("--csv", metavar="OUT", help="also write all probabilities shown to a table")
    add("--json", metavar="OUT", help="also write all probabilities shown to a file")
    add("--timeline", metavar="OUT.png", help="with --windows: a picture of the classes over time")
    add("--overlay", metavar="OUT.html|.gif|.png",
        help="show the attention on the video: a page for the browser, an animation or a picture",
    )  # fmt: skip
    add("--place", help="which graph the overlay shows (default: the last)")
    add("--stream", action="store_true", help="predict while frames arrive")
    add("--protocol", choices=tuple(PROTOCOLS), help="clips of a video (default: the checkpoint's)")
    add("--device", choices=("auto", "cpu", "gpu"), default="auto")
    add("--labels", metavar="FILE", help="names of the classes: a label file of the data set")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.camera is not None:
        arguments.videos.append(f"camera:{arguments.camera}")
    if not arguments.videos:
        raise UserError("expected videos: a file, a folder, a pattern, an address or --camera 0")
    if arguments.top < 1:
        raise UserError(f"--top: expected at least 1 (got {arguments.top})")
    if arguments.windows is not None and not 0 < arguments.windows < float("inf"):
        raise UserError(f"--windows: expected more than 0 seconds (got {arguments.windows:g})")
    if arguments.windows is not None and (arguments.overlay is not None or arguments.stream):
        raise UserError("--windows: cannot be combined with --overlay or --stream")
    for option, suffixes in {
        "overlay": (".html", ".gif", ".png"), "timeline": (".png",), "csv": (".csv",),
        "json": (".json",),
    }.items():  # fmt: skip
        if getattr(arguments, option) is not None:
            output_file(f"--{option}", getattr(arguments, option), suffixes)
    if arguments.place is not None and arguments.overlay is None:
        raise UserError("--place: selects the graph for --overlay; give --overlay too")
    if arguments.timeline is not None and arguments.windows is None and arguments.camera is None:
        raise UserError("--timeline: draws the windows; give --windows too")
    return arguments


def _check_outputs(arguments: argparse.Namespace, videos: list[str]) -> None:
    """Refuses to write what was predicted over a video.

    Raises:
        UserError: If an output is one of the videos.
    """
    inputs = {os.path.realpath(name) for video in videos for name in (video, split_range(video)[0])}
    for option in ("overlay", "timeline", "csv", "json"):
        out = getattr(arguments, option)
        if out is not None:
            numbered = [str(_numbered(out, f"-{number}")) for number in range(1, len(videos) + 1)]
            for name in (out, *numbered):
                if os.path.realpath(name) in inputs:
                    raise UserError(f"--{option}: {name} is a video to predict; choose another name")


def _paths(name: str) -> list[str]:
    """The videos of an argument: itself, those of a folder or a pattern, or lines of standard input.

    Raises:
        UserError: If a pattern has no files, or there is nothing on standard input.
    """
    if name == "-":
        try:
            paths = [line.strip() for line in sys.stdin if line.strip()]
        except UnicodeDecodeError:
            paths = ["\0"]
        if any("\0" in path for path in paths):
            raise UserError(
                "-: expected paths on standard input, one per line (got other bytes, as of a video); "
                "save the video and give its name"
            )
        if not paths:
            raise UserError("-: expected paths on standard input, one per line (got none)")
        return paths
    if os.path.isdir(name):
        found = Walk().videos(Path(name))
        # Frames may be .webp, too.
        return sorted(str(path) for path in found if path.suffix.lower() != ".webp") or [name]
    there = os.path.exists(name) or os.path.exists(split_range(name)[0])
    if glob.has_magic(name) and not there and not is_live(name):
        paths = sorted(glob.glob(os.path.expanduser(name), recursive=True))
        if not paths:
            raise UserError(f"{name}: there are no such files")
        return paths
    return [name]


def predict(
    predictor: Predictor, answer: dict[str, Any], arguments: argparse.Namespace, number: str
) -> None:
    """Predicts one video, prints the result, and adds it to the answer.

    Args:
        predictor: The predictor.
        answer: The entry of the JSON file, with the ``video``.
        arguments: The command line.
        number: What to add to the names of pictures.

    Raises:
        UserError: If the video cannot be read.
    """
    path = answer["video"]
    if predictor.takes_skeletons:
        return _predict_skeletons(predictor, answer, arguments, number)
    if arguments.windows is not None or is_live(path):
        return _predict_windows(predictor, answer, arguments, number)
    source, name = video = open_video(path)
    length = source.num_frames(name)
    note = ""
    if length < predictor.num_frames:
        note = f", fewer than the clip's {predictor.num_frames}: some are used more than once"
    if source.varying_times(name) is not None:
        note += ", variable frame rate: sampled by time"
    print(f"\n{printable(path)} ({counted(length, 'frame')}{note})", flush=True)
    if arguments.stream:
        best = predictor.ranked(_stream(predictor, video), arguments.top)
    else:
        best = predictor(video, arguments.top)
    for _, name, probability in best:
        print(f"  {probability:6.1%}  {name}", flush=True)
    if arguments.overlay is not None:
        out = _numbered(arguments.overlay, number)
        title = f"{best[0].name}  {best[0].probability:.1%}"
        found = predictor.draw_attention(video, out, title, arguments.place)
        print(f"  attention at {found.place} drawn in {out}", flush=True)
    answer |= {"frames": length, "predictions": entries(best)}


def _check_skeletons(predictor: Predictor, arguments: argparse.Namespace) -> None:
    """Refuses options that are for videos.

    Raises:
        UserError: If there is one.
    """
    for option in ("windows", "camera", "stream", "place", "protocol"):
        if getattr(arguments, option) not in (None, False):
            raise UserError(f"--{option}: is for videos, and this network takes files of skeletons")
    if arguments.overlay is not None:
        output_file("--overlay", arguments.overlay, (".html",))
        if not has_attention(predictor.model):
            raise UserError("--overlay: this network has no attention between joints, nothing to draw")


def _predict_skeletons(
    predictor: Predictor, answer: dict[str, Any], arguments: argparse.Namespace, number: str
) -> None:
    """Predicts one recording and prints the result."""
    path = Path(answer["video"])
    data: Any = predictor.config.data
    recording = read_recording(path, data.bodies)
    clips = skeleton_clips(data, recording, path)
    best = predictor.ranked(predictor.logits(clips), arguments.top)
    print(f"\n{printable(str(path))} ({counted(len(recording.pos), 'frame')})", flush=True)
    for _, name, probability in best:
        print(f"  {probability:6.1%}  {name}", flush=True)
    if arguments.overlay is not None:
        out, title = _numbered(arguments.overlay, number), f"{best[0].name}  {best[0].probability:.1%}"
        page = skeleton_page(predictor.model, data, recording, predictor.names, title)
        write_text(out, page)
        print(f"  attention between joints drawn in {out}", flush=True)
    answer |= {"frames": len(recording.pos), "predictions": entries(best)}


def _predict_windows(
    predictor: Predictor, answer: dict[str, Any], arguments: argparse.Namespace, number: str
) -> None:
    """Predicts the windows of one video; prints the best class of each."""
    seconds = arguments.windows or _SECONDS
    print(f"\n{printable(answer['video'])} (windows of {seconds:g} s)", flush=True)
    windows = Windows()
    complete = is_live(answer["video"])
    try:
        for window in predictor.watch(answer["video"], seconds):
            windows.append(window)
            _, name, probability = window.predictions[0]
            print(f"  {window.start:7.1f} s  {probability:6.1%}  {name}", flush=True)
        complete = True
    finally:
        answer["windows"] = windows.entries(arguments.top)
        if windows and arguments.timeline is not None:
            windows.save(_named(_numbered(arguments.timeline, number), complete))


def _numbered(out: str, number: str) -> Path:
    return Path(out).with_stem(Path(out).stem + number)


def _named(out: Path, complete: bool) -> Path:
    """The file to write; beside it a new one, which is printed, for what was predicted before an end
    that came too early.
    """
    if complete:
        return out
    names = (f"{out.stem}-partial{i if i > 1 else ''}" for i in itertools.count(1))
    partial = next(path for path in map(out.with_stem, names) if not path.exists())
    print(f"not finished: what there is goes to {partial}, not to {out}", file=sys.stderr)
    return partial


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
