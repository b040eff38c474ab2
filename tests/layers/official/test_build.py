"""Whole networks from the published flags: what builds, its variables, its head."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rstg_pyg import RSTGBlock, VideoClassifier, official, published_arguments
from rstg_pyg.backbones import SimpleConv
from rstg_pyg.backbones.resnet import NonLocalBlock
from rstg_pyg.train.build import build_model
from rstg_pyg.train.config import load_config

GOLDEN = Path(__file__).parents[2] / "golden"
SMALL = {
    "backbone_model": "i3d", "place_graph": "none", "place_nonlocal": "none", "comb_type": "plus",
    "final_norm": "LN", "use_norm": "LN", "use_att": "dot", "scalewise_update": True,
    "multihead_att": False, "use_positional_emb": False, "dim_map": 6, "num_scales": 3,
    "num_process_iter": 3, "update_layers": 2, "time_iter_mom": [0, 1, 2], "message_dims": 16,
    "node_feat_dim": 16, "num_filters": 16, "num_chan": 1, "num_classes": 174, "dataset": "smt",
    "classification_dropout": 0.3,
}  # fmt: skip
MNIST = {
    **SMALL, "backbone_model": "simple_c2d", "place_graph": "final", "comb_type": "serial",
    "use_norm": "none", "final_norm": "none", "use_att": "simple", "scalewise_update": False,
    "use_positional_emb": True, "num_classes": 46, "dataset": "mnist", "classification_dropout": 0.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_random_weights(monkeypatch):
    """Networks of full size in milliseconds: weights stay as the memory was, mostly zero."""
    for name in ("xavier_uniform_", "kaiming_uniform_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda tensor, *args, **kwargs: tensor)


def build(**changes):
    return official.build({**SMALL, **changes})


def shapes(model):
    """Shape and whether it is trained, by name."""
    tensors, parameters = model.state_dict(), dict(model.named_parameters())
    return {
        v.name: (tuple(v.to_published(tensors).shape), v.parts[0][0] in parameters)
        for v in official.model_variables(model)
    }


def recorded(name):
    """Flags, and the shape of every variable and whether it is trained."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        flags = json.loads(str(file["config"]))
        if "trainable" in flags:
            names = [key for key in file.files if key.startswith(("var/", "ckpt/"))]
            shapes = {key.partition("/")[2]: file[key].shape for key in names}
            found = {name: (shape, name in flags["trainable"]) for name, shape in shapes.items()}
        else:
            found = {
                name: (tuple(s), trained) for name, s, trained in json.loads(str(file["variables"]))
            }
    constant = ("resize_filters", "positional_emb", "Momentum", "global_step", "cudnn_compatible")
    return flags, {n: value for n, value in found.items() if not any(word in n for word in constant)}


def test_all_rounds_begin_with_a_time_stage_unless_told():
    flags = {name: value for name, value in MNIST.items() if name != "time_iter_mom"}
    assert official.build(flags).head.rstg.time_rounds == [0, 1, 2]


@pytest.mark.parametrize("name", ["w02_i3d_none", "w03_i3d_final_plus", "w05_i3d_res3_res4",
                                  "w06_nonlocal_res3_res4", "w07_c2d_none",
                                  "w01_mnist_simpleconv_serial", "tf_checkpoint/expected"])  # fmt: skip
def test_variables_are_the_recorded_ones(name):
    flags, variables = recorded(name)
    assert shapes(official.build(flags)) == variables


@pytest.mark.parametrize(
    ("cfg", "recording", "overrides"),
    [
        ("smt", "w05_i3d_res3_res4", []),
        ("smt", "w03_i3d_final_plus", ["model.rstg.places=[head]", "model.combine=plus"]),
        ("smt", "w02_i3d_none", ["model.rstg=null"]),
        ("smt", "w07_c2d_none", ["model.rstg=null", "model.backbone.kind=c2d"]),
        ("smt", "w06_nonlocal_res3_res4",
         ["model.rstg=null", "model.backbone.nonlocal_stages=[res3,res4]"]),
        ("syncmnist_published", "w01_mnist_simpleconv_serial",
         ["model.backbone.filters=[16,16,16]", "model.rstg.hidden_channels=16"]),
    ],
)  # fmt: skip
def test_configs_of_the_training_room_are_the_published_networks(cfg, recording, overrides):
    """The config with which a user converts and evaluates builds what the published flags build."""
    config = load_config(cfg, overrides, demo=False)
    flags, _ = recorded(recording)
    expected = official.build(flags)
    model = build_model(config, flags["num_classes"])
    assert shapes(model) == shapes(expected)
    ours, theirs = (str(m).replace("p=0.3", "p=0.0") for m in (model, expected))
    every = "time_stages='all'"  # the same as the list of all rounds
    assert ours.replace(every, "time_stages=[0, 1, 2]") == theirs
    assert (model.combine, model.pool_window) == (expected.combine, expected.pool_window) or (
        model.head is None and model.pool_window == expected.pool_window
    )


