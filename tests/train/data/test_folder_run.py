"""A run on class folders: two commands from videos to an accuracy; what is printed first; mistakes."""

import json
import os
import time

import pytest
import torch
from helpers.results import rows_of
from torchvision.models import get_model

from rstg_pyg.train.data.folder import VideoFolder, read_folder
from rstg_pyg.train.predict import main as predict
from rstg_pyg.train.predictor import Predictor
from rstg_pyg.train.run import main

SMALL = ["data.num_frames=3", "data.short_side=16", "data.crop_size=16", "data.num_workers=0"]
SMALL += ["model.backbone.filters=[4]", "model.rstg.scales=[2,1]", "model.rstg.hidden_channels=4"]
SMALL += ["train.epochs=2", "train.batch_size=4", "train.validate_every=2"]
SMALL += ["trainer.accelerator=cpu", "trainer.progress_bar=false"]


@pytest.fixture
def run(tmp_path, monkeypatch, files):
    """Twelve training videos of two classes; runs and returns the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in range(12):
        files.video(tmp_path / f"clips/train/{'ab'[number % 2]}/{number}.mp4", number, 4)
    return lambda *arguments: main(["--cfg", "folder.yaml", *SMALL, *arguments])


def test_from_class_folders_to_a_prediction(run, tmp_path, capsys, files):
    assert run("data.root=clips") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("clips (class folders): 2 classes, videos: train 10, val 2\n")
    assert "no validation videos: 20% of the training videos of every class" in printed
    results = json.loads((tmp_path / "runs/folder/results.json").read_text())
    assert (results["num_videos"], results["steps"]) == (2, 4)
    assert results["data_detail"].startswith("folder val: 2 videos, 2 classes")
    assert (tmp_path / "runs/folder/confusion.csv").read_text().splitlines()[0].endswith("a,b")
    tested = rows_of(tmp_path / "runs/folder/predictions.csv")
    assert [row["true"] for row in tested] == ["a", "b"]
    assert [row["video"].split("/")[:2] for row in tested] == [["train", "a"], ["train", "b"]]
    assert sum(int(row["right"]) for row in tested) == 2 * results["top1"]
    checkpoint = "runs/folder/checkpoints/last.ckpt"
    for row in tested:  # as predict.py says
        (best,) = Predictor.load(checkpoint, "cpu")(f"clips/{row['video']}", top=1)
        assert (best.name, f"{best.probability:.4f}") == (row["predicted"], row["probability"])
    assert predict(["clips/train/a/0.mp4", "--ckpt", checkpoint, "--device", "cpu"]) == 0
    assert "of 3 frames (segments)" in capsys.readouterr().out

    files.video(tmp_path / "clips/test/a/20.mp4", 20, 4)
    assert run("data.root=clips", "--evaluate", checkpoint) == 0
    assert "on 1 video (" in capsys.readouterr().out
    for split, count in (("train", 10), ("val", 2)):
        assert run("data.root=clips", "--evaluate", checkpoint, f"data.test_split={split}") == 0
        printed = capsys.readouterr().out
        assert f"on {count} videos (" in printed and f"folder {split}: {count} videos" in printed
    nothing = ["data.test_split=val", "data.val_fraction=0"]
    assert run("data.root=clips", "--evaluate", checkpoint, *nothing) == 2
    assert "there are no videos of val (it has train, test)" in capsys.readouterr().err
    (tmp_path / "clips/test/a").rename(tmp_path / "clips/test/c")
    (tmp_path / "clips/train/a").rename(tmp_path / "clips/train/c")
    assert run("data.root=clips", "--evaluate", checkpoint) == 2
    assert "was trained on other classes (a, b; clips has b, c)" in capsys.readouterr().err
    assert run("data.root=clips", "--out", "runs/folder", "--resume") == 2
    assert "the run began with folder 2 classes" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["one more", "another class"])
def test_a_run_goes_on_with_the_videos_it_began_with(run, tmp_path, capsys, files, change):
    assert run("data.root=clips") == 0
    (tmp_path / "clips").rename(tmp_path / "moved")
    assert run("data.root=moved", "--out", "runs/folder", "--resume") == 0  # the same ones
    results = (tmp_path / "runs/folder/results.json").read_bytes()
    if change == "one more":
        files.video(tmp_path / "moved/train/a/12.mp4", 12, 4)
    else:
        videos = sorted(VideoFolder("moved", "train", num_frames=3, short_side=16, crop_size=16).ids)
        (tmp_path / "moved" / videos[0]).rename(tmp_path / "moved/train/b/more.mp4")
    capsys.readouterr()
    assert run("data.root=moved", "--out", "runs/folder", "--resume") == 2
    error = capsys.readouterr().err
    assert "the run began with 10 training videos (#" in error and "train.init=runs/folder" in error
    assert (tmp_path / "runs/folder/results.json").read_bytes() == results


def test_without_validation(run, tmp_path, capsys):
    assert run("data.root=clips", "data.val_fraction=0") == 0
    assert "no validation while training: no accuracy is measured" in capsys.readouterr().out
    assert json.loads((tmp_path / "runs/folder/results.json").read_text())["top1"] is None


def test_a_damaged_video_is_skipped(run, tmp_path, capsys):
    (tmp_path / "clips/train/a/0.mp4").write_bytes(b"nothing")
    assert run("data.root=clips", "data.on_error=skip") == 0
    assert "clips/train/a/0.mp4" in (tmp_path / "runs/folder/skipped.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "data.root: expected the folder with your videos, for example data.root=clips"),
        (["data.root=clip"], "data.root: clip is no folder; give the one that has your videos"),
        (["data.root=clips", "data.val_fraction=1"], "data.val_fraction: expected 0 to below 1"),
    ],
)
def test_mistakes(run, capsys, arguments, message):
    assert run(*arguments) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err


def test_10000_clips_are_listed_in_seconds(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "clips"
    for label in range(100):
        folder = root / f"train/{label}"
        folder.mkdir(parents=True)
        for number in range(100):
            (folder / f"{number}.mp4").write_bytes(bytes([label, number]))
        os.utime(folder, (time.time() - 9,) * 2)
    for folder in (root, root / "train"):
        os.utime(folder, (time.time() - 9,) * 2)
    begin = time.process_time()
    datasets = [VideoFolder(root, split) for split in ("train", "val")]
    assert time.process_time() - begin < 20
    assert [len(dataset) for dataset in datasets] == [8000, 2000]
    assert torch.equal(datasets[1].labels.bincount(), torch.full((100,), 20))
    begin = time.process_time()
    read_folder(root)
    assert time.process_time() - begin < 2


def test_several_labels_per_video(run, tmp_path, capsys):
    names = [f"train/{'ab'[n % 2]}/{n}.mp4" for n in range(12)]
    rows = [{"file_name": name, "label": ["x", "y"][n % 3 :]} for n, name in enumerate(names)]
    (tmp_path / "clips/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    more = ["train.early_stopping=9", "train.class_weights=balanced", "train.mixup=0.2"]
    assert run("data.root=clips", *more) == 0
    printed = capsys.readouterr().out
    assert "several labels per video" in printed and "test      mAP " in printed
    results = json.loads((tmp_path / "runs/folder/results.json").read_text())
    assert results["top1"] is None and 0 <= results["mAP"] <= 1 and results["loss"] < 1
    lines = (tmp_path / "runs/folder/per_class.csv").read_text().splitlines()
    assert lines[0] == "class,average precision" and [row[:2] for row in lines[1:]] == ["x,", "y,"]
    tested = rows_of(tmp_path / "runs/folder/predictions.csv")
    labels = {name: row["label"] for name, row in zip(names, rows)}
    true = {row["video"]: json.loads(row["true"]) for row in tested}
    assert true.items() <= labels.items() and true
    assert all(int(row["right"]) == (row["predicted"] in true[row["video"]]) for row in tested)
    assert run("data.root=clips", *more, "--evaluate", "runs/folder/checkpoints/last.ckpt") == 0
    again = json.loads((tmp_path / "runs/folder-evaluate/results.json").read_text())
    assert again["mAP"] == results["mAP"]
    ranked = Predictor.load("runs/folder", "cpu").ranked(torch.tensor([2.0, 3.0]))
    assert [c.probability for c in ranked] == pytest.approx([0.9526, 0.8808], abs=1e-4)  # sigmoids


@pytest.mark.slow
def test_a_pretrained_network(run, tmp_path, capsys):
    """The form of folder.yaml with torchvision's weights, here from a file."""
    torch.save(get_model("r3d_18").state_dict(), "r3d.pth")
    backbone = "model.backbone={kind: torchvision, network: r3d_18, weights: r3d.pth}"
    rstg = "model.rstg={places: [layer3], hidden_channels: 4, scales: [1]}"
    network = ["size=pretrained", backbone, rstg, "data.root=clips", "train.max_steps=2"]
    small = [s for s in SMALL if not s.startswith("model.")]
    assert main(["--cfg", "folder.yaml", *small, *network]) == 0
    printed = capsys.readouterr().out
    assert "r3d_18: 100 used" in printed and "(dense with stride 2" in printed
    saved = torch.load("runs/folder/checkpoints/last.ckpt", weights_only=True)
    start, now = torch.load("r3d.pth", weights_only=True), saved["state_dict"]
    frozen = {k for k, v in start.items() if torch.equal(v, now.get(f"model.backbone.network.{k}", v))}
    assert {k for k in start if k.startswith(("stem", "layer1"))} <= frozen
    assert not any(k.endswith("conv1.0.weight") for k in frozen if not k.startswith("layer1"))
    assert not torch.equal(saved["current_model_state"]["model.lin.weight"], now["model.lin.weight"])
    assert run("data.root=clips", "train.init=runs/folder") == 2  # another backbone
    assert "train.init: runs/folder/checkpoints/" in capsys.readouterr().err
