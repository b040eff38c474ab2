"""Configs that nobody would write: each loads, or ends with an error in a line or two; no code in it is
run. Those that load are written and read again, and their networks are built in small.
"""

from pathlib import Path
from typing import Any, Union, get_args, get_origin

import pydantic
import pytest
import yaml
from helpers.fuzz import examples, within
from hypothesis import given
from hypothesis import strategies as st

from rstg_pyg.train.build import build_model
from rstg_pyg.train.config import (
    Config,
    available_configs,
    config_hash,
    load_config,
    parse_config,
    to_dict,
    to_yaml,
)
from rstg_pyg.train.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.nightly]
ROOT = Path(__file__).resolve().parents[2]
MARK = "code-was-run"

numbers = st.one_of(
    st.integers(-3, 40), st.floats(),
    st.sampled_from([2**31 - 1, 2**31, 2**63, 2**64, 10**30, -(10**30)]),
)  # fmt: skip
texts = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["", "..", ".", "a/b", "../x", "nan", "inf", "1e400", "null", "~", "x" * 5000, "\0", "\x1b[2J",
         "🎥", "yes", "0x10", "1:30", "head", "conv1", "res2", "r2plus1d_18", "2001-01-01", "[",
         f"$(touch {MARK})", "__class__", "all", "none", "auto"]
    ),
)  # fmt: skip
leaves = st.one_of(st.none(), st.booleans(), numbers, texts, st.binary(max_size=4), st.dates())
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | leaves, inner, max_size=3),
    max_leaves=6,
)


