from typing import Union, get_args, get_origin

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

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
from rstg_pyg.train.schema_model import Section


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


@pytest.mark.parametrize("name", available_configs())
def test_round_trip_of_every_config(name, tmp_path):
    config = load_config(name)
    copy = tmp_path / "copy.yaml"
    copy.write_text(to_yaml(config))
    assert load_config(str(copy)) == config
    assert parse_config(to_dict(config), "x") == config
    assert config_hash(load_config(str(copy))) == config_hash(config)


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
        ("zzz=1", "unknown key 'zzz'; known keys are name, seed, data"),
        ("train.lr=abc", r"train.lr: input should be a valid number \(got 'abc'\)"),
        ("train.lr=.inf", "train.lr: input should be a finite number"),
        ("train.batch_size=true", "train.batch_size: input should be a valid integer"),
        ("data.digits=svhn", "data.digits: input should be 'auto', 'mnist' or 'builtin'"),
        ("data.root=", r"data.root: expected a name \(got nothing\)"),
        ("train.init=", r"train.init: expected a name \(got nothing\)"),
        ("model=3", "model: input should be a valid dictionary"),
        ("name=a/b", "name: string should match"),
        ("train.lr", "expected an override key.path=value"),
        ("=3", "expected an override key.path=value"),
        ("train.lr.x=3", "'lr' is a value, not a section"),
        ("train.lr=[", "'train.lr=.': not valid YAML"),
    ],
)
def test_mistakes(path, override, message):
    with pytest.raises(UserError, match=message) as e:
        load_config(str(path), [override])
    assert len(str(e.value).splitlines()) <= 2


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


YAML = {
    "a: 1\nb: 2\na: 3": "line 3: the key 'a' occurs twice",
    "a:\n  b: {c: 1, c: 1}": "line 2: the key 'c' occurs twice",
    "a: &x [1, *x]": "expected at most 20,000 values, including those of aliases",
    "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)):
        "expected at most 20,000 values",
    "a0: &a0 {x: 1}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 9)):
        "expected at most 20,000 values",
    "[" * 5000 + "]" * 5000: "recursion",
    "? [1, 2]\n: 3": "unhashable key",
    "a: !!python/object/apply:os.getcwd []": "could not determine a constructor",
    "a: [1": "expected ',' or ']'",
    "a: 1\n--- b": "expected a single document",
    "a: 2020-13-45": "month must be in 1..12",
    "a: !!float x": "could not convert",
}  # fmt: skip


@pytest.mark.parametrize("text", YAML, ids=lambda text: text[:20])
def test_what_is_wrong_with_yaml_is_said_in_a_line(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=f"x.yaml: not valid YAML .*{YAML[text]}") as e:
        load_config(str(path))
    assert len(str(e.value).splitlines()) == 1


def test_anchors_and_numbers(tmp_path):
    """Values that aliases repeat; 1e-3 and the like, which YAML 1.1 takes for text; a name like one."""
    path = tmp_path / "x.yaml"
    path.write_text(
        "name: '1e5'\ntrain: &t {lr: 1e-3, clip: 2E2}\npretrain: {lr: .5e-1}\ndata: {std: 1.e1}\n"
    )
    config = load_config(str(path))
    assert (config.train.lr, config.train.clip, config.pretrain.lr, config.data.std) == (
        0.001, 200.0, 0.05, 10.0,
    )  # fmt: skip
    path.write_text(to_yaml(config))
    assert load_config(str(path)) == config and config.name == "1e5"
    path.write_text("model: {backbone: {filters: &f [4, 4]}, rstg: {scales: *f}}")
    config = load_config(str(path))
    assert config.model.backbone.filters == config.model.rstg.scales == [4, 4]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(["name", "seed", "data", "model", "train", "trainer", "pretrain", "x"])


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(keys, values, max_size=4))
def test_any_values_load_or_are_explained(content):
    try:
        config = parse_config(content, "any.yaml")
    except UserError as e:
        assert str(e).startswith("any.yaml: ")
    else:
        assert parse_config(to_dict(config), "again.yaml") == config


def fitting(annotation):
    """Values of about the type that a key has."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        fields = annotation.model_fields.items()
        needed = {k: fitting(f.annotation) for k, f in fields if f.is_required() and k != "name"}
        keys = {k: fitting(f.annotation) for k, f in fields if k not in needed}
        return st.fixed_dictionaries(needed, optional=keys)
    if hasattr(annotation, "__metadata__"):
        return fitting(inside[0])
    if origin in (Union, type(int | None)):
        return st.one_of([fitting(part) for part in inside])
    if origin is list:
        return st.lists(fitting(inside[0]), min_size=1, max_size=3)
    if origin is tuple:
        return st.tuples(*[st.integers(1, 3)] * 2).map(list)
    if inside:  # Literal
        return st.sampled_from(inside)
    texts = st.sampled_from(["x", "1e5", "null", "yes", "0x1f", "2001-01-01", "a: b", "~", "é", "1_0"])
    simple = {bool: st.booleans(), int: st.integers(1, 12), float: st.floats(0.001, 0.9), str: texts}
    return simple.get(annotation, st.none())


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(fitting(Config))
def test_what_parses_is_written_and_read_again(tmp_path_factory, content):
    try:
        config = parse_config(content, "any.yaml")
    except UserError as e:
        event(f"refused: {str(e)[:30]}")
        return
    event("parsed")
    path = tmp_path_factory.mktemp("again") / "again.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    again = load_config(str(path))
    assert again == config and config_hash(again) == config_hash(config)


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
        ("seed: 0\n", ["size=large"], "this config has only one size"),
        ("size: a\nsizes: [a]\n", [], "sizes: expected a mapping"),
        ("size: a\nsizes: {a: 3}\n", [], "yaml: a: expected a mapping"),
    ],
)
def test_mistakes_with_sizes(tmp_path, text, overrides, words):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        load_config(str(tmp_path / "mine.yaml"), overrides)


def test_the_demo_is_for_the_built_in_data_alone():
    given, own, demo = (
        load_config("smt.yaml", ["data.root=there"], demo=False),
        load_config("smt.yaml", ["data.root=there"]),
        load_config("smt.yaml"),
    )
    assert own == given and own.data.short_side > demo.data.short_side
