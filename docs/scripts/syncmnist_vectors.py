"""How soon is the pair found when every digit is known?
``python docs/scripts/syncmnist_vectors.py MNIST OUT``.

The input of every frame is a vector: which of the ten digits are in the video, and where each one is,
or how far it moved since the frame before (both from the generator). Small networks learn the task of
SyncMNIST from it, without filters or a graph. ``OUT`` is a JSON file; some 12 minutes on one core.
"""

import json
import math
import sys
import time

import torch
from torch import Tensor, nn

import rstg_pyg.train.data.syncmnist.videos as generator
from rstg_pyg.train.build import build_dataset
from rstg_pyg.train.config import load_config

BATCH, LR, SEED = 64, 0.003, 0
#: Digits, what is known of each one, network, width, steps, noise of the positions (canvas pixels).
TRIALS = [
    (3, "positions", "LSTM", 64, 2000, 0.0),
    (3, "positions", "MLP of two frames", 128, 1500, 0.0),
    (3, "positions", "LSTM", 256, 1500, 0.0),
    (3, "steps", "LSTM", 64, 1000, 0.0),
    (3, "steps", "LSTM", 256, 1000, 0.0),
    (3, "steps", "MLP of two frames", 128, 1000, 0.0),
    (3, "both", "LSTM", 64, 1000, 0.0),
    (3, "steps", "LSTM", 64, 1000, 0.78),
    (5, "steps", "LSTM", 64, 1500, 0.0),
    (5, "steps", "MLP of two frames", 128, 1000, 0.0),
    (5, "steps", "LSTM", 64, 9375, 0.0),
    (5, "steps", "LSTM", 64, 9375, 1.9),
    (5, "steps", "LSTM", 256, 9375, 0.0),
    (5, "steps", "LSTM", 256, 9375, 1.9),
]


class Recurrent(nn.Module):
    """An LSTM over the frames, and the mean of its outputs after a layer."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.lstm = nn.LSTM(channels, width, batch_first=True)
        self.layer = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.out = nn.Linear(width, 46)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, C]`` to ``[B, 46]``."""
        return self.out(self.layer(self.lstm(x)[0]).mean(1))


class TwoFrames(nn.Module):
    """An MLP of every frame and the one before, the mean over time, and another MLP."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        layers = [nn.Linear(2 * channels, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        self.pair = nn.Sequential(*layers)
        self.out = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 46))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, C]`` to ``[B, 46]``."""
        return self.out(self.pair(torch.cat([x[:, 1:], x[:, :-1]], -1)).mean(1))


def vectors(videos: generator.Videos, known: str, noise: float) -> Tensor:
    """What is known of all ten digits, ``[B, T, 10 C]``; zero for those that are not there."""
    where = (videos.corners.float() - 36) / 25
    if noise:
        where = where + noise / 25 * torch.randn(where.shape)
    if known != "positions":
        moved = torch.zeros_like(where)
        moved[:, 1:] = where.diff(dim=1) * 4
        where = moved if known == "steps" else torch.cat([where, moved], -1)
    found = torch.cat([torch.ones_like(where[..., :1]), where], -1)  # [B, T, D, C]
    x = torch.zeros(*found.shape[:2], 10, found.size(-1))
    return x.scatter(2, videos.classes[:, None, :, None].expand_as(found), found).flatten(2)


def trial(
    root: str, digits: int, known: str, network: str, width: int, steps: int, noise: float
) -> dict:
    """One training; its curve: steps, loss and top-1 (%) on a tenth of the training videos each."""
    overrides = ["size=small", f"data.root={root}", f"data.num_digits={digits}"]
    config = load_config("syncmnist/ours.yaml", overrides)
    torch.manual_seed(SEED)
    videos = build_dataset(config, "train", num_videos=10_000_000)
    channels = vectors(videos.videos([0]), known, 0.0).size(-1)
    model = {"LSTM": Recurrent, "MLP of two frames": TwoFrames}[network](channels, width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min(1, (s + 1) / (0.03 * steps)) * 0.5 * (1 + math.cos(math.pi * s / steps)),
    )
    begin, curve, loss_sum, right = time.process_time(), [], 0.0, 0.0
    part = steps // 10
    for step in range(steps):
        batch = videos.videos(torch.arange(BATCH) + step * BATCH)
        logits = model(vectors(batch, known, noise))
        loss = nn.functional.cross_entropy(logits, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        loss_sum += loss.item()
        right += (logits.argmax(1) == batch.labels).float().mean().item()
        if (step + 1) % part == 0:
            curve.append([step + 1, round(loss_sum / part, 2), round(100 * right / part, 1)])
            loss_sum = right = 0.0
    names = ("digits", "known", "network", "width", "steps", "noise")
    values = (digits, known, network, width, steps, noise)
    return dict(zip(names, values)) | {"curve": curve, "seconds": round(time.process_time() - begin)}


def main() -> None:
    """All trials; writes the file."""
    root, out = sys.argv[1:]
    torch.set_num_threads(1)
    generator.paint = lambda images, corners, size: corners  # videos are not painted
    generator.stretch = lambda frames: frames
    generator.resize = lambda frames, size: torch.zeros(len(frames), 1, 1, 1)
    found = []
    for settings in TRIALS:
        found.append(trial(root, *settings))
        print(found[-1], flush=True)
    with open(out, "w") as file:
        json.dump(
            {"batch": BATCH, "lr": LR, "seed": SEED, "threads": 1, "trials": found}, file, indent=1
        )


if __name__ == "__main__":
    main()
