"""Whole runs with hardly anything in them."""

import json
from pathlib import Path

import pytest
from helpers.results import rows_of

from rstg_pyg.train.run import main

LEAST = """
name: least
data: {digits: builtin, num_digits: 2, num_classes: 3, num_frames: 1, frame_size: 8, canvas_size: 16,
  digit_size: 8, max_step: 3, train_videos: 3, val_videos: 1, test_videos: 2}
model: {backbone: {filters: [4], padding: 1}, rstg: {hidden_channels: 4, scales: [1], num_rounds: 1}}
train: {batch_size: 1, epochs: 2, validate_every: 2, log_every: 1}
trainer: {accelerator: cpu, progress_bar: false}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("least.yaml").write_text(LEAST)


def no_constant(name):
    raise AssertionError(f"{name} in JSON")


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model.rstg.in_norm=batch", "model.rstg.norm=batch", "model.rstg.out_norm=layer"],
        ["model.rstg.published=true", "model.rstg.norm=layer", "train.clip=null"],
    ],
)
def test_one_frame_one_node_one_video_and_classes_without_videos(overrides):
    assert main(["--cfg", "least.yaml", "--out", "run", *overrides]) == 0
    results = json.loads(Path("run/results.json").read_text(), parse_constant=no_constant)
    assert results["num_videos"] == 2 and results["steps"] == 6
    classes = rows_of("run/per_class.csv")
    empty = [row for row in classes if row["videos"] == "0"]
    assert len(classes) == 4 and len(empty) >= 2
    assert all((row["correct"], row["accuracy"]) == ("0", "") for row in empty)
    assert not Path("run/nonfinite").exists()
    for name in ("metrics.csv", "per_class.csv", "confusion.csv"):
        assert "nan" not in Path("run", name).read_text().lower()


def test_a_vector_of_one_video_cannot_be_batch_normalized(capsys):
    assert main(["--cfg", "least.yaml", "model.rstg.out_norm=batch"]) == 2
    assert "model.rstg.out_norm: batch norm of the head's vector" in capsys.readouterr().err
    assert not Path("runs").exists()
