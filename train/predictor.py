"""A trained network with all that belongs to it: sampling, scaling, names of classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rstg_pyg import VideoClassifier
from rstg_pyg.train.build import build_model, normalize
from rstg_pyg.train.config import Config, parse_config
from rstg_pyg.train.data.label_files import LabelFiles, find_label_files
from rstg_pyg.train.data.labels import read_classes
from rstg_pyg.train.data.paths import beside
from rstg_pyg.train.data.protocols import PROTOCOLS, Protocol, read_clips
from rstg_pyg.train.data.sampling import test_indices
from rstg_pyg.train.data.sources import FrameSource
from rstg_pyg.train.data.transforms import center_crop, spread_crops
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.run_folder.weights import load_weights, open_weights

#: Shares of red, green and blue in gray (ITU-R 601).
_GRAY = (0.299, 0.587, 0.114)


class Predictor:
    """Predicts videos as a network saw them in training.

    Args:
        model: The network, in evaluation mode.
        config: The experiment that it comes from.
        names: The names of the classes.
        protocol: Which clips of a video are looked at.
    """

    def __init__(self, model: VideoClassifier, config: Config, names: list[str], protocol: Protocol):
        data = config.data
        self.model, self.config, self.names, self.protocol = model, config, names, protocol
        self.num_frames = data.num_frames
        if data.dataset == "something":
            self.sampling, self.short_side = data.sampling, data.short_side
        else:  # generated videos have neither
            self.sampling, self.short_side = "uniform", data.size
        self.size = self.short_side if protocol.whole else data.size
        self.device = next(model.parameters()).device

    @classmethod
    def load(
        cls,
        path: Path,
        device: str = "auto",
        protocol: str | None = None,
        labels: Path | None = None,
    ) -> Predictor:
        """Reads a checkpoint of a run, or safetensors weights.

        Args:
            path: The file.
            device: ``"auto"``, ``"cpu"`` or ``"gpu"``.
            protocol: A name of :data:`PROTOCOLS`. (default: the config's)
            labels: A label file, for the names of the classes. (default: those in the checkpoint, or
                numbers)

        Raises:
            UserError: If a file cannot be used, or there is no GPU.
        """
        if device == "gpu" and not torch.cuda.is_available():
            raise UserError("--device: there is no GPU here; use auto or cpu")
        found = open_weights(path)
        config = parse_config({"name": "weights", **found["config"]}, str(path))
        weights = found["state_dict"]
        if "lin.weight" not in weights or weights["lin.weight"].dim() != 2:
            raise UserError(
                f"{path}: expected the weights of a video classifier (it has no lin.weight)"
            )
        count = weights["lin.weight"].size(0)
        names = found.get("label_names") or [f"class {i}" for i in range(count)]
        if labels is not None:
            names = read_names(labels)
        if len(names) != count:
            raise UserError(
                f"{labels or path}: has {len(names)} classes, but {path} was made for {count}; give "
                f"the label file that belongs to it"
            )
        model = build_model(config, count)
        load_weights(model, weights, path)
        gpu = device != "cpu" and torch.cuda.is_available()
        model.eval().to("cuda" if gpu else "cpu")
        name = protocol or getattr(config.data, "protocol", "center1")
        return cls(model, config, names, PROTOCOLS[name])

    def describe(self) -> str:
        """One line with every number."""
        gray = " (gray)" if self.config.data.channels == 1 else ""
        return (
            f"{self.config.name}: {len(self.names)} classes; {self.protocol.describe()} of "
            f"{self.num_frames} frames ({self.sampling}) at {self.size} x {self.size}{gray} from short "
            f"side {self.short_side}, on {self.device.type}"
        )

    @property
    def middle(self) -> int:
        """The clip in the middle of the frame, among those of :meth:`clips`."""
        return self.protocol.spatial // 2

    def times(self, source: FrameSource, video: str) -> np.ndarray:
        """The frames of each sampling in time, ``[temporal, T]``."""
        length = source.num_frames(video)
        return np.stack(test_indices(length, self.num_frames, self.sampling, self.protocol.temporal))

    def clips(self, source: FrameSource, video: str) -> Tensor:
        """A video's clips ``[L, C, T, H, W]`` uint8.

        Raises:
            UserError: If the video is missing or damaged.
        """
        return self.channels(
            read_clips(
                source, video, self.protocol, self.num_frames, self.short_side, self.size, self.sampling
            )
        )

    def middle_clip(self, source: FrameSource, video: str) -> Tensor:
        """The clip in the middle of the frame, ``[C, T, H, W]`` uint8, without reading the others."""
        times = self.times(source, video)[0]
        frames = source.read(video, times, self.short_side)
        clip = self._crops(frames)[self.middle]
        return self.channels(clip.permute(3, 0, 1, 2)[None])[0]

    def normalized(self, clips: Tensor) -> Tensor:
        """Bytes to what the network sees, on its device."""
        return normalize(clips.to(self.device), self.config)

    def logits(self, clips: Tensor) -> Tensor:
        """The mean of the clips' logits, ``[num_classes]``; one clip at a time, to save memory."""
        try:
            with torch.no_grad():
                out = [self.model(self.normalized(clip[None])) for clip in clips]
        except ValueError as e:  # a backbone that wants the size it was trained with
            raise UserError(f"--protocol {self.protocol.name}: {e}; use center1") from e
        return torch.cat(out).mean(dim=0).float().cpu()

    def stream(self, source: FrameSource, video: str) -> Iterator[tuple[int, Tensor]]:
        """Feeds the sampled frames to the network as they arrive, with its state carried on.

        Neither frames nor maps are kept, so memory does not grow with the video.

        Yields:
            The frame's number and the logits of all frames so far; the last ones are those of
            :meth:`logits`.

        Raises:
            UserError: If the video is missing or damaged.
        """
        times = self.times(source, video)
        wanted = sorted(set(times.reshape(-1).tolist()))
        states, logits = [None] * len(times), [None] * len(times)
        for index, frame in zip(wanted, source.frames(video, wanted, self.short_side)):
            crops = torch.stack([crop.permute(3, 0, 1, 2) for crop in self._crops(frame[None])])
            crops = self.normalized(self.channels(crops))  # [spatial, C, 1, H, W]
            for i, part in enumerate(times):
                for _ in range(int((part == index).sum())):  # short videos repeat frames
                    with torch.no_grad():
                        logits[i], states[i] = self.model.stream(crops, states[i])
            yield index, torch.cat([x for x in logits if x is not None]).mean(dim=0).float().cpu()

    def _crops(self, frames: Tensor) -> list[Tensor]:
        if self.protocol.spatial == 1:
            return [center_crop(frames, self.size)]
        return spread_crops(frames, self.size, self.protocol.spatial)

    def channels(self, clips: Tensor) -> Tensor:
        """Gray for a network that sees gray, ``[L, 3, ...] -> [L, C, ...]`` uint8."""
        if self.config.data.channels == 3:
            return clips
        shares = clips.new_tensor(_GRAY, dtype=torch.float32).view(-1, *[1] * (clips.dim() - 2))
        return (clips * shares).sum(dim=1, keepdim=True).round().to(torch.uint8)


def read_names(path: Path) -> list[str]:
    """The names of the classes from a label file, or from the one in a data set's folder.

    Raises:
        UserError: If there is none, or it is damaged.
    """
    if path.is_dir():
        return read_classes(find_label_files(path))
    if not path.is_file():
        raise UserError(f"--labels: {path} does not exist{beside(path.name, path.parent)}")
    return read_classes(LabelFiles(path.parent, "v1", path, {}))
