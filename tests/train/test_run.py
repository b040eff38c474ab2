import json
import os
from pathlib import Path

import pytest
import torch
from helpers.results import rows_of
from helpers.signals import signal_when
from helpers.tiny_run import write_tiny

from rstg_pyg.train import fitting
from rstg_pyg.train.run import main, parse_arguments
from rstg_pyg.train.run_folder.folder import run_to_resume

CONFIG = {
    "model": {"dropout": 0.1},
    "pretrain": {"steps": 2, "batch_size": 16},
    "train": {"epochs": 5, "validate_every": 5, "log_every": 5, "warmup": 0.1},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path, **CONFIG)
    return tmp_path


def run(*arguments):
    return main(["--cfg", "tiny.yaml", *arguments])


def results(path="runs/tiny"):
    return json.loads((Path(path) / "results.json").read_text())


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.mark.slow
def test_a_run_learns_and_leaves_its_folder(folder, capsys):
    """With two digits and no 'none', the class is told by which digits there are."""
    learn = ("data.train_videos=5120", "train.epochs=1", "model.dropout=0", "train.lr=0.005")
    learn += ("pretrain.steps=100", "pretrain.batch_size=128", "pretrain.lr=0.01")
    assert run(*learn, "train.validate_every=80", "train.log_every=40") == 0
    found = results()
    for key in (
        *("top1", "top5", "loss", "num_videos", "protocol", "steps", "seconds", "videos_per_second"),
        *("seed", "config", "config_hash", "device", "versions"),
        *("data", "training", "pretraining", "checkpoint"),
    ):
        assert key in found, key
    assert found["top1"] > 0.5  # chance is 1/3
    assert 0 <= found["top1"] <= found["top5"] <= 1
    assert (found["num_videos"], found["steps"], found["data"]) == (30, 320, "builtin digits")
    rows = rows_of("runs/tiny/metrics.csv")
    losses = [float(row["loss"]) for row in rows if row["split"] == "train"]
    assert len(losses) == 8 and losses[-1] < 0.7 * losses[0]
    assert [row["step"] for row in rows if row["split"] == "val"] == ["80", "160", "240", "320"]
    for name in ["config.yaml", "environment.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt"]:
        assert (Path("runs/tiny") / name).is_file(), name
    assert list(Path("runs/tiny/tensorboard").glob("events*"))
    printed = " ".join(capsys.readouterr().out.split())
    assert "scikit-learn's built-in digits" in printed and "waiting for data" in printed
    assert f"top-1 {found['top1']:.2%}" in printed

    # The written config repeats the run; its checkpoint evaluates to the same numbers.
    assert main(["--cfg", "runs/tiny/config.yaml", "--evaluate", found["checkpoint"]]) == 0
    again = results("runs/tiny-evaluate")
    for key in ("top1", "top5", "loss", "steps"):
        assert again[key] == found[key]


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.precision=bf16-mixed", "data.num_workers=1", "model.grad_checkpointing=true"],
        ["train.optimizer=sgd", "train.schedule=constant", "train.clip=null",
         "model.rstg.time_stages=none", "model.rstg.attention=null", "model.rstg.in_norm=batch"],
        ["model.rstg.typed_update=true", "model.rstg.heads=2", "model.rstg.positions=false",
         "model.rstg.cell=gru", "model.rstg.scales=[[1,2],1]", "model.rstg.shared_rounds=false"],
    ],
)  # fmt: skip
def test_what_a_config_can_ask_for(folder, overrides):
    assert run("--out", "a", "train.max_steps=3", "pretrain.steps=0", *overrides) == 0
    assert results("a")["steps"] == 3
    assert 0 < results("a")["loss"] < 10