@pytest.mark.parametrize(
    "changes, blocks",
    [
        ({"place_nonlocal": "res2-res5"}, ["nonlocal2_1", "nonlocal5_1"]),
        ({"place_nonlocal": "res3"}, ["nonlocal3_1", "nonlocal3_3"]),
        ({"place_nonlocal": "res4"}, ["nonlocal4_1", "nonlocal4_3", "nonlocal4_5"]),
        ({"backbone_model": "non-local"}, None),
        ({"backbone_model": "non-local", "place_nonlocal": "res3-res4"}, None),
        ({"backbone_model": "non-local", "place_nonlocal": "res3"}, None),
        ({"backbone_model": "non-local", "place_graph": "final"}, []),
        ({"backbone_model": "non-local", "place_graph": "final", "place_nonlocal": "res5"},
         ["nonlocal5_1"]),
        ({"backbone_model": "c2d", "place_nonlocal": "res3-res4"}, []),
        ({"place_graph": "res5", "place_nonlocal": "res5"}, []),
        ({"place_graph": "res5", "place_nonlocal": "res3-res5"}, ["nonlocal3_1", "nonlocal3_3"]),
        ({"place_graph": "res3", "place_nonlocal": "res4"},
         ["nonlocal4_1", "nonlocal4_3", "nonlocal4_5"]),
    ],
    ids=str,
)  # fmt: skip
def test_nonlocal_blocks(changes, blocks):
    """The probes of the published code; ``None`` are the five blocks of the non-local network."""
    five = ["nonlocal3_1", "nonlocal3_3", "nonlocal4_1", "nonlocal4_3", "nonlocal4_5"]
    model = build(**changes)
    stages = model.backbone.stages.items()
    found = [name for name, stage in stages if isinstance(stage, NonLocalBlock)]
    assert found == (five if blocks is None else blocks)
    places = changes.get("place_graph", "none")
    assert list(model.blocks) == [p for p in places.split("-") if p not in ("none", "final")]
    assert (model.head is not None) == ("final" in places)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({**MNIST, "place_graph": "none"}, "'place_graph' to be 'final'"),
        ({**MNIST, "place_graph": "conv1"}, "'place_graph' to be 'none' or some of"),
        ({**MNIST, "comb_type": "plus"}, "'comb_type' to be 'serial'"),
        ({**MNIST, "use_att": "none"}, "'use_att' to be one of .*got 'none'"),
        ({**MNIST, "num_filters": 32}, "'num_filters' to be 'message_dims', 16"),
        ({**MNIST, "node_feat_dim": 8}, "'node_feat_dim' to be 'message_dims', 16 .got 8"),
        ({**MNIST, "update_layers": 0}, "at least 1"),
        ({"place_graph": "res3", "node_feat_dim": 8}, "'node_feat_dim' to be 'message_dims'"),
        ({"place_graph": "res3", "use_att": "none"}, "'use_att' to be one of"),
        ({"backbone_model": "c2d", "place_graph": "res3-res4"}, "one stage in 'place_graph' with c2d"),
        ({"place_graph": "res3-res4", "use_positional_emb": True}, "'use_positional_emb' to be false"),
        ({"place_graph": "res3-final", "use_positional_emb": True}, "'use_positional_emb'"),
        ({"place_graph": "res3", "place_nonlocal": "res3"}, r"got \['res3'\]"),
        ({"place_graph": "res3-res4", "place_nonlocal": "res4-res5"}, r"got \['res4'\]"),
        ({"place_graph": "res6"}, "'place_graph' to be 'none' or some of"),
        ({"place_nonlocal": "final"}, "'place_nonlocal' to be 'none' or some of"),
        ({"backbone_model": "resnet"}, "'backbone_model' to be .*got 'resnet'"),
        ({"final_norm": "GN", "place_graph": "res3"}, "'final_norm' to be one of .*got 'GN'"),
        ({"backbone_model": "c2d", "use_norm": "GN", "place_graph": "res3"}, "'use_norm' to be one of"),
        ({"comb_type": "sum", "place_graph": "final"}, "'serial' or 'plus' .got 'sum'"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:30],
)
def test_what_the_published_code_cannot_build(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


@pytest.mark.parametrize("key", ["backbone_model", "num_classes", "final_norm", "message_dims"])
def test_a_missing_flag_is_named(key):
    with pytest.raises(ValueError, match=f"the flag '{key}'"):
        official.build({name: v for name, v in SMALL.items() if name != key} | {"place_graph": "res3"})


@pytest.mark.parametrize(
    "model, place, channels, after",
    [
        ("i3d", "res2", 256, "res2_1"), ("c2d", "res3", 512, "res3_2"),
        ("non-local", "res4", 1024, "res4_4"), ("i3d", "res5", 2048, "res5_1"),
        ("c2d", "res5", 2048, "res5_1"), ("i3d", "final", 2048, None), ("c2d", "final", 2048, None),
    ],
)  # fmt: skip
def test_every_place(model, place, channels, after):
    """Channels and names of a graph by its place; C2D names its norm without the place."""
    made = build(backbone_model=model, place_graph=place)
    block = made.head if place == "final" else made.blocks[place]
    assert (block.channels, block.to_) == (channels, "vec" if place == "final" else "map")
    assert (block.hidden_channels, block.pool.num_nodes) == (16, 14)
    assert made.block_after == ({} if after is None else {after: place})
    scope = f"tower/resnet_{'c2d' if model == 'c2d' else 'i3d'}/" + "backbone/" * (place != "final")
    prefix = "" if model == "c2d" else f"{place}_"
    assert set(shapes(made)) >= {
        f"{scope}{prefix}after_graph_ln/beta",
        f"{scope}{prefix}after_graph_ln_scale",
        f"{scope}whole_graph_model_{place}/before_graf_ln/gamma",
        f"{scope}whole_graph_model_{place}/project_i3d/kernel",
    }


@pytest.mark.parametrize(
    "changes, there, absent",
    [
        ({"final_norm": "LN", "use_norm": "BN"}, "res3_after_graph_ln_scale", "res3_after_graph_bn"),
        ({"final_norm": "BN", "use_norm": "LN"}, "res3_after_graph_bn/moving_mean", "after_graph_ln"),
        ({"final_norm": "none"}, "whole_graph_model_res3", "after_graph"),
        ({"backbone_model": "c2d", "final_norm": "LN", "use_norm": "BN"}, "/after_graph_bn/gamma",
         "after_graph_ln"),
        ({"backbone_model": "c2d", "final_norm": "BN", "use_norm": "LN"}, "/after_graph_ln_scale",
         "after_graph_bn"),
        ({"backbone_model": "c2d", "final_norm": "LN", "use_norm": "none"}, "whole_graph_model_res3",
         "after_graph"),
    ],
    ids=str,
)  # fmt: skip
def test_the_norm_after_the_graph(changes, there, absent):
    names = " ".join(shapes(build(place_graph="res3", **changes)))
    assert there in names and absent not in names


def test_numbers_of_the_head():
    made = build(place_graph="final", comb_type="plus")
    assert (made.combine, made.pool_window, made.dropout.p) == ("plus", 14, 0.3)
    assert (made.num_classes, made.lin.in_features) == (174, 2048)
    made = official.build(MNIST)
    assert (made.combine, made.pool_window, made.dropout.p) == ("serial", None, 0.0)


def test_a_graph_after_a_stage_of_simple_conv_has_names():
    """Nothing the published code does, but the names are distinct and stable."""
    block = RSTGBlock(4, 8, **published_arguments(out_norm=None))
    names = shapes(VideoClassifier(SimpleConv(1, (4, 4, 4)), 3, blocks={"conv1": block}))
    assert "tower/whole_graph_model_conv1/project_i3d/kernel" in names
