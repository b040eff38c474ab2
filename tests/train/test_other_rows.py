"""Other networks of the paper's table train on the built-in data."""

import pytest
from helpers.first_clips import train_on_few


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, place", [("inception_i3d", "mixed_3c"), ("s3dg", "mixed_3b"), ("s3dg", "conv_2c")]
)
def test_graphs_in_stages_of_inception_networks_train_on_the_demo(kind, place, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    changes = [f"model.backbone={{kind: {kind}, width: 8}}", f"model.rstg.places=[{place}]"]
    changes += ["model.rstg.scales=[2,1]", "model.rstg.hidden_channels=8"]
    task, _, losses = train_on_few("smt.yaml", *changes)
    assert sum(losses[-2:]) < 0.7 * sum(losses[:2])
    block = task.model.blocks[place]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())
    assert sum(float(p.grad.abs().sum()) > 0 for p in block.parameters()) > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mfnet_c50", "mfnet_c101"])
def test_the_demo_of_mfnet_learns_its_first_clips(name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    task, _, losses = train_on_few(f"smt/{name}.yaml")
    assert sum(losses[-2:]) < 0.7 * sum(losses[:2])
    motion = task.model.backbone.stages["motion3"].conv.weight
    assert motion[:, motion.size(0) :].abs().max() > 1e-3  # the differences are used
