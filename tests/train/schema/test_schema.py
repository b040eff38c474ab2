"""What the schema knows: kinds, places, map sizes, and hints for what it does not know."""

import pytest
import torch
from pydantic import BaseModel

from rstg_pyg.train.build import build_backbone, build_model
from rstg_pyg.train.config import load_config, parse_config, to_dict
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.schema import config as schema
from rstg_pyg.train.schema import model as model_schema
from rstg_pyg.train.schema.sections import section_of

SMT = {"dataset": "something"}


def parse(model=None, data=None, **sections):
    sections = {"name": "x", "model": model or {}, "data": data or {}, **sections}
    return parse_config(sections, "x.yaml")


def mistake(message, **sections):
    with pytest.raises(UserError, match=message) as e:
        parse(**sections)
    assert str(e.value).startswith("x.yaml: ") and len(str(e.value).splitlines()) == 1
    return str(e.value)


# unions


def test_kinds():
    assert isinstance(parse().model.backbone, model_schema.SimpleConvConfig)
    assert isinstance(parse().data, schema.SyncMNISTConfig)
    for kind in ("c2d", "i3d"):
        config = parse({"backbone": {"kind": kind}}, SMT)
        assert isinstance(config.model.backbone, model_schema.ResNetConfig)
        assert isinstance(config.data, schema.SomethingConfig)
        assert (config.model.backbone.kind, config.data.channels, config.data.size) == (kind, 3, 224)
        assert parse_config(to_dict(config), "again") == config
    assert (parse().data.channels, parse().data.size) == (1, 64)
    assert parse(data={"dataset": "syncmnist", "frame_size": 48}).data.size == 48


@pytest.mark.parametrize("kind", ["vgg", "I3D", "", 3, None, ["i3d"], {"i3d": 1}])
def test_an_unknown_backbone_is_named_with_the_known_ones(kind):
    message = mistake(
        "model.backbone: expected 'kind' to be one of", model={"backbone": {"kind": kind}}
    )
    assert all(known in message for known in ("simple_conv", "c2d", "i3d"))


@pytest.mark.parametrize("name", ["smt", "MNIST", "", 3, None, ["something"]])
def test_an_unknown_dataset_is_named_with_the_known_ones(name):
    message = mistake("data: expected 'dataset' to be one of", data={"dataset": name})
    assert "syncmnist, something" in message


@pytest.mark.parametrize("value", [3, "i3d", None, [], True])
def test_a_section_that_is_none(value):
    expected = "expected 'kind' to be one of|valid dictionary|known keys"
    if value != []:
        mistake(f"model.backbone: .*({expected})", model={"backbone": value})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {**SMT, "crop_sise": 3}}, "unknown key 'data.crop_sise'; did you mean 'crop_size'"),
        ({"data": {"frame_sise": 3}}, "unknown key 'data.frame_sise'; did you mean 'frame_size'"),
        ({"data": {**SMT, "num_digits": 3}}, "unknown key 'data.num_digits'"),
        ({"data": {"crop_size": 3}}, "unknown key 'data.crop_size'"),
        ({"model": {"backbone": {"kind": "i3d", "last_strid": 1}}},
         "unknown key 'model.backbone.last_strid'; did you mean 'last_stride'"),
        ({"model": {"backbone": {"filter": [1]}}},
         "unknown key 'model.backbone.filter'; did you mean 'filters'"),
        ({"model": {"backbone": {"kind": "c2d", "filters": [1]}}},
         "unknown key 'model.backbone.filters'.*known keys are kind, nonlocal_stages"),
        ({"model": {"rstg": {"place": ["head"]}}}, "'model.rstg.place'; did you mean 'places'"),
        ({"model": {"backbone": {"kind": "i3d", "nonlocal_stages": ["res6"]}}},
         r"model.backbone.nonlocal_stages.0: input should be 'res2', .*got 'res6'"),
        ({"model": {"backbone": {"kind": "i3d", "pool_padding": 2}}},
         "model.backbone.pool_padding: input should be 0 or 1 .got 2"),
        ({"data": {**SMT, "crop": "left"}}, "data.crop: input should be 'random'.*got 'left'"),
        ({"data": {**SMT, "brightness": 2.0}}, "data.brightness"),
    ],
)  # fmt: skip
def test_hints_inside_a_union(sections, message):
    mistake(message, **sections)


