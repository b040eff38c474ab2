"""Loss or gradients that are not finite: found, named, saved, repeated."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from helpers.tiny_run import write_tiny
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.utils._python_dispatch import TorchDispatchMode

import rstg_pyg.train.replay
import rstg_pyg.train.training.task
from rstg_pyg.train.build import build_dataset, build_model
from rstg_pyg.train.config import load_config
from rstg_pyg.train.run import main
from rstg_pyg.train.training.nonfinite import LEAST_SCALE, Guard, NonFiniteError, read_step, repeat
from rstg_pyg.train.training.task import VideoTask
from rstg_pyg.train.training.trainer import train_loader

CONFIG = {
    "data": {"val_videos": 8, "test_videos": 8},
    "model": {
        "backbone": {"filters": [4, 4, 4], "pool": False},
        "rstg": {"hidden_channels": 4, "num_rounds": 1},
        "dropout": 0.1,
    },
    "train": {"epochs": 2, "validate_every": 4, "log_every": 2, "warmup": 0.0, "schedule": "constant"},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path, **CONFIG)
    return tmp_path


def stops(capsys, *arguments):
    """Runs a training that stops; the message and the saved step."""
    assert main(["--cfg", "tiny.yaml", "--out", "run", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error
    (path,) = Path("run/nonfinite").iterdir()
    assert f"python train/replay.py {path}\n" in error
    assert not Path("run/results.json").exists()
    return error, path


def repeats(capsys, path, error):
    """The saved step says the same again."""
    assert rstg_pyg.train.replay.main([str(path)]) == 1
    said = capsys.readouterr().out.strip()
    assert error.startswith(f"error: {said}\n")
    return said


def test_a_rate_that_is_too_high(folder, capsys):
    """The first step makes weights of which the second one's forward pass is not finite."""
    error, path = stops(capsys, "train.lr=1e30")
    assert "step 2: the loss is nan; it begins in module 'backbone.stages.conv" in error
    assert "often a lower train.lr (now 1e+30)" in error
    repeats(capsys, path, error)

    record = torch.load(path, weights_only=True)
    (part,) = record["parts"]
    config = load_config("tiny.yaml")
    dataset = build_dataset(config, "train")
    loader = train_loader(config, dataset)
    assert torch.equal(part["visits"], loader.visits(1))
    assert torch.equal(part["batch"][0], dataset.videos(part["visits"]).clips)
    names = ", ".join(f"video {i}" for i in part["visits"].tolist())
    assert f"its videos: {names}\n" in error

    # The weights are those before the step: what a training of one step ends with.
    state = fit(folder, ["train.lr=1e30", "train.max_steps=1"], []).model.state_dict()
    assert len(record["state_dict"]) == len(state) > 20
    for name, weight in record["state_dict"].items():
        assert weight.isfinite().all() and torch.equal(weight, state[name]), name


def test_accumulated_parts_and_running_statistics(folder, capsys):
    """All parts of the batch are kept; statistics are those from before the step."""
    error, path = stops(capsys, "train.lr=1e30", "train.accumulate=4", "model.rstg.in_norm=batch")
    repeats(capsys, path, error)
    record = read_step(path)
    assert [part["batch"][0].size(0) for part in record["parts"]] == [4, 4, 4, 4]
    assert len(record["videos"]) == 16
    assert record["step"] == 2 and int(record["state_dict"]["head.rstg.in_norm.num_batches_tracked"])
    assert record["state_dict"]["head.rstg.in_norm.running_var"].isfinite().all()


def test_the_filters_alone(folder, capsys):
    error, path = stops(capsys, "pretrain.steps=20", "pretrain.batch_size=8", "pretrain.lr=1e30")
    assert "training of the filters alone, step 2: the loss is" in error
    assert "often a lower pretrain.lr (now 1e+30)" in error
    assert "its videos: video 8, video 9, " in error
    assert "module 'backbone.stages.conv" in repeats(capsys, path, error)


def test_clips_that_are_scaled_to_infinity(folder, capsys):
    error, path = stops(capsys, "data.std=1e-50")
    assert "step 1: the loss is nan; it begins in the network: its input is not finite" in error
    repeats(capsys, path, error)


