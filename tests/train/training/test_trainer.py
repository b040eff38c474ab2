import logging
import types

import pytest
import pytorch_lightning as pl
import torch
from helpers.tiny_run import tiny_config

from rstg_pyg.backbones.conv import Conv3d
from rstg_pyg.train.build import build_dataset
from rstg_pyg.train.config import parse_config
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.training import trainer as module
from rstg_pyg.train.training.progress import ProgressBar
from rstg_pyg.train.training.trainer import (
    choose_precision,
    eval_loader,
    make_trainer,
    prepare_model,
    prepare_torch,
    share_batches,
    train_loader,
    with_precision,
)


def config_of(**sections):
    return parse_config(tiny_config(**sections), "test")


@pytest.mark.parametrize(
    "train, batch, per_epoch, steps",
    [
        ({}, 16, 4, 4),
        ({"epochs": 3}, 16, 4, 12),
        ({"batch_size": 20, "epochs": 2}, 20, 3, 6),  # four videos of an epoch are left out
        ({"batch_size": 20, "accumulate": 5}, 4, 15, 15),  # the same four
        ({"batch_size": 16, "accumulate": 4, "epochs": 3}, 4, 16, 48),
        ({"epochs": 3, "max_steps": 7}, 16, 4, 7),
        ({"epochs": 3, "max_steps": 7, "accumulate": 2}, 8, 8, 14),
        ({"epochs": 1, "max_steps": 7}, 16, 4, 4),
        ({"batch_size": 100, "epochs": 2}, 100, 1, 2),  # more than there are videos
        ({"batch_size": 128, "accumulate": 4}, 32, 2, 4),
    ],
    ids=str,
)
def test_batches_of_the_whole_training(train, batch, per_epoch, steps):
    config = config_of(train=train, seed=3)
    loader = train_loader(config, build_dataset(config, "train"))
    assert (loader.batch_size, loader.steps_per_epoch, loader.steps) == (batch, per_epoch, steps)
    assert loader.shuffle and loader.seed == 3


