"""What the schema knows: types, kinds, keys with the nearest name, and the layers' own defaults."""

import inspect
import json
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rstg_pyg.train import schema, schema_model
from rstg_pyg.train.build import build_model
from rstg_pyg.train.config import differences, load_config, parse_config, to_dict
from rstg_pyg.train.data.clips import VideoClips
from rstg_pyg.train.data.folder import VideoFolder
from rstg_pyg.train.data.mini import MiniSomething, write_mini_something
from rstg_pyg.train.data.something import SomethingSomething
from rstg_pyg.train.data.syncmnist import SyncMNIST
from rstg_pyg.train.errors import UserError

SMT = {"dataset": "something"}
#: Configs as the version before wrote them into checkpoints, every key with its value.
RECORDED = json.loads(Path(__file__).with_name("recorded_configs.json").read_text())


def parse(model=None, data=None, **sections):
    sections = {"name": "x", "model": model or {}, "data": data or {}, **sections}
    return parse_config(sections, "x.yaml")


def mistake(message, **sections):
    with pytest.raises(UserError, match=message) as e:
        parse(**sections)
    assert str(e.value).startswith("x.yaml: ") and len(str(e.value).splitlines()) == 1
    return str(e.value)


def test_kinds():
    assert isinstance(parse().model.backbone, schema_model.SimpleConvConfig)
    assert isinstance(parse().data, schema.SyncMNISTConfig)
    for kind in ("c2d", "i3d"):
        config = parse({"backbone": {"kind": kind}}, SMT)
        assert isinstance(config.model.backbone, schema_model.ResNetConfig)
        assert isinstance(config.data, schema.SomethingConfig)
        assert (config.model.backbone.kind, config.data.channels, config.data.size) == (kind, 3, 224)
    assert (parse().data.channels, parse().data.size) == (1, 64)
    assert parse(data={"dataset": "syncmnist", "frame_size": 48}).data.size == 48


@pytest.mark.parametrize("kind", ["I3D", None, ["i3d"]])
def test_an_unknown_kind_is_named_with_the_known_ones(kind):
    known = "simple_conv, c2d, i3d, bn_inception, eco_lite, inception_i3d, s3dg, torchvision, joints"
    mistake(f"model.backbone: expected 'kind' to be one of {known}", model={"backbone": {"kind": kind}})
    known = "syncmnist, something, folder, skeleton"
    mistake(f"data: expected 'dataset' to be one of {known}", data={"dataset": kind})


@pytest.mark.parametrize("value", [3, None])
def test_a_value_in_the_place_of_a_section(value):
    mistake("model.backbone: expected 'kind' to be one of", model={"backbone": value})
    mistake("train: input should be a valid dictionary", train=value)


#: Sections by their path, and what chooses the kind.
PATHS = [
    ("", {}, schema.Config), ("data", {}, schema.SyncMNISTConfig),
    ("data", SMT, schema.SomethingConfig),
    ("data.builtin", SMT, schema.MiniSomethingConfig), ("model", {}, schema_model.ModelConfig),
    ("model.rstg", {}, schema_model.RSTGConfig), ("model.head", {}, schema_model.LSTMHeadConfig),
    ("model.backbone", {}, schema_model.SimpleConvConfig),
    ("model.backbone", {"kind": "i3d"}, schema_model.ResNetConfig),
    ("train", {}, schema.TrainConfig), ("trainer", {}, schema.TrainerConfig),
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(PATHS))
def test_a_misspelt_key_is_named_with_the_nearest(data, place):
    """One letter more, less or other, in any section."""
    path, kinds, section = place
    right = data.draw(st.sampled_from([key for key in section.model_fields if len(key) > 3]))
    at = data.draw(st.integers(0, len(right) - 1))
    letter = data.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz_"))
    rest = data.draw(st.sampled_from([right[at:], right[at + 1 :]]))
    wrong = right[:at] + data.draw(st.sampled_from(["", letter])) + rest
    assume(wrong not in section.model_fields)
    parts = path.split(".") if path else []
    values = {wrong: 1}
    for part in reversed(parts):
        chooses = kinds if part in ("data", "backbone") else {}
        values = {part: {**chooses, **values}}
    if path == "data.builtin":
        values["data"] |= kinds
    message = mistake(f"unknown key '{'.'.join([*parts, wrong])}'; did you mean '", **values)
    assert message.split("did you mean '")[1].split("'")[0] in section.model_fields


