"""Reads configs that nobody would write: ``python tests/fuzz_configs.py --cases 5000 [--out FILE]``.

Every one loads, or ends with an error in a line or two; no code in it is run. Configs that load are
written and read again, and their networks are built in small.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import hypothesis
import pydantic
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from rstg_pyg.train.build import build_model
from rstg_pyg.train.config import (
    CONFIG_FOLDER,
    Config,
    available_configs,
    config_hash,
    load_config,
    parse_config,
    to_dict,
    to_yaml,
)
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.schema.sections import Section

GOOD = ("loaded", "named")
SECONDS = 5.0  # of the processor, for a case
MARK = "code-was-run"

# ------------------------------------------------------------------ values

numbers = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([2**31 - 1, 2**31, 2**32, 2**63, 2**64, 10**30, -(10**30), 10**400, -1, 0]),
    st.floats(),
    st.sampled_from([1e308, -1e308, 1e-320, 0.0, 0.5, 1.0]),
)
texts = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["", "..", ".", "a/b", "../x", "nan", "inf", "1e400", "null", "~", "x" * 5000, "1" * 5000, "\0",
         "\x1b[2J",
         "🎥", "yes", "0x10", "1:30", "head", "conv0", "conv1", "res2", "r2plus1d_18", "2001-01-01",
         "[", "{{}}",
         "$(touch code-was-run)", "__class__", "all", "none", "auto"]
    ),
)  # fmt: skip
leaves = st.one_of(st.none(), st.booleans(), numbers, texts, st.binary(max_size=4), st.dates())
anything = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.one_of(texts, st.integers(-1, 3), st.none(), st.booleans()), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def fitting(annotation: Any) -> st.SearchStrategy:
    """Values of about the type that a key has."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return section(annotation)
    if hasattr(annotation, "__metadata__"):
        return fitting(inside[0])
    if origin in (Union, type(int | None)):
        return st.one_of([fitting(part) for part in inside])
    if origin is list:
        return st.lists(fitting(inside[0]), max_size=4)
    if origin is tuple:
        return st.lists(fitting(inside[0]), min_size=1, max_size=3)
    if inside:  # Literal
        return st.sampled_from(inside)
    simple = {bool: st.booleans(), int: st.integers(0, 12), float: st.floats(0, 1), str: texts}
    return simple.get(annotation, st.none())


def section(kind: type[Section], wrong: int = 12) -> st.SearchStrategy:
    """Sections with some of their keys, of which one in so many has any value; rarely other keys."""
    keys = {
        name: st.integers(0, wrong).flatmap(
            lambda n, field=field: anything if n == 0 else fitting(field.annotation)
        )
        for name, field in kind.model_fields.items()
    }
    needed = {n: keys.pop(n) for n, f in kind.model_fields.items() if f.is_required() and n != "name"}
    known = st.fixed_dictionaries(needed, optional=keys)
    return st.tuples(known, st.integers(0, 30), texts, anything).map(
        lambda parts: {**parts[0], parts[2]: parts[3]} if parts[1] == 0 else parts[0]
    )


configs = st.one_of(
    section(Config), section(Config), st.dictionaries(texts, anything, max_size=4), anything
)

# ------------------------------------------------------------------ texts

shipped = [(CONFIG_FOLDER / name).read_text() for name in available_configs()]
TAGS = (
    "!!python/object/apply:os.system ['touch code-was-run']",
    "!!python/object/new:os.system ['touch code-was-run']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object:pathlib.Path {}",
    "!!python/tuple [1, 2]",
    "!!python/object/apply:eval [\"open('code-was-run', 'w')\"]",
    "!!python/object/apply:subprocess.Popen [[touch, code-was-run]]",
    "!!binary aGFsbG8=", "!!binary '*'", "!!set {a, b}", "!!omap [a: 1, a: 2]",
    "!!timestamp 2001-99-99",
    "!!int 0x", "!!int abc", "!!float x", "!!bool maybe", "!!null x", "!local 3", "!<tag:x,2000:y> 1",
    "!!str [1]",
)  # fmt: skip
PIECES = (
    *TAGS, "&a [*a]", "&a {b: *a}", "*nowhere", "<<: {a: 1}", "<<: [1]", "<<: *x", "? [a, b]\n: 1",
    "{[1]: 2}",
    "---\na: 1", "...\n", "%YAML 1.2\n---\n", "\t- a", "a: b: c", "- - - -", "|\n  x", ">-\n x", "@",
    "`", "%",
    "base: smt.yaml", "base: nothing", "base: [a]", "base: {a: 1}", "base: 3", "base: ../../etc/passwd",
    "base: /",
    "size: small", "size: [1]", "sizes: {a: {}}", "sizes: {1: {}}", "sizes: []",
    "size: a\nsizes: {a: 3}", "demo: 3",
    "demo: {data: {seed: 1}}", "data: {dataset: something}", "data: {dataset: [1]}",
    "model: {backbone: {kind: {}}}",
    "seed: 1\nseed: 2", "seed: 1e3", "seed: 1_0", "seed: 0b11", "seed: 1:2:3", "seed: .nan",
    "seed: -.inf",
    "seed: 99999999999999999999999999", "name: ..", "name: .", "name: 3", "train: null",
    "model: {rstg: []}",
)  # fmt: skip


