"""A page to try networks on clips and on the camera: ``python train/demo.py [MODEL ...]``.

It runs on this machine only (127.0.0.1); nothing is sent anywhere. Needs ``pip install -e ".[demo]"``.
"""

from __future__ import annotations

import argparse
import html
import os
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rstg_pyg import models
from rstg_pyg.train.command import command
from rstg_pyg.train.data.sources import open_video
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.predictor import Prediction, Predictor

_MEGABYTES, _SECONDS = 50, 60  # largest upload
_EVERY = 0.25  # seconds between the camera's frames
_CAMERA_SECONDS = 300  # until the camera stops by itself
_SIDE = 320  # pixels of the camera's frames that are kept


class Camera:
    """The classes of the last frames of a camera. A network has learned from clips, so it is fed with
    pieces as long as a clip: every half clip another stream starts, and the oldest one is shown.
    """

    def __init__(self, predictor: Predictor):
        self.predictor = predictor
        self.frames: deque[np.ndarray] = deque(maxlen=predictor.num_frames)
        self.streams: list[list[Any]] = []  # a stream, and how many frames it has seen
        predictor.stream()  # raises UserError where it cannot

    def step(self, frame: np.ndarray) -> list[Prediction]:
        """The classes after another frame ``[H, W, 3]``, most likely first."""
        length = self.predictor.num_frames
        if not self.streams or self.streams[-1][1] >= max(1, length // 2):
            self.streams.append([self.predictor.stream(), 0])
        self.streams = [stream for stream in self.streams if stream[1] < length]
        answers = []
        for stream in self.streams:
            answers.append(stream[0](frame))
            stream[1] += 1
        self.frames.append(frame)
        return answers[0]

    def page(self) -> str:
        """The attention page of the last frames."""
        with tempfile.TemporaryDirectory() as folder:
            for i, frame in enumerate(self.frames):
                picture = Image.fromarray(frame)
                picture.thumbnail((2 * _SIDE, _SIDE))
                picture.save(Path(folder, f"{i:03d}.png"))
            return attention_frame(self.predictor, folder)


def attention_frame(predictor: Predictor, video: str) -> str:
    """The attention page of a video, as a frame in another page that it has no access to."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "attention.html")
        best = predictor(video, 1)[0]
        predictor.draw_attention(video, out, f"{best.name}  {best.probability:.1%}")
        text = html.escape(out.read_text(encoding="utf-8"))
    style = "width: 100%; height: 900px; border: 0"
    return f'<iframe sandbox="allow-scripts" srcdoc="{text}" style="{style}"></iframe>'


def check_video(path: str) -> None:
    """Checks that a video is short enough.

    Raises:
        UserError: If not, or if it cannot be read.
    """
    source, name = open_video(path)
    rate = source.frames_per_second(name) or 1.0
    seconds = source.num_frames(name) / rate
    if seconds > _SECONDS:
        raise UserError(f"expected a clip of at most {_SECONDS} seconds (got {seconds:.0f})")


def build(names: list[str]) -> Any:
    """The page: Gradio ``Blocks``. Only the given models can be chosen."""
    gradio = _gradio()
    load = lru_cache(maxsize=2)(Predictor.load)
    lock = threading.Lock()  # attention is read with hooks, which must not see another call

    def predictor(model: str) -> Predictor:
        if model not in names:  # a request can hold anything
            raise UserError(f"expected one of {', '.join(names)}")
        return load(model)

    def clip(model: str, path: str | None) -> Iterator[tuple[dict[str, float] | None, str]]:
        if path is None:
            yield None, ""
            return
        try:
            check_video(path)
            chosen = predictor(model)
            steps = chosen.stream(path) if chosen.model.streams else iter(())
            while True:
                with lock:
                    step = next(steps, None)
                if step is None:
                    break
                yield _shares(chosen.ranked(step[1], 5)), ""
            with lock:
                answer = _shares(chosen(path, 5))
            yield answer, ""
            with lock:
                page = attention_frame(chosen, path)
            yield answer, page
        except UserError as e:
            raise gradio.Error(str(e)) from e

    def frame(
        model: str, picture: np.ndarray | None, seen: tuple[str, Camera] | None
    ) -> tuple[dict[str, float] | None, tuple[str, Camera] | None]:
        if picture is None:
            return None, seen
        try:
            if seen is None or seen[0] != model:
                seen = model, Camera(predictor(model))
            with lock:
                return _shares(seen[1].step(picture)[:5]), seen
        except UserError as e:
            raise gradio.Error(str(e)) from e

    def look(seen: tuple[str, Camera] | None) -> str:
        if seen is None or not seen[1].frames:
            raise gradio.Error("start the camera first")
        try:
            with lock:
                return seen[1].page()
        except UserError as e:
            raise gradio.Error(str(e)) from e

    with gradio.Blocks(title="rstg_pyg", analytics_enabled=False) as page:
        model = gradio.Dropdown(names, value=names[0], label="Network")
        with gradio.Tab("Clip"), gradio.Row():
            with gradio.Column():
                words = f"Clip of at most {_SECONDS} seconds and {_MEGABYTES} MB"
                video = gradio.File(file_types=["video", ".gif", ".mkv"], label=words)
            label = gradio.Label(label="Classes", num_top_classes=5)
        with gradio.Tab("Camera"), gradio.Row():
            with gradio.Column():
                camera = gradio.Image(sources=["webcam"], streaming=True, type="numpy", label="Camera")
                button = gradio.Button("Attention of the last frames")
            live = gradio.Label(label="Classes", num_top_classes=5)
        shown = gradio.HTML()
        seen = gradio.State(None)
        gradio.on([video.change, model.change], clip, [model, video], [label, shown])
        camera.stream(
            frame, [model, camera, seen], [live, seen], stream_every=_EVERY, time_limit=_CAMERA_SECONDS
        )
        button.click(look, [seen], [shown])
    return page


def _shares(best: list[Prediction]) -> dict[str, float]:
    return {prediction.name: prediction.probability for prediction in best}


def _gradio() -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError as e:
        raise UserError('the demo needs Gradio: pip install "rstg_pyg[demo]"') from e
    return gradio


def launch(names: list[str], folder: str, port: int | None = None) -> Any:
    """Starts the server, at the page's ``local_url``; uploads are kept in ``folder``."""
    os.environ["GRADIO_TEMP_DIR"] = folder
    gradio = _gradio()
    page = build(names)
    try:
        page.launch(
            server_name="127.0.0.1",
            server_port=port,
            share=False,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            allowed_paths=[],
            max_file_size=_MEGABYTES * gradio.FileSize.MB,
            prevent_thread_lock=True,
            quiet=True,
            theme=gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            footer_links=[],
        )
    except OSError as e:
        raise UserError(f"--port: {e}; choose another one") from e
    return page


@command
def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="demo.py", description="Try networks on clips and on the camera.", allow_abbrev=False
    )
    words = "run folders, checkpoints or names of models, besides those of the package"
    parser.add_argument("models", nargs="*", metavar="MODEL", help=words)
    parser.add_argument("--port", type=int, help="of 127.0.0.1 (default: the first free one from 7860)")
    arguments = parser.parse_args(argv)
    _gradio()
    for model in arguments.models:
        Predictor.load(model)  # an error is said now
    names = list(dict.fromkeys([*arguments.models, *models.list()]))
    with tempfile.TemporaryDirectory(prefix="rstg-demo-") as folder:
        page = launch(names, folder, arguments.port)
        print(f"{page.local_url} (only for this machine; Ctrl-C ends it)", flush=True)
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
