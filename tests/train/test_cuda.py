"""What only a GPU can show of the training; skipped by name where there is none."""

import pytest
import torch
from helpers.tiny_run import tiny_config

from rstg_pyg.train.config import parse_config
from rstg_pyg.train.data.syncmnist import SyncMNIST
from rstg_pyg.train.fitting import fit
from rstg_pyg.train.run_folder.metrics import MetricsFile

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_videos_made_on_the_gpu_are_those_of_the_cpu(digits):
    dataset = SyncMNIST(digits, "train", 5000, num_digits=5, curriculum=0.5)
    visits = torch.arange(0, 5000, 97)
    expected, found = dataset.videos(visits), dataset.to("cuda").videos(visits)
    for wanted, field in zip(expected, found):
        assert field.is_cuda and torch.equal(field.cpu(), wanted)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_recorded_step_trains_the_same(tmp_path, optimizer):
    """Batch norm and a last, smaller batch of the validation among it."""
    rows = {}
    for recorded in (False, True):
        trainer = {"accelerator": "gpu", "cuda_graph": recorded, "precision": "32-true"}
        trainer |= {"deterministic": False}
        model = {"rstg": {"in_norm": "batch"}}
        train = {"log_every": 1, "epochs": 3, "validate_every": 5, "optimizer": optimizer}
        config = tiny_config(trainer=trainer, model=model, train=train)
        run = fit(parse_config(config, "test"), out=tmp_path / str(recorded))
        rows[recorded] = [float(row["loss"]) for row in MetricsFile(run.folder / "metrics.csv").rows()]
        rows[recorded].append(run.results["loss"])
    assert len(rows[True]) == len(rows[False]) > 12
    assert rows[True] == pytest.approx(rows[False], rel=1e-3)


def test_a_recorded_step_has_the_type_of_the_training(tmp_path):
    trainer = {"accelerator": "gpu", "cuda_graph": True, "precision": "bf16-mixed"}
    config = parse_config(tiny_config(trainer=trainer), "test")
    seen, make = [], torch.cuda.make_graphed_callables
    with pytest.MonkeyPatch.context() as patch:

        def record(model, *args, **kwargs):
            make(model, *args, **kwargs)
            seen.append(model(*args[0]).dtype)

        patch.setattr(torch.cuda, "make_graphed_callables", record)
        fit(config, out=tmp_path / "run")
    assert seen == [torch.bfloat16]


@pytest.mark.filterwarnings("ignore:avg_pool3d_backward_cuda does not have")
def test_the_head_of_i3d_trains_by_default(tmp_path):
    """torch has no deterministic form of its gradient on a GPU."""
    model = {"rstg": None, "head": {"kind": "windows"}}
    config = tiny_config(trainer={"accelerator": "gpu"}, model=model, train={"epochs": 1})
    assert fit(parse_config(config, "test"), out=tmp_path / "run").results["steps"] > 0


def test_a_recorded_step_draws_new_dropout_every_time(tmp_path):
    trainer = {"accelerator": "gpu", "cuda_graph": True}
    train = {"log_every": 1, "epochs": 3, "lr": 1e-12, "batch_size": 64}
    model = {"dropout": 0.5}
    config = parse_config(tiny_config(trainer=trainer, train=train, model=model), "test")
    run = fit(config, out=tmp_path / "run")
    rows = MetricsFile(run.folder / "metrics.csv").rows()
    losses = [float(row["loss"]) for row in rows if row["split"] == "train"]
    assert len(set(losses)) == 3  # of the same videos, by the same weights