def test_section_of():
    fields = schema.Config.model_fields
    assert section_of(fields["train"].annotation, {}) is schema.TrainConfig
    assert section_of(fields["seed"].annotation, 3) is None
    data, backbone = (
        fields["data"].annotation,
        model_schema.ModelConfig.model_fields["backbone"].annotation,
    )
    assert section_of(data, {}) is schema.SyncMNISTConfig
    assert section_of(data, {"dataset": "something"}) is schema.SomethingConfig
    assert section_of(data, {"dataset": "x"}) is None
    assert section_of(backbone, {}) is model_schema.SimpleConvConfig
    assert section_of(backbone, {"kind": "c2d"}) is model_schema.ResNetConfig
    assert section_of(backbone, {"kind": ["c2d"]}) is None
    rstg = model_schema.ModelConfig.model_fields["rstg"].annotation  # the section or none
    assert section_of(rstg, {}) is model_schema.RSTGConfig
    assert section_of(rstg, None) is model_schema.RSTGConfig


def test_every_section_forbids_what_it_does_not_know():
    sections = [v for v in vars(schema).values() if isinstance(v, type) and issubclass(v, BaseModel)]
    assert len(sections) > 8
    for section in set(sections) - {BaseModel}:
        assert section.model_config["extra"] == "forbid", section
        assert section.model_config["strict"] and section.model_config["frozen"], section


# places and scales


@pytest.mark.parametrize("places", [["conv1"], ["conv0", "conv2", "head"], ["head"]])
def test_places_of_simple_conv(places):
    rstg = {"places": places, "hidden_channels": 4, "scales": [2, 1]}
    config = parse({"backbone": {"filters": [2, 3, 4]}, "rstg": rstg})
    model = build_model(config, 3)
    assert list(model.blocks) == [place for place in places if place != "head"]
    assert (model.head is not None) == ("head" in places)
    assert all(block.channels == {"conv0": 2, "conv1": 3, "conv2": 4}[place]
               for place, block in model.blocks.items())  # fmt: skip


@pytest.mark.parametrize(
    ("backbone", "place", "known"),
    [
        ({"filters": [2, 3]}, "conv2", "conv0, conv1, head"),
        ({"filters": [2, 3]}, "res3", "conv0, conv1, head"),
        ({"kind": "i3d"}, "conv0", "res2, res3, res4, res5, head"),
        ({"kind": "c2d"}, "final", "res2, res3, res4, res5, head"),
        ({"kind": "c2d"}, "res6", "res2, res3, res4, res5, head"),
    ],
)
def test_a_place_that_does_not_exist(backbone, place, known):
    model = {"backbone": backbone, "rstg": {"places": ["head", place], "scales": [1]}}
    mistake(f"model.rstg.places: expected some of {known} .got '{place}'", model=model)


@pytest.mark.parametrize(
    ("backbone", "place", "size", "side"),
    [
        ({}, "conv0", 64, 31), ({}, "conv1", 64, 14), ({}, "conv2", 64, 6), ({}, "head", 64, 6),
        ({"padding": 1}, "head", 64, 8), ({"pool": [True, False, False]}, "head", 32, 11),
        ({"kind": "i3d"}, "res2", 64, 15), ({"kind": "i3d"}, "res3", 64, 8),
        ({"kind": "c2d"}, "res4", 64, 4), ({"kind": "c2d"}, "head", 64, 4),
        ({"kind": "c2d", "last_stride": 2}, "res5", 64, 2),
        ({"kind": "c2d", "last_stride": 2}, "head", 64, 2),
        ({"kind": "i3d", "pool_padding": 1}, "res2", 64, 16),
    ],
)  # fmt: skip
def test_the_finest_scale_that_fits_a_place(backbone, place, size, side):
    """As many cells as the map has; one more is refused, also as rows or columns alone."""

    def model(*scales):
        return {"backbone": backbone, "rstg": {"places": [place], "scales": list(scales)}}

    data = {"frame_size": size}
    parse(model(side, 1), data)
    parse(model([side, 1], [1, side]), data)
    text = f"a scale of {side + 1} does not fit the feature map of {side} x {side} cells"
    for scales in ([side + 1], [1, side + 1], [[1, side + 1]], [[side + 1, 1], 1]):
        mistake(f"model.rstg.scales: {text} that frames of {size} pixels", model=model(*scales),
                data=data)  # fmt: skip


def test_the_smallest_place_decides():
    rstg = {"places": ["res2", "res5"], "scales": [5]}
    mistake("feature map of 4 x 4 cells", model={"backbone": {"kind": "c2d"}, "rstg": rstg})
    parse({"backbone": {"kind": "c2d"}, "rstg": {**rstg, "places": ["res2"]}})
    mistake("of 2 x 2 cells that frames of 32", data={**SMT, "crop_size": 32},
            model={"backbone": {"kind": "i3d"}, "rstg": {"scales": [3]}})  # fmt: skip


