"""A training as formulas, in plain loops, against a run: every number of it."""

import copy
import math

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from helpers.results import rows_of
from helpers.tiny_run import write_tiny

from rstg_pyg.train import fit
from rstg_pyg.train.build import build_dataset, build_model
from rstg_pyg.train.config import load_config

VIDEOS = {"train": 67, "val": 51, "test": 33}  # no multiples of a batch
BASE = {
    "batch_size": 20, "accumulate": 2, "base_batch": 40, "lr": 0.004, "backbone_lr": 0.01,
    "weight_decay": 0.2, "momentum": 0.85, "beta2": 0.95, "clip": 0.3, "label_smoothing": 0.1,
    "ema": 0.8, "warmup": 0.3, "milestones": [0.4, 0.8], "epochs": 3, "validate_every": 2,
    "log_every": 2,
}  # fmt: skip
SGD = {"optimizer": "sgd", "schedule": "multistep", "lr": 0.05, "backbone_lr": 0.1, "ema": None}
CONSTANT = {"schedule": "constant", "clip": None, "warmup": 0.0, "accumulate": 1, "max_steps": 5}


def rate(train, step, steps):
    """Of a step, counted from zero, as a share of the highest."""
    share = min(1, (step + 1) / max(1, round(train.warmup * steps)))
    if train.schedule == "cosine":
        share *= (1 + math.cos(math.pi * step / steps)) / 2
    if train.schedule == "multistep":
        share *= 0.1 ** len([part for part in train.milestones if step >= part * steps])
    return share


def move(train, p, grad, lr, moments, step):
    """A step of a parameter (AdamW, or SGD with Nesterov's momentum); vectors do not decay."""
    decay = train.weight_decay if p.dim() > 1 else 0
    if train.optimizer == "sgd":
        grad = grad + decay * p
        moments[0] = grad if step == 0 else train.momentum * moments[0] + grad
        return p.sub_(lr * (grad + train.momentum * moments[0]))
    p.mul_(1 - lr * decay)
    moments[0] = train.momentum * moments[0] + (1 - train.momentum) * grad
    moments[1] = train.beta2 * moments[1] + (1 - train.beta2) * grad**2
    mean, square = (
        m / (1 - beta ** (step + 1)) for m, beta in zip(moments, (train.momentum, train.beta2))
    )
    return p.sub_(lr * mean / (square.sqrt() + 1e-8))


def scored(logits, labels):
    """Sums of the losses and of the right answers, and how many there are."""
    right, count = (logits.argmax(1) == labels).sum(), torch.tensor(len(labels))
    return torch.stack([F.cross_entropy(logits, labels, reduction="sum"), right, count])


def by_hand(config):
    """The rows of ``metrics.csv``, the results of the test, and the weights."""
    train, count = config.train, VIDEOS["train"]
    data = {split: build_dataset(config, split) for split in VIDEOS}
    pl.seed_everything(config.seed, verbose=False)
    model = build_model(config, 4).train()

    def forward(split, items, model):
        clips, labels = zip(*(data[split][item] for item in items))
        clips = (torch.stack(clips).float() - config.data.mean) / config.data.std
        return model(clips), torch.tensor(labels)

    def evaluated(split):
        kept = copy.deepcopy(model).eval()
        kept.load_state_dict(average if train.ema else model.state_dict())
        with torch.no_grad():  # one video at a time
            sums = sum(scored(*forward(split, [item], kept)) for item in range(VIDEOS[split]))
        return (sums[:2] / sums[2]).tolist(), kept.state_dict()

    parameters = dict(model.named_parameters())
    moments = {name: [0.0, 0.0] for name in parameters}
    per_epoch = count // train.batch_size
    steps = min(train.epochs * per_epoch, train.max_steps or 1_000)
    scale = train.batch_size / train.base_batch
    rows, sums, average = [], 0, None
    for step in range(steps):
        generator = torch.Generator().manual_seed((config.seed << 20) + step // per_epoch)
        order = torch.randperm(count, generator=generator).split(train.batch_size)
        model.zero_grad()
        for part in order[step % per_epoch].chunk(train.accumulate):
            logits, labels = forward("train", part.tolist(), model)
            target = F.one_hot(labels, 4) * (1 - train.label_smoothing) + train.label_smoothing / 4
            (-(target * logits.log_softmax(1)).sum() / train.batch_size).backward()
            sums = sums + scored(logits.detach(), labels)
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in parameters.values()))
        shrunk = min(1, train.clip / (norm + 1e-6)) if train.clip else 1
        share = rate(train, step, steps)
        with torch.no_grad():
            for name, p in parameters.items():
                lr = train.backbone_lr if name.startswith("backbone.") else train.lr
                move(train, p, p.grad * shrunk, lr * scale * share, moments[name], step)
        now = {name: value.clone() for name, value in model.state_dict().items()}
        if train.ema and average is not None:
            for name, value in now.items():
                if value.is_floating_point():
                    now[name] = train.ema * average[name] + (1 - train.ema) * value
        average = now
        if (step + 1) % train.log_every == 0:
            rows.append((step + 1, "train", *(sums[:2] / sums[2]).tolist(), train.lr * scale * share))
            sums = 0
        if (step + 1) % train.validate_every == 0 or step + 1 == steps:
            rows.append((step + 1, "val", *evaluated("val")[0]))
    return rows, *evaluated("test")


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, SGD, CONSTANT], ids=["adamw", "sgd", "constant"])
def test_every_number_of_a_run_by_hand(tmp_path, monkeypatch, changes):
    """Order of videos, losses, clipping, decay, rates, averages of weights, and means over batches that
    are not equal.
    """
    monkeypatch.chdir(tmp_path)
    write_tiny(
        tmp_path, data={f"{split}_videos": count for split, count in VIDEOS.items()},
        # The gradient of the key's bias is zero with attention=dot: Adam would divide noise by noise.
        model={"rstg": {"attention": "additive", "in_norm": "batch"}},
        train={**BASE, **changes}, trainer={"precision": "32-true"},
    )  # fmt: skip
    run = fit("tiny.yaml", out="run")
    rows, tested, weights = by_hand(load_config("tiny.yaml"))
    found = rows_of("run/metrics.csv")
    assert [(int(row["step"]), row["split"]) for row in found] == [row[:2] for row in rows]
    for row, (_, _, *numbers) in zip(found, rows):
        values = [float(row[key]) for key in ("loss", "top1", "lr") if row[key]]
        assert values == pytest.approx(numbers, rel=1e-4)
    assert [run.results["loss"], run.results["top1"]] == pytest.approx(tested, rel=1e-4)
    path = run.folder / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)["state_dict"]
    for name, value in weights.items():
        torch.testing.assert_close(saved[f"model.{name}"], value, atol=1e-5, rtol=1e-5)
