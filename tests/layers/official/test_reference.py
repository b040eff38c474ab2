"""The graph against a second computation of the published one, for configurations not recorded."""

import json
from pathlib import Path

import check_golden
import numpy as np
import pytest
import torch
from helpers import published_reference as reference
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rstg_pyg import official

BASE = {
    "dataset": "smt", "dim_h": 224, "dim_w": 224, "dim_map": 6, "num_scales": 3, "use_norm": "LN",
    "num_process_iter": 3, "message_dims": 8, "node_feat_dim": 8, "use_att": "dot",
    "scalewise_update": True, "use_positional_emb": False, "update_layers": 2, "multihead_att": False,
    "time_iter_mom": [0, 1, 2], "project_in": False, "project_out": False, "B": 2, "T": 3, "H": 6,
    "W": 6, "C": 8, "training": False, "graph_name": "whole_graph_model_final", "case": "made",
}  # fmt: skip


@st.composite
def flag_sets(draw):
    """Flags of the published code, most of them not recorded."""

    def one(*values):
        return draw(st.sampled_from(values))

    flags = dict(BASE, case="drawn", use_att=one("dot", "simple"), use_norm=one("LN", "BN", "none"))
    flags["multihead_att"] = flags["use_att"] == "dot" and one(False, True)
    flags["message_dims"] = flags["node_feat_dim"] = dims = one(8, 16)
    flags["dataset"] = one("smt", "mnist")
    flags["dim_h"], flags["dim_w"] = one((224, 224), (64, 64), (9, 11))
    flags["training"] = one(False, True)
    flags["scalewise_update"], flags["use_positional_emb"] = one(True, False), one(False, True)
    flags["num_scales"], flags["dim_map"] = one(3, 1, 2, 4), one(6, 7, 4)
    flags["num_process_iter"], flags["update_layers"] = one(3, 1, 2, 4), one(2, 1, 3)
    flags["time_iter_mom"] = one([0, 1, 2], [], [0], [1], [2, 0], [1, 3], [7])
    flags["project_in"], flags["project_out"] = one(False, True), one(False, True)
    # Without a projection in, the map has as many channels as the graph; with it, maybe.
    flags["C"] = one(dims, 5, 12) if flags["project_in"] else dims
    flags["B"], flags["T"] = one(2, 1, 3), one(3, 1, 4)
    flags["H"], flags["W"] = one((6, 6), (4, 9), (7, 5), (14, 4), (8, 8))
    if flags["num_scales"] == 4 and flags["dim_h"] == 9:
        flags["dim_h"] = flags["dim_w"] = 16  # 9 // (9 // 4) is not 4: boxes do not tile (section 1.2)
    return flags


def values_of(shapes, seed):
    """Random weights; float32 numbers, as files hold them."""
    rng = np.random.default_rng(seed)
    out = {}
    for name, shape in shapes.items():
        value = rng.standard_normal(shape)
        leaf = name.rpartition("/")[2]
        if leaf in ("gamma", "moving_variance"):
            value = rng.uniform(0.5, 1.5, shape)
        elif leaf == "kernel":
            value *= np.sqrt(2 / np.prod(shape[:-1]))
        else:
            value *= 0.3
        out[name] = value.astype(np.float32)
    return out


def map_of(flags):
    shape = [flags[key] for key in "BTHWC"]
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def block_with(flags, variables):
    """Our block in float64 with these weights, and what its variables are called."""
    block = official.build_graph(flags)
    wanted = official.graph_variables(block, "", reference.SCOPE)
    official.load_published(block, wanted, variables, [block])
    return block.double().train(flags["training"]), wanted


def outputs_of(block, x):
    """What the published code calls its outputs, from our block."""
    x = torch.as_tensor(x, dtype=torch.double).permute(0, 4, 1, 2, 3)
    nodes = block.nodes(x)
    return {
        "final_nodes_feats": nodes.transpose(0, 1),
        "frames_feats": nodes.sum(2).transpose(0, 1),
        "video_feats": nodes.mean(1).sum(1),
        "regions_feats": block.unpool(nodes, x.shape[-2:]).permute(0, 2, 3, 4, 1),
    }


def assert_close(ours, theirs, tolerance, what):
    ours = ours.detach().numpy() if isinstance(ours, torch.Tensor) else ours
    assert ours.shape == theirs.shape, what
    error = np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30)
    assert error <= tolerance, f"{what}: {error:.1e}"


def compare(flags, tolerance=1e-8):
    variables = values_of(reference.shapes(flags), 1)
    block, wanted = block_with(flags, variables)
    assert {v.name for v in wanted} == set(variables) and len(wanted) == len(variables)
    graph, x = reference.Graph(flags, variables, flags["training"]), map_of(flags)
    expected = graph(x)
    for name, value in outputs_of(block, x).items():
        assert_close(value, expected[name], tolerance, name)
    tensors = block.state_dict()
    for variable in wanted:  # after one forward: only moving statistics have changed, in training
        value = graph.v[variable.name.removeprefix(reference.SCOPE)]
        assert_close(variable.to_published(tensors), value, tolerance, variable.name)
        changed = not np.array_equal(value, variables[variable.name].astype(np.float64))
        assert changed == (flags["training"] and "/moving_" in variable.name), variable.name


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(flag_sets())
@example(dict(BASE, num_scales=1, H=5, W=4))  # scale-wise weights have their own names here, too
@example(dict(BASE, num_scales=1, scalewise_update=False, H=5, W=4))
@example(dict(BASE, num_scales=4, scalewise_update=False, H=5, W=4))
@example(dict(BASE, C=5, project_in=True, project_out=True))
@example(dict(BASE, project_out=True))
def test_any_configuration(flags):
    compare(flags)


def test_the_reference_is_the_recorded_code():
    """The second computation itself, against recorded numbers."""
    for name in ("g01_simple_pos_mnist_train", "g03_dot_multihead", "g05_bn_dot_train", "g09_rect_map"):
        with np.load(Path(__file__).parents[2] / "golden" / f"{name}.npz") as file:
            data = {key: file[key] for key in file.files}
        flags, variables = json.loads(str(data["config"])), check_golden.under(data, "var/")
        graph = reference.Graph(flags, variables, flags["training"])
        for key, value in graph(data["in/feature_map"]).items():
            assert_close(value, data[f"out/{key}"].astype(np.float64), 1e-4, key)
        constant = {n for n in variables if "resize_filters" in n or n.endswith("positional_emb")}
        assert set(variables) - constant == set(reference.shapes(flags))
        assert all(variables[n].shape == shape for n, shape in reference.shapes(flags).items())


@pytest.mark.parametrize(
    "key", ["message_dims", "use_att", "use_norm", "num_scales", "project_in", "C"]
)
def test_a_missing_flag_is_named(key):
    with pytest.raises(ValueError, match=f"the flag '{key}'"):
        official.build_graph({k: v for k, v in BASE.items() if k != key})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"use_att": "none"}, "'use_att' to be one of .*got 'none'"),
        ({"use_norm": "GN"}, "'use_norm' to be one of .*got 'GN'"),
        ({"use_att": None}, "'use_att' to be one of .*got None"),
        ({"use_att": "simple", "multihead_att": True}, "'dot' with 'multihead_att'"),
        ({"update_layers": 0}, "'num_update_layers' to be at least 1"),
        ({"message_dims": 12, "node_feat_dim": 12, "multihead_att": True}, "divisible"),
    ],
)
def test_flags_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        official.build_graph({**BASE, **changes})