def bomb(depth: int, width: int) -> str:
    """The billion laughs: every line repeats the one before."""
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, depth)]
    return "\n".join(lines)


def merges(depth: int, width: int) -> str:
    """The same with merged mappings."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * width)}]}}" for i in range(1, depth)]
    return "\n".join(lines)


sizes = st.sampled_from([3, 10, 39, 41, 300, 5000])
nested = st.one_of(
    sizes.map(lambda n: "[" * n + "]" * n),
    sizes.map(lambda n: "model: " + "[" * n),
    sizes.map(lambda n: "{a: " * n + "1" + "}" * n),
    sizes.map(lambda n: "- " * n + "1"),
    sizes.map(lambda n: "".join(" " * i + "a:\n" for i in range(min(n, 600)))),
    sizes.map(lambda n: "? " * n),
    sizes.map(lambda n: "".join(f"k{i}: &k{i} [{f'*k{i - 1}' if i else ''}]\n" for i in range(n))),
    st.tuples(sizes.map(lambda n: min(n, 60)), st.integers(2, 12)).map(lambda p: bomb(*p)),
    st.tuples(sizes.map(lambda n: min(n, 60)), st.integers(2, 12)).map(lambda p: merges(*p)),
    sizes.map(lambda n: "seed: 0x" + "f" * n),
    sizes.map(lambda n: "seed: " + "9" * n),
    sizes.map(lambda n: "seed: " + ":".join("1" * n)),
    sizes.map(lambda n: "model:\n" + "".join(f"  k{i}: 1\n" for i in range(10 * n))),
    st.just("x" * 300_000),
)


@st.composite
def changed(draw) -> str:
    """A shipped config with pieces put in, lines lost, doubled or moved, and characters changed."""
    lines = draw(st.sampled_from(shipped)).splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        action = draw(st.integers(0, 5))
        if action == 0:
            lines.insert(at, draw(st.sampled_from(PIECES)))
        elif action == 1:
            lines[at] = lines[at].partition(":")[0] + ": " + draw(st.sampled_from(PIECES))
        elif action == 2:
            lines.insert(at, lines[draw(st.integers(0, len(lines) - 1))])
        elif action == 3 and len(lines) > 1:
            del lines[at]
        elif action == 4:
            lines[at] = draw(st.sampled_from(["  ", " ", "\t", ""])) + lines[at].lstrip()
        else:
            place = draw(st.integers(0, len(lines[at])))
            lines[at] = lines[at][:place] + draw(st.text(max_size=2)) + lines[at][place + 1 :]
    return "\n".join(lines)


raw = st.one_of(
    changed(),
    changed(),
    nested,
    st.lists(st.sampled_from(PIECES), max_size=4).map("\n".join),
    st.text(max_size=40),
)
paths = st.sampled_from(
    ["seed", "name", "size", "data", "data.seed", "model.rstg.scales", "train.lr",
     "model.backbone.kind", "model.rstg",
     "data.dataset", "a.b.c", "", ".", "..", "a" * 3000, "x." * 3000 + "y", "train.lr.x",
     "model.backbone.filters"]
)  # fmt: skip
usual = st.sampled_from(
    ["1", "2", "true", "null", "0.5", "1e-3", "[1]", "[2, 1]", "auto", "{}", "head", "a"]
)
overrides = st.lists(
    st.tuples(
        paths,
        st.sampled_from(["=", "=", "=", "=", "=", ""]),
        st.one_of(usual, usual, texts, nested, st.sampled_from(PIECES)),
    ).map("".join),
    min_size=1,
    max_size=2,
)

# ------------------------------------------------------------------ cases


def judge(folder: Path, content: bytes, changes: list[str], build: bool) -> tuple[str, str]:
    """Reads a config and says what became of it."""
    path = folder / "any.yaml"
    path.write_bytes(content)
    signal.signal(signal.SIGPROF, _too_long)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        try:
            config = load_config(str(path), changes)
            again = parse_config(yaml.safe_load(to_yaml(config)), "again.yaml")
            assert again == config and config_hash(again) == config_hash(config)
            if build:
                build_model(parse_config(_small(to_dict(config)), "small.yaml"), 5)
            result = "loaded", ""
        except UserError as e:
            message = str(e)
            message.encode()
            fits = len(message) <= 2500 and message.count("\n") <= 2 and "Traceback" not in message
            result = ("named" if fits and message else "long message"), message
    except TooLong:
        result = "hang", f"not done in {SECONDS:g} s"
    except Exception:
        result = "traceback", "".join(traceback.format_exc().splitlines(True)[-6:])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if Path(MARK).exists() or (folder / MARK).exists():
        result = "code was run", ""
    return result


def _small(values: dict[str, Any]) -> dict[str, Any]:
    """The config with the default sizes, and all large ones, small."""
    if isinstance(values, dict):
        return {key: _small(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_small(value) for value in values]
    return 16 if type(values) is int and values > 64 else values


class TooLong(BaseException):
    """A case took longer than it may."""


def _too_long(number: int, frame: Any) -> None:
    raise TooLong


def dumped(values: Any) -> bytes:
    """Values as YAML."""
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")


KINDS = {
    "values about the schema": (configs.map(dumped), 4),
    "raw YAML": (raw.map(lambda text: text.encode("utf-8", "surrogatepass")), 4),
    "bytes": (st.binary(max_size=60), 1),
    "overrides": (st.sampled_from([text.encode() for text in shipped]), 3),
}


def run(count: int, start: int, folder: Path) -> dict[str, Counter]:
    """Runs about so many cases of all kinds; prints those that fail."""
    shares = sum(share for _, share in KINDS.values())
    return {
        name: _run(name, contents, -(-count * share // shares), start, folder)
        for name, (contents, share) in KINDS.items()
    }


def _run(name: str, contents: st.SearchStrategy, count: int, start: int, folder: Path) -> Counter:
    counts: Counter = Counter()
    shown: set[str] = set()

    @seed(start)
    @settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[hypothesis.Phase.generate],
    )  # fmt: skip
    @given(contents, overrides if name == "overrides" else st.just([]))
    def case(content: bytes, changes: list[str]) -> None:
        result, detail = judge(folder, content, changes, sum(counts.values()) % 3 == 0)
        counts[result] += 1
        if result not in GOOD and detail not in shown:
            shown.add(detail)
            print(
                f"{name}: {result}: {content[:200]!r} {str(changes)[:200]}\n{detail[:1500]}", flush=True
            )

    case()
    return counts


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Read configs that nobody would write.")
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", metavar="FILE.json")
    arguments = parser.parse_args(argv)
    most = 8 << 30  # bytes: a case that blows up must not take the machine's
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(arguments.cases, arguments.seed, Path(folder))
    results = sum(outcomes.values(), Counter())
    failures = sum(n for result, n in results.items() if result not in GOOD)
    summary = {
        "command": f"python tests/fuzz_configs.py --cases {arguments.cases} --seed {arguments.seed}",
        "cases": sum(results.values()),
        "limit_seconds": SECONDS,
        "seconds": round(time.perf_counter() - begin),
        "results": dict(results.most_common()),
        "failures": failures,
        "kinds": {name: dict(counts.most_common()) for name, counts in outcomes.items()},
        "versions": {
            "python": platform.python_version(), "pyyaml": yaml.__version__,
            "pydantic": pydantic.VERSION,
            "hypothesis": hypothesis.__version__,
        },
    }  # fmt: skip
    print(json.dumps({key: summary[key] for key in ("cases", "seconds", "results")}))
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(summary, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
