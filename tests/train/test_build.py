"""What the layers refuse is said with the config's key, before any data are read."""

import pytest
import torch

from rstg_pyg.train.build import build_backbone, build_model, check_model, stage_maps
from rstg_pyg.train.config import available_configs, load_config, parse_config
from rstg_pyg.train.errors import UserError

SMT = {"dataset": "something"}


def parse(model=None, data=None, **sections):
    return parse_config({"name": "x", "model": model or {}, "data": data or {}, **sections}, "x.yaml")


def refused(message, model, data=None):
    config = parse(model, data)
    for check in (check_model, lambda config: build_model(config, 3)):
        with pytest.raises(UserError, match=message) as e:
            check(config)
        assert len(str(e.value).splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", available_configs())
def test_shipped_configs_build(name):
    """And checking them draws no random number."""
    state = torch.get_rng_state()
    for demo in (True, False):
        check_model(load_config(name, demo=demo))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("rstg", "message"),
    [
        ({"heads": 3, "form": "paper"}, "model.rstg: 'hidden_channels' .* must be divisible"),
        ({"num_rounds": 3, "time_stages": [3]}, "model.rstg: .*to list rounds from 0 to 2"),
        (
            {"time_stages": "none", "space_stages": False},
            "model.rstg: Expected at least one kind of stage",
        ),
        ({"topology": "complete", "attention": None}, "model.rstg: Expected 'attention' to be set"),
        ({"map_size": 2}, "model.rstg: Expected 'map_size' to be at least 3"),
    ],
)
def test_what_the_graph_refuses(rstg, message):
    refused(message, {"backbone": {"filters": [4]}, "rstg": {"hidden_channels": 16, **rstg}})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"backbone": {"pool": [True]}}, "model.backbone: Expected 'pool' to have one value"),
        ({"backbone": {"kind": "i3d", "depths": [1, 1], "nonlocal_stages": ["res4"]}},
         "model.backbone: Expected 'nonlocal_stages' to name some of .*res3"),
        ({"backbone": {"kind": "torchvision", "network": "vgg"}}, "model.backbone: .*r2plus1d_18"),
        ({"backbone": {"filters": [4], "pool": False}, "rstg": None, "head": {"hidden_channels": 3},
          "combine": "plus"}, "model: The head must have 4 channels"),
    ],
)  # fmt: skip
def test_what_other_parts_refuse(model, message):
    refused(message, model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "place", "known"),
    [
        ({"filters": [2, 3]}, "conv2", "conv0, conv1, head"),
        ({"kind": "i3d"}, "conv0", "res2, res3, res4, res5, head"),
        ({"kind": "c2d", "depths": [1, 1]}, "res4", "res2, res3, head"),
    ],
)
def test_a_place_that_does_not_exist(backbone, place, known):
    model = {"backbone": backbone, "rstg": {"places": ["head", place], "scales": [1]}}
    refused(f"model.rstg.places: expected some of {known} .got '{place}'", model)


@pytest.mark.parametrize("places", [["conv1"], ["conv0", "conv2", "head"], ["head"]])
def test_places_of_simple_conv(places):
    rstg = {"places": places, "hidden_channels": 4, "scales": [2, 1]}
    model = build_model(parse({"backbone": {"filters": [2, 3, 4]}, "rstg": rstg}), 3)
    assert list(model.blocks) == [place for place in places if place != "head"]
    assert (model.head is not None) == ("head" in places)
    channels = {"conv0": 2, "conv1": 3, "conv2": 4}
    assert all(block.channels == channels[place] for place, block in model.blocks.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "place", "size", "side"),
    [
        ({}, "conv0", 64, 31), ({}, "conv2", 64, 6), ({}, "head", 64, 6),
        ({"padding": 1}, "head", 64, 8),
        ({"kind": "i3d"}, "res2", 64, 15), ({"kind": "c2d"}, "res4", 64, 4),
        ({"kind": "c2d", "last_stride": 2}, "head", 64, 2),
        ({"kind": "i3d", "pool_padding": 1}, "res2", 64, 16),
    ],
)  # fmt: skip
def test_the_finest_scale_that_fits_a_place(backbone, place, size, side):
    """As many cells as the map has; one more is refused, also as rows or columns alone."""
    small = {"filters": [2, 2, 2]} if "kind" not in backbone else {"width": 2}
    data = {"frame_size": size}

    def model(*scales):
        rstg = {"places": [place], "scales": list(scales), "hidden_channels": 2}
        return {"backbone": {**small, **backbone}, "rstg": rstg}

    check_model(parse(model([side, 1], [1, side]), data))
    for scale in ([side + 1, 1], [1, side + 1]):
        text = f"map of {side} x {side} cells .got a scale of {scale[0]} x {scale[1]}"
        refused(f"model.rstg.scales: .*{text}.; use coarser scales", model(scale), data)


