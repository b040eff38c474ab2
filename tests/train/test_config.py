import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rstg_pyg.backbones import SimpleConv
from rstg_pyg.train.build import build_model
from rstg_pyg.train.config import (
    Config,
    available_configs,
    config_hash,
    differences,
    load_config,
    parse_config,
    to_dict,
    to_yaml,
)
from rstg_pyg.train.errors import UserError


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("train: {lr: 1e-3}\nmodel: {rstg: {scales: [3, [2, 3], 1], time_stages: [0]}}\n")
    return path


def test_values_and_defaults(path):
    config = load_config(str(path))
    assert config.name == "mine"
    assert config.train.lr == 0.001
    assert config.model.rstg.scales == [3, (2, 3), 1]
    assert config.model.rstg.time_stages == [0]
    assert config.data.num_digits == 5


def test_overrides(path):
    config = load_config(str(path), ["train.lr=2e-4", "data.num_digits=3", "data.root=x", "seed=7"])
    assert (config.train.lr, config.data.num_digits, config.seed) == (2e-4, 3, 7)


@pytest.mark.parametrize("name", available_configs())
def test_round_trip_of_every_config(name, tmp_path):
    config = load_config(name)
    copy = tmp_path / "copy.yaml"
    copy.write_text(to_yaml(config))
    assert load_config(str(copy)) == config
    assert parse_config(to_dict(config), "x") == config
    assert config_hash(load_config(str(copy))) == config_hash(config)


def test_names_are_found_with_and_without_ending():
    assert load_config("syncmnist_mini") == load_config("syncmnist_mini.yaml")


def test_hash_changes_with_any_value(path):
    hashes = {
        config_hash(load_config(str(path), [o]))
        for o in ("seed=0", "seed=1", "train.lr=0.5", "model.rstg.residual=true", "data.root=x")
    }
    assert len(hashes) == 5


def test_base(tmp_path, path):
    child = tmp_path / "child.yaml"
    child.write_text("base: mine.yaml\nname: child\nmodel: {rstg: {residual: true}}\n")
    config = load_config(str(child))
    assert config.name == "child" and config.model.rstg.residual
    assert config.model.rstg.time_stages == [0] and config.train.lr == 0.001
    grandchild = tmp_path / "grandchild.yaml"
    grandchild.write_text("base: child.yaml\n")
    with pytest.raises(UserError, match="only one level"):
        load_config(str(grandchild))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.rstg.hiden_channels=3",
            "unknown key 'model.rstg.hiden_channels'; did you mean 'hidden_channels'",
        ),
        ("trian.lr=3", "unknown key 'trian'; did you mean 'train'"),
        ("zzz=1", "unknown key 'zzz'; known keys are name, seed, data"),
        ("train.lr=abc", r"train.lr: input should be a valid number \(got 'abc'\)"),
        ("train.lr=-1", "train.lr: input should be greater than 0"),
        ("train.lr=.inf", "train.lr: input should be a finite number"),
        ("train.batch_size=1.5", "train.batch_size: input should be a valid integer"),
        ("train.batch_size=true", "train.batch_size: input should be a valid integer"),
        ("data.digits=svhn", "data.digits: input should be 'auto', 'mnist' or 'builtin'"),
        ("model=3", "model: input should be a valid dictionary"),
        ("model.rstg.scales=[9]", "a scale of 9 does not fit the feature map of 6 x 6"),
        ("model.rstg.scales=[[2,9]]", "a scale of 9 does not fit"),
        ("model.rstg.scales=[0]", "model.rstg.scales.0"),
        ("model.rstg.time_stages=often", "model.rstg.time_stages"),
        ("model.rstg.time_stages=[3]", "rounds go from 0 to 2"),
        ("model.rstg.heads=3", "must be divisible by"),
        ("model.backbone.pool=[true]", "expected one value for each of 3 stages"),
        ("model.backbone.filters=[1,x]", "model.backbone.filters.1"),
        ("name=a/b", "name: string should match"),
        ("seed=null", "seed: input should be a valid integer"),
        ("train.lr", "expected an override key.path=value"),
        ("=3", "expected an override key.path=value"),
        ("train.lr.x=3", "'lr' is a value, not a section"),
        ("train.lr=[", "the value is not valid YAML"),
    ],
)
def test_mistakes(path, override, message):
    with pytest.raises(UserError, match=message) as e:
        load_config(str(path), [override])
    assert len(str(e.value).splitlines()) <= 2


def test_nothing_left():
    with pytest.raises(UserError, match="leave nothing"):
        parse_config({"model": {"rstg": {"time_stages": "none", "space_stages": False}}}, "x.yaml")