def test_frames_smaller_than_the_filters():
    for backbone in ({}, {"kind": "i3d"}):
        mistake("does not fit the feature map", model={"backbone": backbone}, data={"frame_size": 2})


def test_without_a_graph_any_map_will_do():
    config = parse({"backbone": {"kind": "c2d"}, "rstg": None}, {"frame_size": 20})
    assert config.model.rstg is None
    model = build_model(parse({"backbone": {"filters": [2]}, "rstg": None}), 3)
    assert model.head is None and len(model.blocks) == 0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"backbone": {"filters": []}}, "model.backbone.filters: list should have at least 1 item"),
        ({"rstg": {"scales": []}}, "model.rstg.scales: list should have at least 1 item"),
        ({"rstg": {"places": []}}, "model.rstg.places: list should have at least 1 item"),
        ({"pool_window": 0}, "model.pool_window"),
        ({"combine": "sum"}, "model.combine: input should be 'serial' or 'plus'"),
        ({"rstg": {"out_norm": "zero"}}, "model.rstg.out_norm"),
        ({"rstg": {"norm": "LN"}}, "model.rstg.norm"),
        ({"rstg": {"num_update_layers": 0}}, "model.rstg.num_update_layers"),
    ],
)
def test_values_that_mean_nothing(model, message):
    mistake(message, model=model)


# map sizes


@pytest.mark.parametrize("size", [32, 33, 40, 41, 47, 63, 64, 65, 100])
@pytest.mark.parametrize(
    "backbone",
    [{}, {"padding": 1}, {"padding": 2}, {"pool": False}, {"pool": [False, True]}],
    ids=str,
)
def test_map_sides_of_simple_conv(backbone, size):
    config = parse({"backbone": {"filters": [1, 1], **backbone}, "rstg": None}, {"frame_size": size})
    network, x = build_backbone(config), torch.zeros(1, 1, 1, size, size)
    sides = {}
    for name, stage in network.stages.items():
        x = stage(x)
        assert x.size(-1) == x.size(-2)
        sides[name] = x.size(-1)
    assert config.model.backbone.map_sides(size) == sides
    assert config.model.backbone.places() == list(sides)


@pytest.mark.parametrize("size", [32, 65, 66, 112, 224, 227, 256])
@pytest.mark.parametrize(
    "backbone",
    [{"kind": "i3d"}, {"kind": "c2d", "pool_padding": 1, "last_stride": 2},
     {"kind": "c2d", "pool_padding": 1}, {"kind": "i3d", "last_stride": 2}],
    ids=str,
)  # fmt: skip
def test_map_sides_of_the_resnet(backbone, size):
    config = parse({"backbone": backbone, "rstg": None}, SMT)
    with torch.device("meta"):
        network, x = build_backbone(config), torch.zeros(1, 3, 4, size, size)
    sides = {}
    for name, stage in network.stages.items():
        x = stage(x)
        sides[name] = x.size(-1)
    found = config.model.backbone.map_sides(size)
    assert found == {place: sides[stage] for place, stage in network.places.items()}
    assert found["res5"] == x.size(-1)  # the head's map


# the published form


@pytest.mark.parametrize(
    ("rstg", "text"),
    [
        ({"residual": True}, "residual=True"),
        ({"shared_rounds": False}, "shared_rounds=False"),
        ({"cell": "gru"}, "cell=gru"),
        ({"attention": None}, "attention=None"),
        ({"space_stages": False}, "space_stages=False"),
        ({"time_stages": "none"}, "time_stages=none"),
        ({"cell": "gru", "residual": True}, "residual=True, cell=gru"),
    ],
)
def test_the_published_code_has_no(rstg, text):
    mistake(f"model.rstg.published: the published code has no {text}",
            model={"rstg": {"published": True, **rstg}})  # fmt: skip
    parse({"rstg": rstg})


@pytest.mark.parametrize(
    "rstg",
    [{"time_stages": "last"}, {"time_stages": [0, 2]}, {"attention": "dot", "heads": 8},
     {"norm": "batch", "in_norm": "batch", "out_norm": "batch"}, {"typed_update": True}],
    ids=str,
)  # fmt: skip
def test_the_published_form_of_a_config(rstg):
    config = parse(
        {"backbone": {"filters": [4]}, "rstg": {"published": True, "hidden_channels": 16, **rstg}}
    )
    head = build_model(config, 3).head
    assert head.topology == "complete" and head.rstg.convs[0].after_aggr is not None


def test_the_published_config():
    config = load_config("syncmnist_published")
    assert config.model.rstg.published and (config.data.mean, config.data.std) == (0.0, 1.0)
    assert (config.train.optimizer, config.train.momentum, config.train.schedule) == (
        "sgd", 0.9, "constant",
    )  # fmt: skip
