"""A trained network with everything needed to predict: sampling, preprocessing, class names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rstg_pyg import VideoClassifier, models
from rstg_pyg.train.build import normalize
from rstg_pyg.train.config import Config, parse_config
from rstg_pyg.train.data.label_files import LabelFiles, find_label_files
from rstg_pyg.train.data.labels import read_classes
from rstg_pyg.train.data.paths import beside
from rstg_pyg.train.data.protocols import PROTOCOLS, Protocol, crop_clips, read_clips
from rstg_pyg.train.data.sampling import Times, test_indices
from rstg_pyg.train.data.skeletons import read_recording
from rstg_pyg.train.data.sources import FrameSource, open_video
from rstg_pyg.train.data.transforms import resize_short_side
from rstg_pyg.train.drawing.overlay import Attention, attention, find_graph
from rstg_pyg.train.drawing.video import draw_video
from rstg_pyg.train.errors import UserError, counted, printable
from rstg_pyg.train.exported import ExportedNetwork
from rstg_pyg.train.files import write_atomically
from rstg_pyg.train.predictions import Prediction, Window, Windows
from rstg_pyg.train.pretrained import find_weights, load_network
from rstg_pyg.train.schema import ClipsConfig, SkeletonConfig
from rstg_pyg.train.skeletons.build import skeleton_clips
from rstg_pyg.train.windows import is_live, windows_of_file, windows_of_stream

#: Weights of red, green and blue in gray (ITU-R 601).
_GRAY = (0.299, 0.587, 0.114)

#: A video: a file or a folder of numbered frames; or a source, and the video's name in it.
Video = str | Path | tuple[FrameSource, str]


class Predictor:
    """Predicts videos with a trained network and the preprocessing of its training.

    Args:
        model: The network, in evaluation mode.
        config: The experiment in which it was trained.
        names: The class names.
        protocol: Which clips of a video are evaluated.
        given: By which name the network was asked for. (default: the config's)

    Example:
        >>> predictor = Predictor.load("runs/smt_demo")
        >>> for label, name, probability in predictor("video.mp4", top=3):
        ...     print(f"{probability:.1%} {name}")
    """

    def __init__(
        self,
        model: Any,
        config: Config,
        names: list[str],
        protocol: Protocol,
        given: str | None = None,
    ):
        data = config.data
        self.title = given or config.name
        if Path(self.title).name != config.name:
            self.title += f" (trained with the config {config.name})"
        self.model, self.config, self.names, self.protocol = model, config, names, protocol
        if getattr(getattr(model, "head", None), "takes_boxes", False):
            raise UserError(
                "the network takes the boxes of a detector, so videos alone cannot be predicted; "
                "run.py --evaluate with data.boxes=FOLDER evaluates it"
            )
        self.num_frames = data.num_frames
        if isinstance(data, ClipsConfig):
            self.sampling, self.short_side = data.sampling, data.short_side
        else:  # generated videos have neither
            self.sampling, self.short_side = "uniform", data.clip_shape[-1]
        self.stride = getattr(data, "frame_stride", 1)
        self.size = self.short_side if protocol.whole else data.clip_shape[-1]
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        protocol: str | None = None,
        labels: str | Path | None = None,
    ) -> Predictor:
        """Reads a trained network.

        Args:
            path: A run folder, of which the best checkpoint is used, or the last; a checkpoint;
                safetensors weights; a folder of :meth:`rstg_pyg.VideoClassifier.save_pretrained`; a
                name of ``rstg_pyg.models.list()``; or an ``.onnx`` file of ``export.py``.
            device: ``"auto"``, ``"cpu"`` or ``"gpu"``.
            protocol: A name of :data:`PROTOCOLS`. (default: the config's; of an ``.onnx`` file
                ``"center1"``)
            labels: A label file with the class names. (default: those in the checkpoint, or numbers)

        Raises:
            UserError: If a file cannot be used, or there is no GPU.
        """
        if device == "gpu" and not torch.cuda.is_available():
            raise UserError("--device: there is no GPU here; use auto or cpu")
        file = find_weights(path)
        model: Any
        if file.suffix in (".onnx", ".pt2"):
            model = ExportedNetwork(file)
            config = model.config
            if protocol not in (None, "center1"):
                raise UserError("--protocol: an exported file takes clips of one size; use center1")
        else:
            model = load_network(file)
            config = parse_config(model.config, str(file))
        names = model.classes
        if labels is not None:
            names = read_names(Path(labels))
        if len(names) != model.num_classes:
            raise UserError(
                f"{labels}: has {len(names)} classes, but {path} has {model.num_classes}; give the "
                f"label file that it was trained with"
            )
        gpu = device != "cpu" and torch.cuda.is_available()
        model.to("cuda" if gpu else "cpu")
        name: Any = protocol or getattr(config.data, "protocol", "center1")
        given = file.parent.name if file.parent.parent == models.FOLDER else printable(str(path))
        return cls(model, config, names, PROTOCOLS[name], given)

    def __call__(self, video: Video | Tensor, top: int | None = None) -> list[Prediction]:
        """The classes of a video, most likely first.

        Args:
            video: A file, a folder of numbered frames, or clips as returned by :meth:`clips`:
                ``[L, C, T, H, W]`` uint8, or one ``[C, T, H, W]``.
            top: The number of classes. (default: all)

        Raises:
            UserError: If the video is missing or damaged, or the clips are not ``uint8``.
        """
        if not isinstance(video, Tensor):
            clips = self.clips(video)
        elif video.dtype == torch.uint8 and video.dim() in (4, 5):
            clips = video if video.dim() == 5 else video[None]
        else:
            raise UserError(
                f"expected clips [L, C, T, H, W] of uint8, as the frames are (got {video.dtype}, shape "
                f"{list(video.shape)})"
            )
        return self.ranked(self.logits(clips), top)

    def ranked(self, logits: Tensor, top: int | None = None) -> list[Prediction]:
        """Converts logits ``[num_classes]`` to classes with probabilities, most likely first: softmax,
        or sigmoid if videos have several labels.
        """
        count = len(logits) if top is None else min(top, len(logits))
        values, labels = self.chances(logits).topk(count)
        return [Prediction(i, self.names[i], p) for i, p in zip(labels.tolist(), values.tolist())]

    def chances(self, logits: Tensor) -> Tensor:
        """Converts logits ``[*, num_classes]`` to probabilities."""
        return logits.sigmoid() if getattr(self.model, "multi_label", False) else logits.softmax(-1)

    @property
    def takes_skeletons(self) -> bool:
        """Whether the network predicts files of skeletons instead of videos."""
        return isinstance(self.config.data, SkeletonConfig)

    def describe(self) -> str:
        """A one-line summary."""
        if self.takes_skeletons:
            return (
                f"{self.title}: {counted(len(self.names), 'class', 'classes')}; skeletons of "
                f"{counted(self.num_frames, 'frame')}, on {self.device.type}"
            )
        gray = " (gray)" if self.config.data.channels == 1 else ""
        frames = counted(self.num_frames, "frame")
        return (
            f"{self.title}: {counted(len(self.names), 'class', 'classes')}; "
            f"{self.protocol.describe()} of {frames} ({self.sampling}) at {self.size} x {self.size}"
            f"{gray} from short side {self.short_side}, on {self.device.type}"
        )

    def times(self, video: Video) -> np.ndarray:
        """The frames of each sampling in time, ``[temporal, T]``."""
        source, name = _opened(video)
        sampled = self._sample(source.num_frames(name), source.varying_times(name))
        return sampled.reshape(self.protocol.temporal, self.num_frames)

    def clips(self, video: Video) -> Tensor:
        """A video's clips ``[L, C, T, H, W]`` uint8; of a file of skeletons their features.

        Raises:
            UserError: If the video is missing or damaged.
        """
        if isinstance(self.config.data, SkeletonConfig):
            path = Path(str(video))
            return skeleton_clips(self.config.data, read_recording(path, self.config.data.bodies), path)
        clips = read_clips(
            *_opened(video), self.protocol, self.num_frames, self.short_side, self.size, self.sampling,
            self.stride,
        )  # fmt: skip
        return self.channels(clips)

    def middle_clip(self, video: Video) -> Tensor:
        """The center clip, ``[C, T, H, W]`` uint8."""
        return self.clips(video)[self.protocol.spatial // 2]

    def normalized(self, clips: Tensor) -> Tensor:
        """Normalizes ``uint8`` clips for the network and moves them to its device."""
        return normalize(clips.to(self.device), self.config)

    def logits(self, clips: Tensor) -> Tensor:
        """The mean of the clips' logits, ``[num_classes]``; one clip at a time, to save memory."""
        try:
            with torch.no_grad():
                out = [self.model(self.normalized(clip[None])) for clip in clips]
        except ValueError as e:  # a backbone that needs the size it was trained with
            raise UserError(f"--protocol {self.protocol.name}: {e}; use center1") from e
        return torch.cat(out).mean(dim=0).float().cpu()

    def stream(self, video: Video | None = None) -> Any:
        """Feeds frames to the network as they arrive.

        Only the recurrent state is kept from frame to frame, so memory does not grow with the video.
        The network must be able to stream (``predictor.model.streams``).

        Args:
            video: A video, of which the sampled frames are fed. (default: ``None``, your own frames)

        Returns:
            Of a video an iterator of the frame index and the logits of all frames so far, of which the
            last equal those of :meth:`logits`. Without a video a function that takes the next frame
            ``[H, W, 3]`` uint8 and returns the classes after it, most likely first.

        Raises:
            UserError: If the video is missing or damaged, or the network mixes frames.

        Example:
            >>> step = predictor.stream()
            >>> for frame in frames:
            ...     best = step(frame)[0]
        """
        if isinstance(self.model, ExportedNetwork):
            raise UserError("an exported file takes whole clips and cannot stream; give its run")
        if not self.model.streams:
            raise UserError("this network mixes frames and cannot stream; give it whole videos")
        return self._own_frames() if video is None else self._sampled_frames(video)

    def _own_frames(self) -> Callable[[Any], list[Prediction]]:
        state = None

        def step(frame: Any) -> list[Prediction]:
            nonlocal state
            frame = frame if isinstance(frame, Tensor) else torch.tensor(frame)
            if frame.dtype != torch.uint8:
                raise UserError(f"expected frames [H, W, 3] of uint8, 0 to 255 (got {frame.dtype})")
            frame = resize_short_side(frame[None], self.short_side)
            with torch.no_grad():
                logits, state = self.model.stream(self.normalized(self._crops(frame)), state)
            return self.ranked(logits.mean(dim=0).float().cpu())

        return step

    def _sampled_frames(self, video: Video) -> Iterator[tuple[int, Tensor]]:
        source, name = video = _opened(video)
        times = self.times(video)
        wanted = sorted(set(times.reshape(-1).tolist()))
        states: list[Any] = [None] * len(times)
        logits: list[Any] = [None] * len(times)
        for index, frame in zip(wanted, source.frames(name, wanted, self.short_side)):
            crops = self.normalized(self._crops(frame[None]))  # [spatial, C, 1, H, W]
            for i, sampled in enumerate(times):
                for _ in range(int((sampled == index).sum())):  # short videos repeat frames
                    with torch.no_grad():
                        logits[i], states[i] = self.model.stream(crops, states[i])
            yield index, torch.cat([x for x in logits if x is not None]).mean(dim=0).float().cpu()

    def windows(self, video: Video, seconds: float = 4.0, step: float | None = None) -> Windows:
        """The classes of a long video over time: of overlapping windows, each a video of its own.

        Args:
            video: A video file, or an address (``"http://..."``) that ends.
            seconds: Length of a window. The last one ends with the video. (default: 4)
            step: Seconds from the start of a window to that of the next. (default: half a window)

        Raises:
            UserError: If the video cannot be read, has no frame rate, or a number is not positive.

        Example:
            >>> found = predictor.windows("long.mp4", seconds=4)
            >>> found[0].predictions[0].name
            >>> found.save("long.csv")  # or .json, or a picture: .png
        """
        return Windows(self.watch(video, seconds, step))

    def watch(self, video: Video, seconds: float = 4.0, step: float | None = None) -> Iterator[Window]:
        """:meth:`windows`, each as soon as it is computed. Memory does not grow with the video.

        Args:
            video: A video file, an address (``"rtsp://..."``), or a camera (``"camera:0"``).
            seconds: Length of a window. (default: 4)
            step: Seconds from the start of a window to that of the next. (default: half a window)

        Raises:
            UserError: If the video cannot be read, has no frame rate, or a number is not positive.
        """
        step = seconds / 2 if step is None else step
        if not (seconds > 0 and step > 0):
            raise UserError(f"expected windows of more than 0 seconds (got {seconds:g}, step {step:g})")
        if is_live(video):
            parts = windows_of_stream(str(video), self._sample, self.short_side, seconds, step)
        else:
            opened = _opened(video)
            parts = windows_of_file(*opened, self._sample, self.short_side, seconds, step)
        for start, end, frames in parts:
            yield Window(start, end, self(self._crops(frames)))

    def _sample(self, length: int, times: Times | None) -> np.ndarray:
        """The frames of all clips of a video of so many, ``[temporal * T]``."""
        count = self.protocol.temporal
        found = test_indices(length, self.num_frames, self.sampling, count, times, self.stride)
        return np.concatenate(found)

    def attention(self, video: Video, place: str | None = None) -> Attention:
        """The attention between the nodes of a graph, for the center clip.

        Args:
            video: The video.
            place: The graph, such as ``"res3"`` or ``"head"``. (default: the last)

        Raises:
            UserError: If the video is missing or damaged, or the graph has no attention.
        """
        self.check_attention(place)
        return attention(self.model, self.normalized(self.middle_clip(video)), place)

    def check_attention(self, place: str | None = None) -> None:
        """Checks that :meth:`attention` has something to show.

        Raises:
            UserError: If not.
        """
        if not isinstance(self.model, VideoClassifier):
            raise UserError("an exported network has no graph to look into; give the run it is from")
        find_graph(self.model, place)

    def draw_attention(
        self, video: Video, out: Path, title: str = "", place: str | None = None
    ) -> Attention:
        """Draws :meth:`attention` on the video: a page for the browser (``.html``), or a picture or
        animation of the clip (``.png``, ``.gif``).

        Args:
            video: The video.
            out: The file.
            title: The title, such as the predicted class.
            place: The graph. (default: the last)

        Raises:
            UserError: See :meth:`attention`; or if the file cannot be written.
        """
        video = _opened(video)
        found = self.attention(video, place)
        write_atomically(out, draw_video(self, video, found, title, out.suffix))
        return found

    def _crops(self, frames: Tensor) -> Tensor:
        """Clips ``[L, C, T, H, W]`` of frames ``[temporal * T, H, W, 3]``, or one frame's crops."""
        count = min(self.num_frames, len(frames))
        return self.channels(crop_clips(frames, self.protocol, count, self.size))

    def channels(self, clips: Tensor) -> Tensor:
        """Converts to gray if the network takes gray clips, ``[L, 3, ...] -> [L, C, ...]`` uint8."""
        if self.config.data.channels == 3:
            return clips
        shares = clips.new_tensor(_GRAY, dtype=torch.float32).view(-1, *[1] * (clips.dim() - 2))
        return (clips * shares).sum(dim=1, keepdim=True).round().to(torch.uint8)


def _opened(video: Video) -> tuple[FrameSource, str]:
    return video if isinstance(video, tuple) else open_video(video)


def read_names(path: Path) -> list[str]:
    """The class names from a label file, or from the label file in a data set's folder.

    Raises:
        UserError: If there is no label file, or it is damaged.
    """
    if path.is_dir():
        return read_classes(find_label_files(path))
    if not path.is_file():
        raise UserError(f"--labels: {path} does not exist{beside(path.name, path.parent)}")
    return read_classes(LabelFiles(path.parent, "v1", path, {}))