def test_huge_scales_are_refused_before_their_graph_is_made():
    refused("model.rstg.scales: ", {"rstg": {"scales": [1000]}})


def test_clips_that_the_filters_cannot_take():
    for backbone in ({}, {"kind": "i3d"}):
        refused("model.backbone: it cannot take clips of 10 frames of 2 x 2 pixels .*use larger clips",
                {"backbone": backbone, "rstg": None}, {"frame_size": 2})  # fmt: skip
    refused("cannot take clips of 1 frame of", {"backbone": {"kind": "i3d"}}, {**SMT, "num_frames": 1})


@pytest.mark.parametrize(
    "model", [{}, {"backbone": {"kind": "c2d", "width": 2, "depths": [1, 2]}}], ids=["conv", "resnet"]
)
def test_stage_maps_are_those_of_the_backbone(model):
    config = parse({**model, "rstg": None}, {"frame_size": 41})
    x = torch.zeros(1, 1, 10, 41, 41)
    maps = stage_maps(config)
    for name, stage in build_backbone(config).stages.items():
        x = stage(x)
        assert maps[name].shape == x.shape and maps[name].is_meta


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


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bn_inception", "eco_lite", "inception_i3d", "s3dg"])
def test_the_other_networks_of_the_table_with_a_graph_or_their_heads(kind):
    data = {**SMT, "num_frames": 4, "crop_size": 64}
    backbone = {"kind": kind, "width": 8}
    for norm in ("batch", "frozen"):
        config = parse({"backbone": {**backbone, "norm": norm}, "rstg": {"scales": [1]}}, data)
        check_model(config)
        model = build_model(config, 5).train()
        assert model(torch.rand(2, 3, 4, 64, 64)).shape == (2, 5)
        counts = [value for name, value in model.backbone.named_buffers() if "batches" in name]
        assert len(counts) > 20 and {int(n) for n in counts} == {0 if norm == "frozen" else 1}
    heads = {"bn_inception": ["relations"], "eco_lite": []}.get(kind, ["windows"])
    for head in heads:
        settings = {"kind": head, "dropout": 0.25}
        config = parse({"backbone": backbone, "rstg": None, "head": settings}, data)
        check_model(config)
        model = build_model(config, 5)
        assert model.head.dropout.p == 0.25
        assert type(model.head).__name__ == {"relations": "RelationHead", "windows": "WindowMean"}[head]
        assert model(torch.rand(2, 3, 4, 64, 64)).shape == (2, 5)


def test_what_the_other_networks_of_the_table_refuse():
    def network(kind, **model):
        return {"backbone": {"kind": kind, "width": 8}, "rstg": None, **model}

    size = {**SMT, "num_frames": 4, "crop_size": 120}
    refused("model.backbone: BN-Inception: .*of 32, such as 128", network("bn_inception"), size)
    refused("model.backbone: ECO-Lite: .*got 6", network("eco_lite"), {**size, "num_frames": 6})
    refused("model.backbone: .*red, green, blue", network("s3dg"), {"num_frames": 4})
    one = {**SMT, "num_frames": 1, "crop_size": 64}
    head = network("bn_inception", head={"kind": "relations"})
    refused("model.head: Expected 'num_frames' to be at least 2", head, one)