def test_nothing_is_near():
    mistake("unknown key 'model.backbone.zz'; known keys are kind, nonlocal_stages, motion_stages",
            model={"backbone": {"kind": "c2d", "zz": [1]}})  # fmt: skip
    mistake("unknown key 'data.num_digits'", data={**SMT, "num_digits": 3})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"backbone": {"kind": "i3d", "nonlocal_stages": ["res6"]}},
         r"model.backbone.nonlocal_stages.0: input should be 'res2', .*got 'res6'"),
        ({"backbone": {"kind": "i3d", "pool_padding": 2}},
         "model.backbone.pool_padding: input should be 0 or 1 .got 2"),
        ({"backbone": {"kind": "torchvision"}}, "model.backbone.network: field required"),
        ({"backbone": {"filters": []}}, "model.backbone.filters: list should have at least 1 item"),
        ({"rstg": {"scales": [[2, 0]]}}, "model.rstg.scales.0"),
        ({"rstg": {"out_norm": "zero"}}, "model.rstg.out_norm: input should be 'default', 'layer'"),
        ({"rstg": {"time_stages": "often"}}, "model.rstg.time_stages"),
        ({"pool_window": 0}, "model.pool_window"),
        ({"combine": "sum"}, "model.combine: input should be 'serial' or 'plus'"),
        ({"head": {}}, "model.head: there is a graph at the head already; use model.rstg=null"),
        ({"rstg": {"homogeneous": True}}, "model.rstg.homogeneous: .*use time_stages=none"),
        ({"rstg": {"published": True, "residual": True}}, "published code has no residual=True"),
        ({"rstg": {"published": True, "attention": None, "cell": "gru"}}, "cell=gru, attention=None"),
    ],
)  # fmt: skip
def test_values_that_mean_nothing(model, message):
    mistake(message, model=model)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"accumulate": 3}}, "train.accumulate: expected a divisor of train.batch_size=64"),
        ({"train": {"schedule": "multistep"}}, "train.milestones: expected some with train.schedule"),
        ({"data": SMT, "pretrain": {"steps": 1}}, "pretrain.steps: .* on SyncMNIST only"),
        ({"model": {"backbone": {"kind": "i3d"}}, "pretrain": {"steps": 1}}, "for a simple_conv only"),
        ({"model": {"rstg": {"out_norm": "batch"}}, "train": {"batch_size": 1}},
         "model.rstg.out_norm: batch norm of the head's vector needs more than one video"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(sections, message):
    mistake(message, **sections)


def test_the_defaults_are_those_of_the_constructors():
    """A layer built without arguments, and a graph and a backbone that a config says nothing about, are
    the same.
    """
    from rstg_pyg import RSTG, LSTMHead, RSTGBlock, RSTGConv, VideoClassifier
    from rstg_pyg.backbones import SimpleConv, VideoResNet

    mirrored = {
        schema_model.RSTGConfig: (RSTGBlock, RSTG, RSTGConv),
        schema_model.LSTMHeadConfig: (LSTMHead,),
        schema_model.SimpleConvConfig: (SimpleConv,),
        schema_model.ResNetConfig: (VideoResNet,),
        schema_model.ModelConfig: (VideoClassifier,),
        schema.SyncMNISTConfig: (SyncMNIST,),
        schema.SomethingConfig: (SomethingSomething, VideoClips),
        schema.FolderConfig: (VideoFolder, VideoClips),
        schema.MiniSomethingConfig: (write_mini_something, MiniSomething),
    }
    # Given by another word in a config: classes, norms and the kinds of data by their names.
    otherwise = {"norm of ResNetConfig", "out_norm of RSTGConfig", "in_norm of LSTMHeadConfig",
                 "backbone of ModelConfig", "head of ModelConfig", "protocol of SomethingConfig",
                 "digits of SyncMNISTConfig", "root of SomethingConfig", "protocol of FolderConfig",
                 "root of FolderConfig"}  # fmt: skip
    compared = 0
    for section, layers in mirrored.items():
        for name, field in section.model_fields.items():
            for layer in layers:
                argument = inspect.signature(layer).parameters.get(name)
                if argument is None or f"{name} of {section.__name__}" in otherwise:
                    continue
                wanted = argument.default
                assert field.default == (list(wanted) if isinstance(wanted, tuple) else wanted), name
                compared += 1
                break
    assert compared > 45


@pytest.mark.parametrize("places", [["head"], ["conv0"], ["conv0", "head"]])
def test_a_config_that_says_nothing_builds_what_the_constructor_builds(places):
    from rstg_pyg import RSTGBlock

    made = build_model(parse({"backbone": {"filters": [4]}, "rstg": {"places": places}}), 3)
    blocks = {"map": made.blocks["conv0"] if "conv0" in places else None, "vec": made.head}
    for to, block in blocks.items():
        assert block is None or repr(block) == repr(RSTGBlock(4, to=to))


def common(values, older):
    """Those of the values whose keys the older ones have, too."""
    return {
        key: common(values[key], value) if isinstance(value, dict) else values[key]
        for key, value in older.items()
    }


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_configs_in_old_checkpoints_mean_the_same(name):
    """They are read as they were, and are those of the shipped files, which say what they rely on.
    Only the precision is no longer said where the machine may choose it.
    """
    cfg, *overrides = name.split(" ")
    before = parse_config(RECORDED[name], "old.ckpt")
    now = differences(to_dict(before), to_dict(load_config(cfg, overrides)))
    assert now in ([], ["trainer.precision ('32-true' against 'auto')"])
    changed = differences(RECORDED[name], common(to_dict(before), RECORDED[name]))
    assert all(line.startswith("model.rstg.out_norm ('auto' against") for line in changed)


@pytest.mark.parametrize(
    ("rstg", "map_norm", "vector_norm"),
    [({}, True, False), ({"residual": True}, True, True)],
)
def test_what_out_norm_auto_meant(rstg, map_norm, vector_norm):
    for places in (["head"], ["conv0"], ["head", "conv0"]):
        rstg = {**rstg, "places": places, "out_norm": "auto"}
        model = build_model(parse({"backbone": {"filters": [4]}, "rstg": rstg}), 3)
        if "head" in places:
            assert (model.head.norm is not None) == vector_norm
        if "conv0" in places:
            assert (model.blocks["conv0"].norm is not None) == map_norm