@pytest.mark.parametrize(
    "train, clips, ranks, batch",
    [
        ({}, 1, 1, 32),
        ({"accumulate": 4}, 1, 1, 8),
        ({"batch_size": 18}, 5, 1, 7),
        ({}, 100, 1, 1),
        ({}, 100, 4, 4),
    ],
)
def test_batches_of_an_evaluation(train, clips, ranks, batch):
    """Twice as many clips as in training, but a video for every process."""
    config = config_of(train=train)
    dataset = build_dataset(config, "val")
    dataset.num_clips = clips
    loader = eval_loader(
        config, dataset, types.SimpleNamespace(world_size=ranks, global_rank=ranks - 1)
    )
    assert loader.batch_size == batch and not loader.shuffle
    assert (loader.rank, loader.num_ranks) == (ranks - 1, ranks)
    assert loader.steps == -(-24 // batch)


@pytest.mark.parametrize(
    "videos, batch, parts, ranks, use",
    [
        (64, 16, 1, 2, None),
        (15, 16, 1, 1, None),
        (14, 16, 1, 2, None),
        (17, 16, 1, 2, None),  # one is left out
        (15, 16, 2, 2, None),  # parts of eight
        (64, 18, 1, 4, "divisible by 4 processes"),
        (15, 16, 1, 2, "use train.batch_size=14$"),
        (7, 16, 2, 2, "use train.batch_size=12$"),
        (1, 16, 1, 2, "use fewer processes$"),
    ],
)
def test_processes_have_equal_shares_of_a_batch(videos, batch, parts, ranks, use):
    """Or the mean of their gradients is not that of the batch."""
    train = {"batch_size": batch, "accumulate": parts}
    config = config_of(data={"train_videos": videos}, train=train)
    trainer = types.SimpleNamespace(
        world_size=ranks, global_rank=ranks - 1, accumulate_grad_batches=parts
    )
    loader = train_loader(config, build_dataset(config, "train"))
    if use:
        with pytest.raises(UserError, match=f"^train.batch_size: .*{use}"):
            share_batches(loader, trainer)
        return
    share_batches(loader, trainer)
    sizes = set()
    for loader.rank in range(ranks):
        sizes |= {len(loader.visits(step)) for step in range(loader.steps)}
    assert len(sizes) == 1


def test_torch_is_prepared(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="trainer.accelerator: there is no GPU here"):
        prepare_torch(config_of(trainer={"accelerator": "gpu"}))
    draws = []
    for seed in (1, 1, 2):
        prepare_torch(config_of(seed=seed, trainer={"threads": 2}))
        draws.append(torch.rand(3))
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    for name in ("pytorch_lightning", "lightning_fabric"):
        assert logging.getLogger(name).level == logging.WARNING
    prepare_torch(config_of(trainer={"threads": None}))
    assert torch.get_num_threads() == 1


@pytest.mark.slow
@pytest.mark.parametrize("asked", [True, False])
def test_memory_layout_and_compilation(asked):
    conv = torch.nn.Conv3d(2, 2, 3)
    conv.inner = torch.nn.Conv2d(2, 2, 3)  # which has no such layout
    prepare_model(conv, config_of(trainer={"channels_last": asked, "compile": asked}))
    assert conv.weight.is_contiguous(memory_format=torch.channels_last_3d) == asked
    assert (conv._compiled_call_impl is not None) == asked


@pytest.mark.parametrize("gain, precision", [(0.55, "32-true"), (1.9, "bf16-mixed")])
def test_precision_is_what_is_faster_here(gain, precision, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_gain_of_bfloat16", lambda: gain)
    config = config_of(trainer={"accelerator": "cpu"})
    assert config.trainer.precision == "auto"
    assert choose_precision(config) == with_precision(config, precision)
    assert make_trainer(config, tmp_path, []).precision == precision
    for given in ("32-true", "bf16-mixed"):
        assert choose_precision(with_precision(config, given)).trainer.precision == given


def test_no_bfloat16_where_torchs_gradients_are_wrong(monkeypatch):
    """Convolutions over frames that are not ours, on a CPU."""
    monkeypatch.setattr(module, "_gain_of_bfloat16", lambda: 2.0)
    config = config_of(trainer={"accelerator": "cpu"})
    torchs = torch.nn.Conv3d
    for wrong in (torchs(1, 1, 3, padding=1), torchs(1, 1, 3, padding="same")):
        network = torch.nn.Sequential(wrong)
        assert choose_precision(config, network).trainer.precision == "32-true"
        with pytest.raises(UserError, match="trainer.precision: on a CPU, torch computes wrong"):
            choose_precision(with_precision(config, "bf16-mixed"), network)
    with pytest.raises(UserError, match="16-mixed needs a GPU"):
        choose_precision(with_precision(config, "16-mixed"))
    right = torchs(1, 1, 3), torchs(1, 1, (1, 3, 3), padding=(0, 1, 1)), Conv3d(1, 1, 3, padding=1)
    assert choose_precision(config, torch.nn.Sequential(*right)).trainer.precision == "bf16-mixed"


def test_the_gain_of_bfloat16_is_measured():
    assert 0.01 < module._gain_of_bfloat16() < 50


def test_the_average_of_weights_is_where_the_network_will_be(tmp_path, monkeypatch):
    """Lightning's default is where it is before the training, on the CPU."""
    monkeypatch.setattr(pl.strategies.SingleDeviceStrategy, "root_device", torch.device("cuda", 3))
    made = []
    average = pl.callbacks.WeightAveraging

    class Seen(average):
        def __init__(self, device=None, **kwargs):
            made.append(device)
            super().__init__(device, **kwargs)

    monkeypatch.setattr(pl.callbacks, "WeightAveraging", Seen)
    trainer = make_trainer(config_of(train={"ema": 0.9}), tmp_path, [pl.callbacks.ModelCheckpoint()])
    assert made == [torch.device("cuda", 3)]
    assert isinstance(trainer.callbacks[0], Seen)  # before any that saves


def test_the_trainer_is_made_as_the_config_asks(tmp_path):
    config = config_of(
        train={"accumulate": 4, "clip": 0.5, "log_every": 3}, trainer={"precision": "bf16-mixed"}
    )
    mine = pl.Callback()
    trainer = make_trainer(config, tmp_path, [mine], validate_every=7)
    assert (trainer.accumulate_grad_batches, trainer.gradient_clip_val) == (4, 0.5)
    assert (trainer.log_every_n_steps, trainer.val_check_interval, trainer.max_epochs) == (3, 7, 1)
    assert (trainer.precision, trainer.num_devices) == ("bf16-mixed", 1)
    bars = [c for c in trainer.callbacks if isinstance(c, (ProgressBar, pl.callbacks.ProgressBar))]
    assert mine in trainer.callbacks and not bars
    assert trainer.num_sanity_val_steps == 0 and trainer.default_root_dir == str(tmp_path)
    bar = make_trainer(config_of(trainer={"progress_bar": True}), tmp_path, [])
    assert any(isinstance(c, ProgressBar) for c in bar.callbacks)
    with pytest.raises(UserError, match="^trainer: .*nonsense"):
        make_trainer(config_of(trainer={"strategy": "nonsense"}), tmp_path, [])


@pytest.mark.parametrize("wanted", [True, False])
def test_operations_that_are_never_deterministic_are_no_error(tmp_path, wanted):
    """On a GPU torch has no deterministic gradient of ``avg_pool3d``, which the head of I3D is."""
    make_trainer(config_of(trainer={"deterministic": wanted}), tmp_path, [])
    assert torch.are_deterministic_algorithms_enabled() == wanted
    assert torch.is_deterministic_algorithms_warn_only_enabled() == wanted
