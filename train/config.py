"""From a YAML file to a :class:`Config`: base, sizes, demo, overrides; writing and comparison."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rstg_pyg.train.errors import UserError
from rstg_pyg.train.schema import Config

#: Keys that select the type of their section.
_KINDS = ("kind", "dataset")
#: Maximum number of values in a file, including those repeated by aliases.
_MOST_VALUES = 20_000

CONFIG_FOLDER = Path(__file__).resolve().parent / "configs"


def available_configs() -> list[str]:
    """Names of the configs that come with the package."""
    return sorted(str(p.relative_to(CONFIG_FOLDER)) for p in CONFIG_FOLDER.rglob("*.yaml"))


def load_config(name: str, overrides: Sequence[str] = (), *, demo: bool = True) -> Config:
    """Reads a config, applies ``key.path=value`` overrides, and checks it.

    A config may have a section ``demo``, which overrides other values if ``data.root`` is not given: it
    adapts the experiment to the built-in data. It may also have ``sizes``, alternative sets of
    overrides; ``size`` selects one (``size=full`` on the command line).

    Args:
        name: A path, or the name of a config that comes with the package.
        overrides: Values to override, with YAML on the right side: ``data.num_digits=3``.
        demo: Whether to use the section ``demo``.

    Raises:
        UserError: If the file is missing, is not YAML, or does not match the schema.
    """
    path = _find(name)
    files = [_read(path)]
    base = files[0].pop("base", None)
    if base is not None:
        beside = path.parent / str(base)
        files.insert(0, _read(beside if beside.is_file() else _find(str(base))))
        if "base" in files[0]:
            raise UserError(f"{path}: base: {base} has a base itself; only one level is allowed")
    sizes = [file.pop("size", None) for file in files]
    changes = [_parse_override(override) for override in overrides]
    sizes += [value for keys, value, _ in changes if keys == ["size"]]
    changes = [change for change in changes if change[0] != ["size"]]

    values = _of_size(files, next((s for s in reversed(sizes) if s is not None), None), path)
    small = _take(values, "demo", path)
    result = _overridden(values, changes)
    data = result.get("data")
    if demo and (not isinstance(data, dict) or data.get("root") is None):
        result = _overridden(_merge(values, small), changes)
    return parse_config(result, str(path))


def change_config(config: Config, overrides: Sequence[str]) -> Config:
    """A config with ``key.path=value`` overrides applied.

    Raises:
        UserError: If the result does not match the schema.
    """
    changes = [_parse_override(override) for override in overrides]
    return parse_config(_overridden(to_dict(config), changes), config.name)


def _of_size(files: list[dict[str, Any]], size: Any, path: Path) -> dict[str, Any]:
    """Merges files in order, each with its section for the size."""
    sections = [_take(file, "sizes", path) for file in files]
    known = list(dict.fromkeys(name for section in sections for name in section))
    if size is not None and size not in known:
        have = "this config has only one size"
        if known:
            have = f"expected one of {', '.join(map(str, known))}"
        raise UserError(f"{path}: size: {have} (got {size!r})")
    values: dict[str, Any] = {}
    for file, section in zip(files, sections):
        values = _merge(_merge(values, file), _take(section, size, path))
    return values


def _take(values: dict[str, Any], key: Any, path: Path) -> dict[str, Any]:
    """Removes and returns a section; returns an empty one if it does not exist."""
    section = values.pop(key, None)
    if section is not None and not isinstance(section, dict):
        raise UserError(f"{path}: {key}: expected a mapping of sections")
    return section or {}


def _merge(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Overrides values, section by section; a section of another type replaces the complete section."""
    out = dict(base)
    for key, value in values.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        same = both and all(value.get(k, out[key].get(k)) == out[key].get(k) for k in _KINDS)
        out[key] = _merge(out[key], value) if same else value
    return out


def _parse_override(override: str) -> tuple[list[str], Any, str]:
    """The components of the key, the value, and the override shortened to one line."""
    key, found, text = override.partition("=")
    where = f"'{_short(override)}'"
    if not found or not key:
        raise UserError(f"{where}: expected an override key.path=value, e.g. train.lr=0.001")
    return key.strip().split("."), _load_yaml(text, where) if text else "", where


def _overridden(values: dict[str, Any], changes: list[tuple[list[str], Any, str]]) -> dict[str, Any]:
    """A copy with a value replaced."""
    for keys, value, where in changes:
        sections = [values]
        for key in keys[:-1]:
            sections.append(sections[-1].get(key, {}))
            if not isinstance(sections[-1], dict):
                raise UserError(f"{where}: '{_short(key)}' is a value, not a section")
        for section, key in zip(reversed(sections), reversed(keys)):
            value = {**section, key: value}
        values = value
    return values