class Stop(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("at, more", [(7, []), (10, ["train.ema=0.9", "train.mixup=0.4"])])
def test_a_resumed_run_equals_the_uninterrupted_one(folder, monkeypatch, at, more):
    assert run("--out", "whole", *more) == 0

    def stop(self, trainer, *args):
        if trainer.global_step == at:
            self.asked = True
        original(self, trainer, *args)

    original = fitting.StopOnSignal.on_train_batch_end
    with monkeypatch.context() as patch:
        patch.setattr(fitting.StopOnSignal, "on_train_batch_end", stop)
        assert run("--out", "parts", *more) == 130
    assert not Path("parts/results.json").exists()
    saved = torch.load("parts/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == at
    assert run("--out", "parts", *more, "--resume") == 0

    a, b = weights("whole/checkpoints/last.ckpt"), weights("parts/checkpoints/last.ckpt")
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key
    for key in ("top1", "top5", "loss", "steps"):
        assert results("whole")[key] == results("parts")[key]
    for rows in zip(rows_of("whole/metrics.csv"), rows_of("parts/metrics.csv"), strict=True):
        for key in ("step", "split", "loss", "top1", "lr"):
            assert rows[0][key] == rows[1][key]


@pytest.mark.slow
def test_the_last_three_checkpoints_are_kept_and_a_damaged_one_is_not_used(folder, capsys):
    assert run("--out", "whole") == 0
    assert run("--out", "parts") == 0
    checkpoints = Path("parts/checkpoints")
    names = {"step-10.ckpt", "step-15.ckpt", "step-20.ckpt", "last.ckpt", "best.ckpt"}
    assert {p.name for p in checkpoints.iterdir()} == names
    assert os.path.samefile(checkpoints / "last.ckpt", checkpoints / "step-20.ckpt")
    with open(checkpoints / "step-20.ckpt", "rb+") as file:
        file.seek(5000)
        file.write(b"damage")
    Path("parts/results.json").unlink()
    capsys.readouterr()
    assert run("--out", "parts", "--resume") == 0
    printed = capsys.readouterr().out
    assert "step-20.ckpt: not a whole checkpoint of rstg_pyg (wrong checksum" in printed
    assert "using the previous one, step-15.ckpt" in printed
    a, b = weights("whole/checkpoints/last.ckpt"), weights("parts/checkpoints/last.ckpt")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert {p.name for p in checkpoints.iterdir()} == names


@pytest.mark.slow
def test_going_back_to_an_earlier_checkpoint_takes_the_later_ones_away(folder, monkeypatch):
    """Else a kill soon after would go on from a later one, without its rows of metrics.csv."""
    assert run("--out", "a") == 0

    def stop(self, trainer, *args):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(fitting.Meter, "on_train_batch_end", stop)
        with pytest.raises(Stop):
            run("--out", "a", "--resume", "a/checkpoints/step-10.ckpt")
    assert run_to_resume("tiny", "a", "")[1] == Path("a/checkpoints/step-10.ckpt")
    assert Path("a/metrics.csv").read_text().count("\n") == 1 + 4
    assert run("--out", "b", "--resume", "a/checkpoints/last.ckpt") == 0  # another folder
    assert results("b")["pretraining"]["steps"] == 2
    assert run("--out", "b", "--resume", "a/checkpoints/last.ckpt") == 2  # holds a run


@pytest.mark.slow
def test_a_run_without_a_checkpoint_yet_begins_anew(folder, capsys):
    for name in ("runs/tiny", "other"):
        Path(name).mkdir(parents=True)
        (Path(name) / "config.yaml").touch()
    quick = ("train.max_steps=2", "pretrain.steps=0", "--resume")
    assert run(*quick) == run(*quick[:2], "--out", "other", "--resume") == 0
    assert "has no checkpoint yet, so the run restarts" in capsys.readouterr().out
    assert results()["steps"] == results("other")["steps"] == 2
    assert "there is no run in nowhere" in fails(
        capsys, "--cfg", "tiny.yaml", "--out", "nowhere", "--resume"
    )


@pytest.mark.slow
def test_ctrl_c_saves_and_exits_130(folder, capsys):
    metrics = folder / "runs/tiny/metrics.csv"
    with signal_when(lambda: metrics.is_file() and "train" in metrics.read_text()):
        assert run("train.epochs=100000", "train.validate_every=100000") == 130
    assert "interrupted" in capsys.readouterr().err
    saved = torch.load(folder / "runs/tiny/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] >= 5


def fails(capsys, *arguments):
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error
    assert len(error.strip().splitlines()) <= 2
    return error


def test_a_value_after_resume_is_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = parse_arguments(["--cfg", "tiny.yaml", "--resume", "train.lr=1", "seed=2"])
    assert (found.resume, sorted(found.overrides)) == (True, ["seed=2", "train.lr=1"])
    Path("lr=1").mkdir()
    assert parse_arguments(["--cfg", "tiny.yaml", "--resume", "lr=1"]).resume == "lr=1"


def test_mistakes_end_with_code_2_and_a_hint(folder, capsys):
    tiny = ("--cfg", "tiny.yaml")
    assert "syncmnist_mini.yaml" in fails(capsys, "--cfg")
    assert "syncmnist_mini.yaml" in fails(capsys)
    assert "there is no config 'nope'" in fails(capsys, "--cfg", "nope")
    assert "did you mean 'lr'" in fails(capsys, *tiny, "train.lrr=3")
    assert "cannot be combined" in fails(capsys, *tiny, "--resume", "x", "--evaluate", "y")
    assert "expected 2 to 10 digits" in fails(capsys, *tiny, "data.num_digits=1")
    assert "expected 2 to 10 digits" in fails(capsys, *tiny, "data.num_digits=11")
    assert "does not exist" in fails(capsys, *tiny, "data.root=nowhere", "data.digits=mnist")
    assert "Expected every scale to fit" in fails(capsys, *tiny, "model.rstg.scales=[5]")
    assert "there is no such checkpoint" in fails(capsys, *tiny, "--resume", "no.ckpt")
    assert "there is no such checkpoint" in fails(capsys, *tiny, "--evaluate", "no.ckpt")
    assert "there is no run runs/tiny*" in fails(capsys, *tiny, "--resume")
    for option in ("--resume", "--evaluate"):  # a variable that is not set
        assert "(got an empty name)" in fails(capsys, *tiny, option, "")
    if not torch.cuda.is_available():
        assert "there is no GPU here" in fails(capsys, *tiny, "trainer.accelerator=gpu")
    Path("file").write_text("x")
    assert "cannot be written" in fails(capsys, *tiny, "--out", "file/below")
    assert "not a whole checkpoint" in fails(capsys, *tiny, "--resume", "file")
    assert not Path("runs").exists()


@pytest.mark.slow
def test_a_run_is_never_overwritten(folder, capsys):
    quick = ("train.max_steps=2", "pretrain.steps=0")
    assert run(*quick) == run(*quick) == 0
    assert Path("runs/tiny/results.json").is_file() and Path("runs/tiny-2/results.json").is_file()
    before = Path("runs/tiny/results.json").read_bytes()
    assert "already holds a run" in fails(capsys, "--cfg", "tiny.yaml", "--out", "runs/tiny")
    assert Path("runs/tiny/results.json").read_bytes() == before

    checkpoint = "runs/tiny/checkpoints/last.ckpt"
    error = fails(capsys, "--cfg", "tiny.yaml", *quick, "train.lr=0.5", "--resume", checkpoint)
    assert "train.lr (0.003 against 0.5)" in error
    error = fails(
        capsys, "--cfg", "tiny.yaml", "model.rstg.hidden_channels=8", "--evaluate", checkpoint
    )
    assert "model.rstg.hidden_channels (16 against 8)" in error
    saved = torch.load(checkpoint, weights_only=True)
    torch.save({**saved, "origin": "mnist digits"}, "other.ckpt")
    error = fails(capsys, "--cfg", "tiny.yaml", *quick, "--resume", "other.ckpt", "--out", "b")
    assert "began with mnist digits" in error and "now are builtin" in error


@pytest.mark.slow
def test_accumulated_parts_give_the_same_weights(folder):
    quick = ("train.max_steps=6", "pretrain.steps=0", "model.dropout=0", "train.validate_every=3")
    assert run(*quick, "--out", "whole") == 0
    assert run(*quick, "train.accumulate=4", "--out", "parts") == 0
    whole, parts = (weights(f"{name}/checkpoints/last.ckpt") for name in ("whole", "parts"))
    model = [name for name in whole if name.startswith("model.")]
    assert len(model) > 20
    for name in model:
        if not name.endswith("lin_key.bias"):  # its gradient is rounding, which Adam makes large
            assert torch.allclose(whole[name], parts[name], atol=2e-4), name
    assert results("parts")["steps"] == 6
    assert [row["step"] for row in rows_of("parts/metrics.csv")] == ["3", "5", "6"]


def test_the_rate_follows_the_batch_and_is_printed(folder, capsys):
    quick = ("train.max_steps=1", "pretrain.steps=0", "train.lr=0.001")
    assert run(*quick, "train.base_batch=64") == 0
    assert "learning rate 0.001 for 64 videos per step, 0.00025 for 16" in capsys.readouterr().out
    checkpoint = torch.load("runs/tiny/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 0.00025


def test_pretrained_weights_that_are_not_there_leave_no_run_folder(folder, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    (folder / "i3d.yaml").write_text(
        "data: {dataset: something, builtin: {train: 20, validation: 20, size: 32, num_frames: 4}, "
        "num_frames: 4, short_side: 32, crop_size: 32}\n"
        "model: {backbone: {kind: i3d, weights: none.pyth}, rstg: null}\n"
    )
    assert "model.backbone.weights: none.pyth: no such file" in fails(capsys, "--cfg", "i3d.yaml")
    assert not Path("runs").exists()
    error = fails(capsys, "--cfg", "i3d.yaml", "model.backbone={kind: torchvision}")
    assert "model.backbone.network: field required" in error


@pytest.mark.slow
def test_something_something_without_data(folder, capsys, monkeypatch):
    """The built-in data and the config's section for them, through every file of a run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    quick = ("train.max_steps=3", "trainer.progress_bar=false", "data.num_workers=0")
    small = ("data.builtin.train=40", "data.builtin.validation=20", "data.protocol=full3x2")
    assert main(["--cfg", "smt.yaml", *quick, *small]) == 0
    printed = capsys.readouterr().out
    assert "uses the built-in mini-something" in printed
    assert "full3x2: 3 spatial x 2 temporal" in printed
    found = results("runs/smt_demo")
    assert (found["num_videos"], found["data"]) == (20, "mini-something 20 classes")
    assert found["peak_memory_gib"]["cpu"] > 0.1
    for name in ("per_class.csv", "confusion.csv", "confusion.png", "curves.png", "metrics.csv"):
        assert (Path("runs/smt_demo") / name).stat().st_size > 50, name
    assert main(["--cfg", "smt.yaml", *small, "--evaluate", found["checkpoint"]]) == 0
    again = results("runs/smt_demo-evaluate")
    assert (again["top1"], again["num_videos"]) == (found["top1"], 20)
    assert again["loss"] == pytest.approx(found["loss"], rel=1e-5)
