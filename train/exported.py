"""A network that ``export.py`` wrote as ONNX, in the place of the one that it was made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rstg_pyg.train.config import Config, parse_config
from rstg_pyg.train.errors import UserError


def open_session(path: Path) -> Any:
    """A session of onnxruntime for a file, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class ExportedNetwork(torch.nn.Module):
    """Runs an ``.onnx`` file of ``export.py``, which normalizes clips itself.

    Args:
        path: The file.

    Attributes:
        config (Config): A config with the file's sampling and sizes.
        classes (list of str): The names of the classes.

    Raises:
        UserError: If the file cannot be read, or was not written by ``export.py`` for whole clips.
    """

    streams = False

    def __init__(self, path: Path):
        super().__init__()
        if path.suffix == ".pt2":
            raise UserError(
                f"{path}: torch may run code of such a file; give the run, or an .onnx file"
            )
        if not path.is_file():
            raise UserError(f"{path}: there is no such file")
        try:
            self.session = open_session(path)
            about = json.loads(self.session.get_modelmeta().custom_metadata_map["rstg_pyg"])
            self.classes = about["classes"]
            self.multi_label = about.get("multi_label", False)
            gray = about["channels"] == 1
            size = {"frame_size" if gray else "crop_size": about["size"]}
            if not gray:
                size |= {"short_side": about["short_side"], "sampling": about["sampling"]}
                size["frame_stride"] = about.get("stride", 1)
            data = {"dataset": "syncmnist" if gray else "folder", "num_frames": about["frames"], **size}
            values = {"name": about["network"], "data": {**data, "mean": 0.0, "std": 1.0}}
            self.config: Config = parse_config(values, str(path))
        except ModuleNotFoundError as e:
            raise UserError(f'{path}: {e}; pip install "rstg_pyg[export]"') from e
        except (KeyError, TypeError):
            raise UserError(f"{path}: expected a file of export.py (it says no classes)") from None
        except Exception as e:  # onnxruntime has its own kinds, which no other package needs to know
            raise UserError(f"{path}: cannot be read ({str(e).splitlines()[0][:150]})") from e
        if len(self.session.get_inputs()) > 1:
            raise UserError(f"{path}: is a step of a stream; give the run, or a file of whole clips")
        self.num_classes = len(self.classes)

    def forward(self, clips: Tensor) -> Tensor:
        """Logits of clips ``[B, C, T, H, W]`` with values 0..255."""
        feed = {self.session.get_inputs()[0].name: clips.to(torch.uint8).cpu().numpy()}
        return torch.from_numpy(self.session.run(None, feed)[0])
