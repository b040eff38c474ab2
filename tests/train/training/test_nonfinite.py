"""A loss or a gradient that is not finite stops the run and is named."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from helpers.tiny_run import write_tiny
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.utils._python_dispatch import TorchDispatchMode

from rstg_pyg.train.build import build_dataset, build_model
from rstg_pyg.train.config import load_config
from rstg_pyg.train.errors import NonFiniteError
from rstg_pyg.train.run import main
from rstg_pyg.train.training.callbacks import StopOnNonFinite, first_nonfinite
from rstg_pyg.train.training.task import VideoTask
from rstg_pyg.train.training.trainer import train_loader

CONFIG = {
    "data": {"val_videos": 8, "test_videos": 8},
    "model": {
        "backbone": {"filters": [4, 4, 4], "pool": False},
        "rstg": {"hidden_channels": 4, "num_rounds": 1, "out_norm": "layer"},
    },
    "train": {"epochs": 2, "validate_every": 4, "log_every": 2, "warmup": 0.0, "schedule": "constant"},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path, **CONFIG)
    return tmp_path


@pytest.mark.parametrize(
    "more", [[], ["train.accumulate=4"], ["trainer.precision=bf16-mixed"]], ids=str
)
def test_a_rate_that_is_too_high(folder, capsys, more):
    """The first step makes weights of which the second one's forward pass is not finite."""
    assert main(["--cfg", "tiny.yaml", "--out", "run", "train.lr=1e30", *more]) == 1
    error = capsys.readouterr().err
    assert error.startswith(
        "error: step 2: the loss is nan; the output of module 'model.backbone.stages."
    )
    assert "is the first that is not finite" in error and "often a lower train.lr (now 1e+30)" in error
    config = load_config("tiny.yaml")
    visits = train_loader(config, build_dataset(config, "train")).visits(1)
    assert f"\nits videos: {', '.join(f'video {i}' for i in visits.tolist())}\n" in error
    assert not Path("run/results.json").exists() and not [*Path("run/checkpoints").iterdir()]


def test_the_last_good_checkpoint_stays(folder, capsys, monkeypatch):
    def step(self, batch, i):
        return original(self, batch, i) * (float("inf") if self.global_step == 5 else 1.0)

    original = VideoTask.training_step
    monkeypatch.setattr(VideoTask, "training_step", step)
    assert main(["--cfg", "tiny.yaml", "--out", "run"]) == 1
    error = capsys.readouterr().err
    assert "step 6: the loss is inf; all outputs are finite, the gradient of 'model" in error
    saved = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 4 and all(x.isfinite().all() for x in saved["state_dict"].values())


def test_the_filters_alone(folder, capsys):
    assert main(["--cfg", "tiny.yaml", "pretrain.steps=20", "pretrain.lr=1e30"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: pre-training, step 2: the loss is nan")
    assert "often a lower pretrain.lr (now 1e+30)" in error


def test_the_innermost_first_module_is_named():
    class Cell(torch.nn.Module):
        def forward(self, x):
            return [x, (x * float("inf"), None)]

    class Last(torch.nn.Module):
        def forward(self, x):
            return x[1][0]

    layers = torch.nn.Sequential(
        torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.ReLU(), Cell()), Last()
    )
    assert first_nonfinite(layers, [torch.ones(1, 2)]) == "1.1"
    assert first_nonfinite(layers[0], [torch.ones(1, 2)]) is None
    assert first_nonfinite(layers[0], [torch.ones(1, 2), torch.full((1, 2), float("nan"))]) == ""
    assert not any(m._forward_hooks for m in layers.modules())


class Scales(pl.Callback):
    def __init__(self, scaler):
        self.scaler, self.scales, self.weights = scaler, [], []

    def on_train_batch_end(self, trainer, task, *args):
        self.scales.append(self.scaler.get_scale())
        self.weights.append(task.model.lin.weight.detach().clone())


def fit(folder, overrides, plugins=(), callbacks=()):
    config = load_config("tiny.yaml", overrides)
    pl.seed_everything(config.seed)
    dataset = build_dataset(config, "train")
    loader = train_loader(config, dataset)
    model = build_model(config, len(dataset.label_names))
    task = VideoTask(model, config, loader.steps, dataset.origin, dataset.label_names)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, gradient_clip_val=1.0, plugins=[*plugins], logger=False,
        callbacks=[*callbacks, StopOnNonFinite()], default_root_dir=folder, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(task, loader)
    return task


@pytest.mark.slow
def test_float16_skips_steps_as_usual(folder):
    """A scale far too high overflows the gradients until it has been halved often enough."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    watch = Scales(scaler)
    fit(folder, ["train.epochs=12"], [MixedPrecision("16-mixed", "cpu", scaler)], [watch])
    made = next(i for i in range(1, 48) if watch.scales[i] == watch.scales[i - 1])
    assert 10 < made < 40
    assert torch.equal(watch.weights[made - 1], watch.weights[0])  # the steps before were skipped
    assert not torch.equal(watch.weights[made], watch.weights[0])


def test_float16_stops_where_skipping_does_not_help(folder):
    """The clips themselves are infinite."""
    plugins = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1.0))]
    with pytest.raises(NonFiniteError, match="^step 15: the loss is nan; .*'model.backbone.*conv0"):
        fit(folder, ["train.epochs=5", "data.std=1e-50"], plugins)


class Readings(TorchDispatchMode):
    """Counts how often a number is read back from the device: there, the host waits each time."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_one_number_is_read_back_per_step(folder, monkeypatch):
    counts = []
    one_hot = torch.nn.functional.one_hot

    def unchecked(labels, classes):  # on a GPU it does not check its argument, on the CPU it does
        return torch.zeros(*labels.shape, classes).scatter(-1, labels.unsqueeze(-1), 1).long()

    class Count(pl.Callback):
        def on_train_batch_start(self, *args):
            self.readings = Readings().__enter__()

    count = Count()
    monkeypatch.setattr(torch.nn.functional, "one_hot", unchecked)
    monkeypatch.setattr("rstg_pyg.frames.check_edges", lambda *args: None)  # of the CPU alone
    assert torch.equal(unchecked(torch.tensor([2, 0]), 3), one_hot(torch.tensor([2, 0]), 3))

    class Both(StopOnNonFinite):
        def on_before_optimizer_step(self, *args):
            super().on_before_optimizer_step(*args)
            count.readings.__exit__(None, None, None)
            counts.append(count.readings.count)

    monkeypatch.setitem(globals(), "StopOnNonFinite", Both)
    fit(folder, ["model.rstg.in_norm=batch"], [], [count])
    assert counts == [1] * 8


def test_an_evaluation_that_is_not_finite_names_the_videos(folder, capsys):
    assert main(["--cfg", "tiny.yaml", "--out", "run", "train.max_steps=1"]) == 0
    checkpoint = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    checkpoint["state_dict"]["model.lin.weight"].mul_(1e38)
    checkpoint["state_dict"]["model.head.norm.scale"].mul_(1e30)
    torch.save(checkpoint, "broken.ckpt")
    capsys.readouterr()
    assert main(["--cfg", "tiny.yaml", "--evaluate", "broken.ckpt", "--out", "eval"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: test after step 0: the loss is nan, in 1 of 1 batches\n")
    assert "the first batch: video 0, video 1, " in error
    assert not Path("eval/results.json").exists()
