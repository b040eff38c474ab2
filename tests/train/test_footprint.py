import json

import pytest
from helpers.commands import fails

from rstg_pyg.train.config import load_config
from rstg_pyg.train.footprint import footprint, main


@pytest.mark.slow
def test_a_stream_holds_the_same_at_every_frame(tmp_path, capsys):
    out = tmp_path / "stream.json"
    small = ["model.backbone.filters=[8,8,8]", "model.rstg.hidden_channels=8"]
    command = ["--cfg", "syncmnist_mini.yaml", *small, "--classes", "4", "--stream", "60"]
    assert main([*command, "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert [row["frame"] for row in found["rows"]] == [10, 20, 50, 60]
    for key in ("state_bytes", "tensor_bytes"):
        assert len({row[key] for row in found["rows"]}) == 1
    assert found["rows"][0]["tensor_bytes"] > found["rows"][0]["state_bytes"] > 0
    assert found["compared_frames"] == 60 and found["largest_logit"] > 0.01
    assert found["largest_difference"] <= 1e-5 * max(1.0, found["largest_logit"])
    assert "logits after 60 frames and of the complete clip" in capsys.readouterr().out


@pytest.mark.slow
def test_what_does_not_grow_with_the_batch_counts_once():
    """Autocast's casts of weights; a moving average; no gradients of what is frozen."""

    def found(*overrides):
        more = ["trainer.precision=bf16-mixed", "model.rstg.hidden_channels=256", *overrides]
        return footprint(load_config("syncmnist_mini.yaml", more), 4)

    one, eight = found("train.batch_size=1"), found("train.batch_size=8")
    assert one["activations"] < eight["activations"] < 6 * one["activations"]
    plain, average = found(), found("train.ema=0.9")
    assert average["weights"] == 2 * plain["weights"] and average["gradients"] == plain["weights"]
    frozen = found("train.freeze=[backbone]")
    assert frozen["gradients"] < plain["gradients"] and frozen["activations"] < plain["activations"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cfg", "syncmnist_mini.yaml", "--stream", "0"], "--stream: expected at least one frame"),
        (["--cfg", "smt/i3d.yaml", "--stream", "9"], "combines frames"),
    ],
)
def test_mistakes_are_named(arguments, message, capsys):
    assert message in fails(capsys, main, *arguments)
