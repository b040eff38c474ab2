import pytest
import torch

from rstg_pyg.export import export_stream
from rstg_pyg.graphs import skeleton_graph
from rstg_pyg.train.build import build_model, check_model
from rstg_pyg.train.config import load_config
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.skeletons.protocol import SKELETON_ROWS as ROWS

CONFIG = "skeleton/msr_action3d.yaml"
MORE = {
    "sum": ("data.sum_joints=true",),
    "mean": ("data.max_over_time=false",),
    "places": ("model.rstg.positions=true", "data.bodies=2"),
}


def network(*overrides):
    torch.manual_seed(0)
    config = load_config(CONFIG, ["model.backbone.channels=8", *overrides])
    check_model(config)
    return build_model(config, 5).eval(), config


def clip_of(config, clips=3):
    clip = torch.randn(clips, config.data.channels, 6, *config.data.clip_shape[2:])
    clip[:, -1] = 1
    return clip


@pytest.mark.parametrize("name", [*ROWS, *MORE])
def test_networks_learn_in_all_weights(name):
    model, config = network(*{**ROWS, **MORE}[name])
    model.train()
    out = model(clip_of(config))
    assert out.shape == (3, 5)
    out.square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without
    assert model.streams == (name != "ST-GCN-like")


@pytest.mark.parametrize("name", ["RSTG", "time-only", *MORE])
def test_frames_one_by_one_give_the_same(name):
    model, config = network(*{**ROWS, **MORE}[name])
    clip, state = clip_of(config), None
    clip[0, :, 2:4, 0, 5] = 0
    for frame in clip.split(2, dim=2):
        logits, state = model.stream(frame, state)
    with torch.no_grad():
        assert torch.allclose(logits, model(clip), atol=1e-5)


@pytest.mark.parametrize("name", ["RSTG", "mean"])
def test_an_exported_stream_begins_with_zeros(name):
    model, config = network(*{**ROWS, **MORE}[name])
    clip = clip_of(config)
    program = export_stream(model, clip[:, :, :1])
    step, state, eager = program.module(), program.example_inputs[0][1:], None
    for frame in clip.split(1, dim=2):
        logits, *state = step(frame, *state)
        expected, eager = model.stream(frame, eager)
        assert torch.allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("change", ["norm=batch", "in_norm=batch", "typed_update=true", "map_size=3"])
def test_settings_without_a_meaning_are_refused(change):
    with pytest.raises(UserError, match=f"no '{change.split('=')[0]}' for skeletons"):
        network(f"model.rstg.{change}")
    with pytest.raises(UserError, match="kernel_size: expected an odd number"):
        network("model.rstg=null", "model.head={kind: st_gcn, kernel_size: 4}")


def test_an_absent_joint_sends_nothing():
    model, config = network("data.sum_joints=false")
    clip = clip_of(config, 1)
    clip[:, :, :, :, 13] = 0  # a knee, whose neighbors are hip and ankle
    other = clip.clone()
    other[:, :-1, :, :, 13] = 3.0
    with torch.no_grad():
        nodes, changed = (model.head.run(model.features(x))[0] for x in (clip, other))
    differs = (nodes != changed).any(-1).any(0)
    assert differs.nonzero().flatten().tolist() == [13]
    there = other.clone()
    there[:, -1] = 1
    with torch.no_grad():
        heard = (model.head.run(model.features(there))[0] != changed).any(-1).any(0)
    edges = skeleton_graph().edge_index
    neighbors = edges[1, edges[0] == 13].tolist()
    assert set(heard.nonzero().flatten().tolist()) == set(neighbors)


def test_the_comparison_has_the_same_width():
    sizes = {name: build_size(overrides) for name, overrides in ROWS.items()}
    assert sizes["time-only"] < sizes["RSTG"] and sizes["ST-GCN-like"] < 2 * sizes["RSTG"]


def build_size(overrides):
    model = build_model(load_config(CONFIG, list(overrides)), 20)
    assert model.lin.in_features == 20 * 2 * 32
    return sum(p.numel() for p in model.parameters())


def test_the_encoder_is_for_skeletons():
    with pytest.raises(UserError, match="model.backbone: .*data.dataset=skeleton"):
        check_model(
            load_config("syncmnist_mini.yaml", ["model.backbone={kind: joints}", "pretrain.steps=0"])
        )