def test_files(tmp_path):
    with pytest.raises(UserError, match=r"there is no config 'nope.yaml'.*syncmnist_mini.yaml"):
        load_config("nope.yaml")
    bad = tmp_path / "bad.yaml"
    for text, message in [
        ("a: [", "not valid YAML"),
        ("- 1", "expected a mapping"),
        ("3", "expected a mapping"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ]:
        bad.write_text(text)
        with pytest.raises(UserError, match=message):
            load_config(str(bad))
    bad.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read|not valid YAML"):
        load_config(str(bad))


def test_differences():
    a, b = to_dict(Config(name="a")), to_dict(Config(name="b", seed=3))
    assert differences(a, b) == ["name ('a' against 'b')", "seed (0 against 3)"]
    assert differences({"x": {"y": 1}}, {"x": {"y": 1, "z": 2}}) == ["x.z (None against 2)"]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
sections = st.sampled_from(["name", "seed", "data", "model", "train", "trainer", "pretrain", "x"])


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(sections, values, max_size=4))
def test_any_values_load_or_are_explained(content):
    try:
        config = parse_config(content, "any.yaml")
    except UserError as e:
        assert str(e).startswith("any.yaml: ")
    else:
        assert parse_config(yaml.safe_load(to_yaml(config)), "again.yaml") == config


@pytest.mark.parametrize("backbone", [{"padding": 1}, {"padding": 0}, {"pool": [True, False, False]}])
def test_where_the_cells_of_the_map_are(backbone):
    """A cell's center is that of the pixels that it depends on."""
    backbone = {"filters": [2, 3, 4], **backbone}
    config = parse_config(
        {"data": {"frame_size": 48}, "model": {"backbone": backbone, "rstg": {"scales": [1]}}}, "x"
    )
    side, first, stride = config.model.backbone.maps(config.data.frame_size)[-1]
    clip = torch.rand(1, 1, 1, 48, 48, requires_grad=True)
    maps = build_model(config, 3).backbone(clip)
    assert maps.shape[-2:] == (side, side)
    cell = side // 2  # not at the border, where padding cuts the pixels off
    stage = SimpleConv(1, [2, 3, 4], config.model.backbone.padding, config.model.backbone.pool)
    for parameter in stage.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    used = []
    for row in range(48):
        pixels = torch.zeros(1, 1, 1, 48, 48)
        pixels[..., row, :] = 1
        with torch.no_grad():
            change = (stage(pixels) - stage(torch.zeros_like(pixels))).abs()
        used += [row] if change[0, :, 0, cell].amax() > 1e-7 else []
    assert (used[0] + used[-1] + 1) / 2 == first + stride * cell


SIZES = """
size: small
data: {num_digits: 4}
model: {rstg: {num_rounds: 3}}
sizes:
  small: {model: {rstg: {hidden_channels: 8}}}
  large: {data: {num_digits: 5}, model: {rstg: {hidden_channels: 64}}}
"""
ROW = """
base: sizes.yaml
model: {rstg: {positions: false}}
sizes:
  large: {model: {rstg: {num_rounds: 2}}}
"""


def test_a_config_in_several_sizes(tmp_path):
    (tmp_path / "sizes.yaml").write_text(SIZES)
    (tmp_path / "row.yaml").write_text(ROW)
    row = str(tmp_path / "row.yaml")
    small, large = load_config(row), load_config(row, ["size=large"])
    assert small == load_config(row, ["size=small"])
    assert (small.model.rstg.hidden_channels, small.model.rstg.num_rounds) == (8, 3)
    assert (large.model.rstg.hidden_channels, large.model.rstg.num_rounds) == (64, 2)
    assert (small.data.num_digits, large.data.num_digits) == (4, 5)
    assert not small.model.rstg.positions and not large.model.rstg.positions
    assert load_config(row, ["size=large", "data.num_digits=3"]).data.num_digits == 3

    (tmp_path / "row.yaml").write_text("base: sizes.yaml\nmodel: {rstg: null}\n")
    assert load_config(row, ["size=large"]).model.rstg is None  # a row goes over the base's size


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        (SIZES, ["size=huge"], "size: expected one of small, large"),
        ("seed: 0\n", ["size=large"], "this config comes in one size only"),
        ("size: a\nsizes: [a]\n", [], "sizes: expected a mapping"),
        ("size: a\nsizes: {a: 3}\n", [], "sizes: a: expected a mapping"),
    ],
)
def test_mistakes_with_sizes(tmp_path, text, overrides, words):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        load_config(str(tmp_path / "mine.yaml"), overrides)