def parse_config(values: Any, where: str) -> Config:
    """Checks plain values against the schema.

    Raises:
        UserError: With the first problems, each with its key.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected a mapping of sections (got {type(values).__name__})")
    try:
        return Config.model_validate({"name": Path(where).stem, **values})
    except ValidationError as e:
        lines = [_explain(error, values) for error in e.errors()]
        more = f" (and {len(lines) - 2} more)" if len(lines) > 2 else ""
        raise UserError(f"{where}: " + "; ".join(dict.fromkeys(lines[:2])) + more) from None


def _explain(error: Any, values: Any) -> str:
    """A one-line message for one problem."""
    if error["type"] == "value_error":  # from a section's own check, whose message names the key
        return str(error["ctx"]["error"])
    keys = []  # the path without the names of union members that pydantic puts in
    missing = error["loc"][-1] if error["type"] == "missing" else None
    for part in error["loc"]:
        known = isinstance(values, dict) and part in values
        if known or isinstance(part, int) or part == missing:
            keys.append(str(part))
            values = values[part] if known else None
    if error["type"] == "unknown_key":
        key = _short(".".join([*keys, error["ctx"]["key"]]))
        return f"unknown key '{key}'{error['ctx']['hint']}"
    if error["type"] == "string_too_short":
        return f"{'.'.join(keys)}: expected a name (got nothing); leave it out for the default"
    try:
        shown = _short(repr(error["input"]), 60)
    except (ValueError, RecursionError):  # more than 4,300 digits, or a thousand nested sections
        shown = "a very long value"
    return f"{'.'.join(keys)}: {error['msg'][0].lower()}{error['msg'][1:]} (got {shown})"


def _short(text: str, most: int = 80) -> str:
    """A text on one line, shortened."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def to_dict(config: Config) -> dict[str, Any]:
    """Plain values (as JSON and YAML hold them)."""
    return config.model_dump(mode="json")


def to_yaml(config: Config) -> str:
    """The config as YAML; reading it gives the same config."""
    return yaml.dump(to_dict(config), Dumper=_Dumper, sort_keys=False)


def config_hash(config: Config) -> str:
    """Twelve hexadecimal digits that depend on all values."""
    text = json.dumps(to_dict(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def differences(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> list[str]:
    """The dotted keys whose values differ, with both values."""
    out = []
    for key in sorted({*a, *b}):
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            out += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            out.append(f"{prefix}{key} ({left!r} against {right!r})")
    return out


def _find(name: str) -> Path:
    for path in (Path(name), CONFIG_FOLDER / name, CONFIG_FOLDER / f"{name}.yaml"):
        if os.path.isfile(path):
            return path
    raise UserError(
        f"--cfg: there is no config '{name}'; configs that come with the package: "
        f"{', '.join(available_configs())}"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        values = _load_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: cannot be read ({e})") from e
    if values is not None and not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of sections (got {type(values).__name__})")
    return values or {}


class _Loader(yaml.SafeLoader):
    """Plain values: strings, numbers, booleans, dates, lists and mappings."""


class _Dumper(yaml.SafeDumper):
    """Writes what :class:`_Loader` reads."""


for _tool in (_Loader, _Dumper):  # numbers such as 1e-3, which YAML 1.1 reads as strings
    _tool.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )


def _load_yaml(text: str, where: str) -> Any:
    """Reads YAML of plain values.

    Raises:
        UserError: If the text is not YAML, has a duplicate key, or too many values through aliases.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as e:
        reason = _short(str(e), 300) or type(e).__name__
        raise UserError(f"{where}: not valid YAML ({reason})") from None


def _count(node: yaml.Node, counts: dict[int, int]) -> int:
    """The number of values in a node, including those of aliases. Also checks for duplicate keys."""
    if id(node) not in counts:
        counts[id(node)] = _MOST_VALUES  # for an alias that contains itself
        inside = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            names = set()
            for key, value in node.value:
                if str(key.value) in names:
                    line = key.start_mark.line + 1
                    raise ValueError(f"line {line}: the key '{_short(key.value)}' occurs twice")
                names.add(str(key.value))
                inside.append(value)
        counts[id(node)] = 1 + sum(_count(part, counts) for part in inside)
    if counts[id(node)] > _MOST_VALUES:
        raise ValueError(f"expected at most {_MOST_VALUES:,} values, including those of aliases")
    return counts[id(node)]
