"""A small network in a checkpoint, and short videos for it."""

import json

import av
import numpy as np
import torch
from PIL import Image

from rstg_pyg.train.build import build_model
from rstg_pyg.train.config import parse_config, to_dict

NAMES = ["Moving something up", "Moving something down", "Something, anything"]
VALUES = {
    "name": "tiny",
    "data": {
        "dataset": "something", "num_frames": 4, "short_side": 24, "crop_size": 20, "mean": 100.0,
        "std": 50.0, "sampling": "segments",
    },
    "model": {
        "backbone": {"kind": "simple_conv", "filters": [6, 6], "padding": 1},
        "rstg": {"places": ["head"], "hidden_channels": 8, "scales": [2, 1], "num_rounds": 2},
    },
}  # fmt: skip


def write_checkpoint(path, values=VALUES, names=NAMES, rstg=None, **data):
    values = json.loads(json.dumps(values))
    values["data"].update(data)
    values["model"]["rstg"].update(rstg or {})
    config = parse_config(values, "test")
    torch.manual_seed(0)
    model = build_model(config, len(names)).eval()
    for weight in model.parameters():
        weight.data += 0.3 * torch.randn_like(weight)
    found = {"config": to_dict(config), "origin": "test", "global_step": 7, "label_names": names}
    found["state_dict"] = {f"model.{k}": v for k, v in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(found, path)
    return config, model


def picture(i, size=(30, 40)):
    rng = np.random.default_rng(i // 3)
    small = rng.integers(0, 255, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.BICUBIC))


def write_video(path, count=9, codec="mpeg4", pix="yuv420p"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = 30, 40, pix
        for i in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(i)).reformat(format=pix)))
        container.mux(stream.encode())


def write_frames(folder, count=9):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(picture(i)).save(folder / f"img_{i:05d}.png")
