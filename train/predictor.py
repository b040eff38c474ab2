"""A trained network with everything needed to predict: sampling, preprocessing, class names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rstg_pyg import VideoClassifier
from rstg_pyg.train.build import normalize
from rstg_pyg.train.config import Config, parse_config
from rstg_pyg.train.data.label_files import LabelFiles, find_label_files
from rstg_pyg.train.data.labels import read_classes
from rstg_pyg.train.data.paths import beside
from rstg_pyg.train.data.protocols import PROTOCOLS, Protocol, read_clips
from rstg_pyg.train.data.sampling import test_indices
from rstg_pyg.train.data.sources import FrameSource, open_video
from rstg_pyg.train.data.transforms import center_crop, spread_crops
from rstg_pyg.train.drawing.overlay import Attention, attention, overlay
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import write_atomically
from rstg_pyg.train.pretrained import find_weights, load_network
from rstg_pyg.train.schema import ClipsConfig

#: Weights of red, green and blue in gray (ITU-R 601).
_GRAY = (0.299, 0.587, 0.114)

#: A video: a file or a folder of numbered frames; or a source, and the video's name in it.
Video = str | Path | tuple[FrameSource, str]


class Prediction(NamedTuple):
    """A class and its probability.

    Attributes:
        label: The class index.
        name: The class name.
        probability: The softmax probability over all classes.
    """

    label: int
    name: str
    probability: float


class Predictor:
    """Predicts videos with a trained network and the preprocessing of its training.

    Args:
        model: The network, in evaluation mode.
        config: The experiment in which it was trained.
        names: The class names.
        protocol: Which clips of a video are evaluated.

    Example:
        >>> predictor = Predictor.load("runs/smt_demo")
        >>> for label, name, probability in predictor("video.mp4", top=3):
        ...     print(f"{probability:.1%} {name}")
    """

    def __init__(self, model: VideoClassifier, config: Config, names: list[str], protocol: Protocol):
        data = config.data
        self.model, self.config, self.names, self.protocol = model, config, names, protocol
        self.num_frames = data.num_frames
        if isinstance(data, ClipsConfig):
            self.sampling, self.short_side = data.sampling, data.short_side
        else:  # generated videos have neither
            self.sampling, self.short_side = "uniform", data.size
        self.stride = getattr(data, "frame_stride", 1)
        self.size = self.short_side if protocol.whole else data.size
        self.device = next(model.parameters()).device

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
                safetensors weights; a folder of :meth:`rstg_pyg.VideoClassifier.save_pretrained`; or a
                name of ``rstg_pyg.models.list()``.
            device: ``"auto"``, ``"cpu"`` or ``"gpu"``.
            protocol: A name of :data:`PROTOCOLS`. (default: the config's)
            labels: A label file with the class names. (default: those in the checkpoint, or numbers)

        Raises:
            UserError: If a file cannot be used, or there is no GPU.
        """
        if device == "gpu" and not torch.cuda.is_available():
            raise UserError("--device: there is no GPU here; use auto or cpu")
        model = load_network(find_weights(path))
        config, names = parse_config(model.config, str(path)), model.classes or []
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
        return cls(model, config, names, PROTOCOLS[name])

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
        """Converts logits ``[num_classes]`` to classes with probabilities, most likely first."""
        count = len(logits) if top is None else min(top, len(logits))
        values, labels = logits.softmax(0).topk(count)
        return [Prediction(i, self.names[i], p) for i, p in zip(labels.tolist(), values.tolist())]

    def describe(self) -> str:
        """A one-line summary."""
        gray = " (gray)" if self.config.data.channels == 1 else ""
        return (
            f"{self.config.name}: {len(self.names)} classes; {self.protocol.describe()} of "
            f"{self.num_frames} frames ({self.sampling}) at {self.size} x {self.size}{gray} from short "
            f"side {self.short_side}, on {self.device.type}"
        )

    def times(self, video: Video) -> np.ndarray:
        """The frames of each sampling in time, ``[temporal, T]``."""
        source, name = _opened(video)
        length = source.num_frames(name)
        times = source.varying_times(name)
        count = self.protocol.temporal
        return np.stack(test_indices(length, self.num_frames, self.sampling, count, times, self.stride))

    def clips(self, video: Video) -> Tensor:
        """A video's clips ``[L, C, T, H, W]`` uint8.

        Raises:
            UserError: If the video is missing or damaged.
        """
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

    def stream(self, video: Video) -> Iterator[tuple[int, Tensor]]:
        """Feeds the sampled frames to the network as they arrive.

        Only the recurrent state is kept from frame to frame, so memory does not grow with the video.
        The network must be able to stream (``predictor.model.streams``).

        Yields:
            The frame index and the logits of all frames so far; the last ones equal those of
            :meth:`logits`.

        Raises:
            UserError: If the video is missing or damaged.
        """
        source, name = video = _opened(video)
        times = self.times(video)
        wanted = sorted(set(times.reshape(-1).tolist()))
        states: list[Any] = [None] * len(times)
        logits: list[Any] = [None] * len(times)
        for index, frame in zip(wanted, source.frames(name, wanted, self.short_side)):
            crops = torch.stack([crop.permute(3, 0, 1, 2) for crop in self._crops(frame[None])])
            crops = self.normalized(self.channels(crops))  # [spatial, C, 1, H, W]
            for i, sampled in enumerate(times):
                for _ in range(int((sampled == index).sum())):  # short videos repeat frames
                    with torch.no_grad():
                        logits[i], states[i] = self.model.stream(crops, states[i])
            yield index, torch.cat([x for x in logits if x is not None]).mean(dim=0).float().cpu()

    def attention(self, video: Video, place: str | None = None) -> Attention:
        """The attention between the nodes of a graph, for the center clip.

        Args:
            video: The video.
            place: The graph, such as ``"res3"`` or ``"head"``. (default: the last)

        Raises:
            UserError: If the video is missing or damaged, or the graph has no attention.
        """
        return attention(self.model, self.normalized(self.middle_clip(video)), place)

    def draw_attention(
        self, video: Video, out: Path, title: str = "", place: str | None = None
    ) -> Attention:
        """Draws :meth:`attention` on the clip's frames, into a ``.png`` or ``.gif`` file.

        Args:
            video: The video.
            out: The file.
            title: The title, such as the predicted class.
            place: The graph. (default: the last)

        Raises:
            UserError: See :meth:`attention`; or if the file cannot be written.
        """
        source, name = video = _opened(video)
        clip = self.middle_clip(video)
        found = attention(self.model, self.normalized(clip), place)
        seconds = source.times(name)
        captions = [
            f"frame {index + 1}" + ("" if seconds is None else f", {seconds[index]:.2f} s")
            for index in self.times(video)[0].tolist()
        ]
        write_atomically(out, overlay(clip, found, title, captions, out.suffix))
        return found

    def _crops(self, frames: Tensor) -> list[Tensor]:
        if self.protocol.spatial == 1:
            return [center_crop(frames, self.size)]
        return spread_crops(frames, self.size, self.protocol.spatial)

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
