import json
import re

import pytest
import torch

from rstg_pyg.train import predict, predictor, reproduce
from rstg_pyg.train.skeletons import examine
from rstg_pyg.train.skeletons.generated import generate_recordings

TINY = ["model.backbone.channels=8", "train.epochs=1", "data.test_clips=2", "train.ema=null"]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Two actions by the subjects 1, 2, 3, 5, 7 and 9 in the format of MSR Action3D."""
    folder = tmp_path_factory.mktemp("skeletons")
    for recording in generate_recordings(9, 4):
        if recording.action <= 2 and recording.subject in (1, 2, 3, 5, 7, 9):
            rows = torch.nn.functional.pad(recording.pos.reshape(-1, 3), (0, 1)).tolist()
            lines = [" ".join(f"{value:.5f}" for value in row) for row in rows]
            (folder / f"{recording.name}_skeleton3D.txt").write_text("\n".join(lines))
    return folder


@pytest.mark.slow
def test_choosing_then_testing_then_looking(recordings, tmp_path, capsys):
    out = tmp_path / "out"
    start = ["skeletons", f"data.root={recordings}", "--out", str(out), *TINY]
    assert reproduce.main([*start, "--rows", "RSTG", "--seeds", "0"]) == 0
    table = (out / "table.md").read_text()
    results = json.loads((out / "rstg" / "seed0" / "results.json").read_text())
    assert results["num_videos"] == 8 and "subject 2," in results["protocol"]
    assert f"{100 * results['top1']:.1f} %" in table and "RSTG" in table
    assert reproduce.main([*start, "--rows", "RSTG", "--seeds", "0"]) == 0  # nothing is left to run
    assert "1 of 1 run is already done" in capsys.readouterr().out
    looked = tmp_path / "looked"
    run = str(out / "rstg" / "seed0")
    assert examine.main([run, "--out", str(looked)]) == 0
    found = json.loads((looked / "examined.json").read_text())[run]
    assert len(found["frames"]) == 16 and set(found["dropped"]) == {f"{s:g}" for s in examine.SHARES}
    assert found["frames"][-1] == pytest.approx(found["dropped"]["0"])
    assert (looked / "attention.png").stat().st_size > 1000
    file = str(recordings / "a02_s02_e01_skeleton3D.txt")
    page, answers = tmp_path / "page.html", tmp_path / "answers.json"
    capsys.readouterr()
    command = [file, "--ckpt", run, "--top", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(predictor, "read_recording")  # the file is read once, by predict
        assert predict.main([*command, "--overlay", str(page), "--json", str(answers)]) == 0
    said = capsys.readouterr().out
    [answer] = json.loads(answers.read_text())["videos"]
    assert f"{file} (" in said and "skeletons of 16 frames" in said
    assert f"{run} (trained with the config " in said
    chances = {found["name"]: found["probability"] for found in answer["predictions"]}
    assert set(chances) == {"high arm wave", "horizontal arm wave"}
    assert sum(chances.values()) == pytest.approx(1, abs=1e-3)
    shown = json.loads(re.search(r"<script[^>]*json[^>]*>(.*?)</script>", page.read_text(), re.S)[1])
    assert len(shown["layers"]) == 1 and len(shown["probabilities"]) == len(shown["pos"]) == 16
    assert predict.main([*command, "--stream"]) == 2
    assert "--stream: is for videos, and this network takes files" in capsys.readouterr().err
    assert predict.main([str(tmp_path / "missing.txt"), file, "--ckpt", run]) == 2
    said = capsys.readouterr()
    assert "missing.txt: cannot be read" in said.err and "wave" in said.out


def test_mistakes_are_named(recordings, tmp_path, capsys):
    start = ["skeletons", f"data.root={recordings}", "--out", str(tmp_path / "out")]
    assert reproduce.main([*start, "--choose", "two round"]) == 2
    assert "--choose: there is no 'two round'; did you mean 'two rounds'" in capsys.readouterr().err
    assert reproduce.main([*start, "--jobs", "0"]) == 2
    assert examine.main([str(tmp_path / "none"), "--out", str(tmp_path / "x")]) == 2