def test_only_what_was_saved_is_repeated(folder, capsys):
    Path("text.pt").write_text("not a step")
    torch.save({"config": {}}, "other.pt")
    for name in ("none.pt", "text.pt", "other.pt"):
        assert rstg_pyg.train.replay.main([name]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {name}: not a step saved by a training")


def test_a_repeated_step_draws_the_same_random_numbers():
    network, drawn = torch.nn.Linear(1, 1), []

    def loss(x):
        drawn.append(torch.rand(3))
        return network(x).sum()

    part = {"rng": torch.get_rng_state(), "cuda_rng": None, "batch": [torch.ones(2, 1)]}
    first = torch.rand(3)
    record = {"parts": [part, part], "precision": "32-true", "scale": 1.0}
    assert repeat(network, loss, record) is None
    assert len(drawn) >= 2 and all(torch.equal(numbers, first) for numbers in drawn)


# The guard alone, with faults made by hand.


@pytest.fixture
def made(folder):
    """A network without a graph, its guard and a batch."""
    config = load_config("tiny.yaml", ["model.rstg=null", "model.dropout=0"])
    torch.manual_seed(0)
    model = build_model(config, 4)
    task = VideoTask(model, config, 1, "", [])
    dataset = build_dataset(config, "train")
    videos = dataset.videos(torch.arange(4))
    guard = Guard(model, task.loss, "video", config, "32-true", folder)

    def step(scaler=None, norm=None):
        batch = videos.clips, videos.labels
        guard.before(batch, torch.arange(4))
        loss = task.loss(*batch)
        guard.after(loss)
        loss.backward()
        found = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        guard.check(found if norm is None else norm, 1, dataset, scaler)

    return model, guard, step


def fails(step, *arguments):
    with pytest.raises(NonFiniteError) as caught:
        step(*arguments)
    return str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_weight_is_named(made, value):
    model, _, step = made
    with torch.no_grad():
        model.backbone.stages["conv1"].conv.weight[1, 2] = value
    error = fails(step)
    assert "module 'backbone.stages.conv1.conv': its weights 'weight' are not finite before" in error


def test_an_output_that_overflows_is_named(made, folder, capsys):
    model, _, step = made
    with torch.no_grad():
        for name in ("conv1", "conv2"):
            model.backbone.stages[name].conv.weight.fill_(1e25)
    error = fails(step)
    assert "step 1: the loss is nan; it begins in module 'backbone.stages.conv2" in error
    assert "its output is not finite" in error
    repeats(capsys, "nonfinite/step-1.pt", f"error: {error}")


def test_a_gradient_that_overflows_is_named(made, folder, capsys):
    """Forward 1e-35, 1e-10, 1e15: all finite. Backward through two layers of 1e25: not."""
    model, _, step = made
    with torch.no_grad():
        conv = [model.backbone.stages[f"conv{i}"].conv for i in range(3)]
        conv[0].weight.zero_()
        conv[0].bias.fill_(1e-35)
        for layer in conv[1:]:
            layer.weight.fill_(1e25)
            layer.bias.zero_()
    error = fails(step)
    assert "step 1: the norm of the gradients is" in error
    assert "begins in module 'backbone.stages.conv1.conv': the gradient of its input" in error
    repeats(capsys, "nonfinite/step-1.pt", f"error: {error}")


def test_a_sum_of_finite_gradients_that_overflows(made, capsys):
    """Every gradient is finite but their norm is not: the step stops and says so."""
    error = fails(made[2], None, torch.tensor(float("inf")))
    assert "the norm of the gradients is inf; repeated alone, the step has finite numbers only" in error
    assert rstg_pyg.train.replay.main(["nonfinite/step-1.pt"]) == 0
    assert "has finite numbers only" in capsys.readouterr().out


def test_a_full_disk_does_not_hide_the_fault(made, folder):
    model, _, step = made
    (folder / "nonfinite").write_text("a file where the folder should be")
    model.lin.weight.data.fill_(float("nan"))
    error = fails(step)
    assert "module 'lin': its weights" in error and "the step could not be saved: " in error


# float16: the scaler skips steps.


class Scaler:
    def __init__(self, scale):
        self.scale = scale

    def get_scale(self):
        return self.scale


def test_the_scaler_skips_until_its_scale_is_tiny(made):
    model, guard, step = made
    model.lin.weight.data.fill_(float("nan"))
    step(Scaler(65536.0))
    assert not guard.parts and not guard.losses
    step(Scaler(1.0))
    assert "module 'lin'" in fails(step, Scaler(LEAST_SCALE / 2))


class Scales(pl.Callback):
    def __init__(self, scaler):
        self.scaler = scaler
        self.scales, self.weights = [], []

    def on_train_batch_end(self, trainer, task, *args):
        self.scales.append(self.scaler.get_scale())
        self.weights.append(task.model.lin.weight.detach().clone())


def fit(folder, overrides, plugins, callbacks=()):
    config = load_config("tiny.yaml", overrides)
    pl.seed_everything(config.seed)
    dataset = build_dataset(config, "train")
    loader = train_loader(config, dataset)
    model = build_model(config, len(dataset.label_names))
    task = rstg_pyg.train.training.task.VideoTask(
        model, config, loader.steps, dataset.origin, dataset.label_names
    )
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, gradient_clip_val=1.0, plugins=plugins, logger=False,
        callbacks=[*callbacks], default_root_dir=folder, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(task, loader)
    return task


def test_float16_skips_steps_as_usual(folder):
    """A scale far too high overflows the gradients until it has been halved often enough."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    watch = Scales(scaler)
    plugins = [MixedPrecision("16-mixed", "cpu", scaler)]
    overrides = ["train.epochs=12", "model.rstg.in_norm=batch"]
    task = fit(folder, overrides, plugins, [watch])
    made = next(i for i in range(1, 48) if watch.scales[i] == watch.scales[i - 1])
    assert 10 < made < 40
    assert torch.equal(watch.weights[made - 1], watch.weights[0])  # the steps before were skipped
    assert not torch.equal(watch.weights[made], watch.weights[0])
    assert all(x.isfinite().all() for x in task.model.state_dict().values())
    assert not (folder / "nonfinite").exists()


def test_float16_stops_where_skipping_does_not_help(folder):
    """The clips themselves are infinite; skipped steps do not spoil the running statistics."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    plugins = [MixedPrecision("16-mixed", "cpu", scaler)]
    overrides = ["train.epochs=5", "data.std=1e-50", "model.rstg.in_norm=batch"]
    with pytest.raises(NonFiniteError, match="its input is not finite"):
        fit(folder, overrides, plugins)
    (path,) = (folder / "nonfinite").iterdir()
    record = read_step(path)
    assert record["scale"] == 2.0**-14 and record["step"] == 15
    assert record["precision"] == "16-mixed"
    assert record["state_dict"]["head.rstg.in_norm.running_var"].isfinite().all()


def test_bfloat16_has_no_scaler(folder, capsys):
    error, path = stops(capsys, "train.lr=1e30", "trainer.precision=bf16-mixed")
    assert read_step(path)["precision"] == "bf16-mixed"
    repeats(capsys, path, error)


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

    class Count(VideoTask):
        def on_train_batch_start(self, *args):
            self.readings = Readings().__enter__()

        def configure_gradient_clipping(
            self, *args, **kwargs
        ):  # before AdamW's, of numbers on the host
            super().configure_gradient_clipping(*args, **kwargs)
            self.readings.__exit__(None, None, None)
            counts.append(self.readings.count)

    monkeypatch.setattr(torch.nn.functional, "one_hot", unchecked)
    monkeypatch.setattr(rstg_pyg.train.training.task, "VideoTask", Count)
    assert torch.equal(unchecked(torch.tensor([2, 0]), 3), one_hot(torch.tensor([2, 0]), 3))
    fit(folder, ["model.rstg.in_norm=batch"], [])
    assert counts == [1] * 8


# What an evaluation says.


def test_an_evaluation_that_is_not_finite_names_the_videos(folder, capsys):
    assert main(["--cfg", "tiny.yaml", "--out", "run", "train.max_steps=1"]) == 0
    checkpoint = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    checkpoint["state_dict"]["model.lin.weight"].mul_(1e38)
    checkpoint["state_dict"]["model.head.norm.scale"].mul_(1e3)
    torch.save(checkpoint, "broken.ckpt")
    capsys.readouterr()
    assert main(["--cfg", "tiny.yaml", "--evaluate", "broken.ckpt", "--out", "eval"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: test after step 0: the loss is nan\n")
    assert "videos without a finite loss: 8 of 8 (video 0, video 1, " in error
    assert not Path("eval/results.json").exists()