def fitting(annotation: Any) -> st.SearchStrategy:
    """Values of about the type that a key has."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return section(annotation)
    if hasattr(annotation, "__metadata__"):
        return fitting(inside[0])
    if origin in (Union, type(int | None)):
        return st.one_of([fitting(part) for part in inside])
    if origin is dict:
        return st.dictionaries(texts, anything, max_size=3)
    if origin is list:
        return st.lists(fitting(inside[0]), max_size=4)
    if origin is tuple:
        return st.lists(fitting(inside[0]), min_size=1, max_size=3)
    if inside:  # Literal
        return st.sampled_from(inside)
    simple = {bool: st.booleans(), int: st.integers(0, 12), float: st.floats(0, 1), str: texts}
    return simple.get(annotation, st.none())


def section(kind: type[pydantic.BaseModel]) -> st.SearchStrategy:
    """Sections with some of their keys, of which one in so many has any value; rarely other keys."""
    keys = {
        name: st.integers(0, 12).flatmap(
            lambda n, field=field: anything if n == 0 else fitting(field.annotation)
        )
        for name, field in kind.model_fields.items()
    }
    needed = {n: keys.pop(n) for n, f in kind.model_fields.items() if f.is_required() and n != "name"}
    known = st.fixed_dictionaries(needed, optional=keys)
    return st.tuples(known, st.integers(0, 30), texts, anything).map(
        lambda parts: {**parts[0], parts[2]: parts[3]} if parts[1] == 0 else parts[0]
    )


SHIPPED = available_configs()
PIECES = (
    f"!!python/object/apply:os.system ['touch {MARK}']", "!!python/name:os.system",
    "!!python/module:os", f"!!python/object/apply:subprocess.Popen [[touch, {MARK}]]",
    "!!python/tuple [1, 2]",
    "!!python/object:pathlib.Path {}", "!!binary '*'", "!!set {a, b}", "!!omap [a: 1, a: 2]",
    "!!timestamp 2001-99-99", "!!int 0x", "!!int abc", "!!float x", "!!bool maybe", "!local 3",
    "!<tag:x,2000:y> 1", "!!str [1]", "&a [*a]", "&a {b: *a}", "*nowhere", "<<: {a: 1}", "<<: [1]",
    "? [a, b]\n: 1", "{[1]: 2}", "---\na: 1", "...\n", "%YAML 1.2\n---\n", "\t- a", "a: b: c",
    "- - - -", "|\n  x", "@", "`", "%", "base: smt.yaml", "base: nothing", "base: [a]", "base: {a: 1}",
    "base: /", "base: ../../etc/passwd", "size: small", "size: [1]", "sizes: {1: {}}", "sizes: []",
    "demo: 3", "size: a\nsizes: {a: 3}",
    "data: {dataset: something}", "data: {dataset: [1]}", "seed: 1\nseed: 2",
    "model: {backbone: {kind: {}}}", "seed: 1e3", "seed: 1_0", "seed: 1:2:3", "seed: .nan",
    "seed: -.inf", "name: ..", "name: 3", "train: null", "model: {rstg: []}",
)  # fmt: skip


def bomb(depth: int, width: int, merged: bool) -> str:
    """The billion laughs: every line repeats the one before, as a list or as merged mappings."""
    lines = ["a0: &a0 {x: 1}" if merged else "a0: &a0 [x, x]"]
    for i in range(1, depth):
        same = ", ".join([f"*a{i - 1}"] * width)
        lines.append(f"a{i}: &a{i} {{<<: [{same}]}}" if merged else f"a{i}: &a{i} [{same}]")
    return "\n".join(lines)


@st.composite
def changed(draw: st.DrawFn) -> str:
    """A shipped config with pieces put in, lines lost, doubled or moved, and characters changed."""
    name = draw(st.sampled_from(SHIPPED))
    lines = (ROOT / "train/configs" / name).read_text().splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        action = draw(st.sampled_from(["put in", "replace", "double", "lose", "shift", "change"]))
        if action == "put in":
            lines.insert(at, draw(st.sampled_from(PIECES)))
        elif action == "replace":
            lines[at] = lines[at].partition(":")[0] + ": " + draw(st.sampled_from(PIECES))
        elif action == "double":
            lines.insert(at, lines[draw(st.integers(0, len(lines) - 1))])
        elif action == "lose" and len(lines) > 1:
            del lines[at]
        elif action == "shift":
            lines[at] = draw(st.sampled_from(["  ", " ", "\t", ""])) + lines[at].lstrip()
        else:
            place = draw(st.integers(0, len(lines[at])))
            lines[at] = lines[at][:place] + draw(st.text(max_size=2)) + lines[at][place + 1 :]
    return "\n".join(lines)


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def dumped(values: Any) -> bytes:
    return encoded(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


KINDS = {
    "values about the schema": (section(Config) | anything).map(dumped),
    "shipped configs, changed": changed().map(encoded),
    "repeated": st.builds(bomb, st.integers(2, 40), st.integers(2, 12), st.booleans()).map(encoded),
    "pieces": st.lists(st.sampled_from(PIECES), max_size=4).map("\n".join).map(encoded),
    "text": st.text(max_size=40).map(encoded) | st.binary(max_size=60),
}
paths = st.sampled_from(
    ["seed", "name", "size", "data", "data.seed", "model.rstg.scales", "train.lr",
     "model.backbone.kind", "model.rstg", "data.dataset", "a.b.c", "", ".", "..", "a" * 3000,
     "train.lr.x", "model.backbone.filters"]
)  # fmt: skip
usual = st.sampled_from(["1", "2", "true", "null", "0.5", "1e-3", "[1]", "[2, 1]", "auto", "{}"])
overrides = st.lists(
    st.tuples(paths, st.sampled_from(["=", "=", "=", ""]), usual | texts | st.sampled_from(PIECES)),
    min_size=1, max_size=2,
).map(lambda parts: ["".join(part) for part in parts])  # fmt: skip


def small(values: Any) -> Any:
    """The same with all large numbers small."""
    if isinstance(values, dict):
        return {key: small(value) for key, value in values.items()}
    if isinstance(values, list):
        return [small(value) for value in values]
    return 16 if type(values) is int and values > 64 else values


def judge(name: str, changes: list[str], build: bool) -> str:
    """What became of a config; anything but the two is an error."""
    try:
        with within(20):
            config = load_config(name, changes)
            again = parse_config(yaml.safe_load(to_yaml(config)), "again.yaml")
            assert again == config and config_hash(again) == config_hash(config)
            if build:
                build_model(parse_config(small(to_dict(config)), "small.yaml"), 5)
        return "loaded"
    except UserError as error:
        message = str(error)
        message.encode()
        assert message and len(message) <= 2500 and message.count("\n") <= 2
        assert "Traceback" not in message
        return "named"
    finally:
        assert not Path(MARK).exists()


@pytest.mark.parametrize("kind", KINDS)
def test_strange_configs_load_or_are_explained(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)  # where code in a config would leave its mark
    outcomes = set()

    @examples(60)
    @given(KINDS[kind], st.integers(0, 3))
    def run(content: bytes, build: int) -> None:
        Path("any.yaml").write_bytes(content)
        outcomes.add(judge("any.yaml", [], build == 0))

    run()
    assert "named" in outcomes


def test_strange_overrides_are_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcomes = set()

    @examples(60)
    @given(st.sampled_from(SHIPPED), overrides)
    def run(name: str, changes: list[str]) -> None:
        outcomes.add(judge(name, changes, False))

    run()
    assert outcomes == {"loaded", "named"}
