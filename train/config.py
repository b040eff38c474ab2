"""What a config file may say: schema, reading, overrides, comparison."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rstg_pyg.train.errors import UserError, nearest
from rstg_pyg.train.schema.config import Config
from rstg_pyg.train.schema.sections import Section, section_of
from rstg_pyg.train.schema.yaml_files import MOST_CHARACTERS, YAMLError, load_yaml

#: Keys that say which kind of section it is.
_KINDS = ("kind", "dataset")

_DEEPEST = 8  # parts of a key; the schema's have up to three

CONFIG_FOLDER = Path(__file__).resolve().parent / "configs"


def available_configs() -> list[str]:
    """Names of the configs that come with the package."""
    return sorted(str(p.relative_to(CONFIG_FOLDER)) for p in CONFIG_FOLDER.rglob("*.yaml"))


def load_config(name: str, overrides: list[str] | None = None, *, demo: bool = True) -> Config:
    """Reads a config, applies ``key.path=value`` overrides, and checks it.

    A config may have a section ``demo``, laid over the rest where ``data.root`` is not given: it fits
    the experiment to the built-in data. It may also come in several ``sizes``, sections that are laid
    over the file they are in; ``size`` says which (``size=full`` on the command line).

    Args:
        name: A path, or the name of a config that comes with the package.
        overrides: Values to replace, YAML on the right side: ``data.num_digits=3``.
        demo: Whether the section ``demo`` counts.

    Raises:
        UserError: If the file is missing, is not YAML, or says something the schema does not know.
    """
    path = _find(name)
    values = _read(path)
    base, size = values.pop("base", None), values.pop("size", None)
    layers = [values]
    if base is not None:
        base_path = path.parent / str(base)
        layers.insert(0, _read(base_path if base_path.is_file() else _find(str(base))))
        if "base" in layers[0]:
            raise UserError(f"{path}: base: {base} has a base itself; only one level is allowed")
        default = layers[0].pop("size", None)
        size = default if size is None else size
    overrides = list(overrides or [])
    for override in [o for o in overrides if o.partition("=")[0].strip() == "size"]:
        size = override.partition("=")[2].strip()
        overrides.remove(override)
    values = _of_size(layers, size, path)
    small = values.pop("demo", None)
    with_overrides = _overridden(values, overrides)
    if small is not None and demo and _root(with_overrides) is None:
        if not isinstance(small, dict):
            raise UserError(f"{path}: demo: expected a mapping of sections")
        with_overrides = _overridden(_merge(values, small), overrides)
    return parse_config(with_overrides, str(path))


def _of_size(layers: list[dict[str, Any]], size: Any, path: Path) -> dict[str, Any]:
    """Lays configs over each other, each with its section for the size."""
    sizes = [layer.pop("sizes", {}) for layer in layers]
    if not all(isinstance(sections, dict) for sections in sizes):
        raise UserError(f"{path}: sizes: expected a mapping from names of sizes to sections")
    known = list(dict.fromkeys(name for sections in sizes for name in sections))
    if size is not None and size not in known:
        have = "this config comes in one size only"
        if known:
            have = f"expected one of {', '.join(map(str, known))}"
        raise UserError(f"{path}: size: {have} (got {size!r})")
    values: dict[str, Any] = {}
    for layer, sections in zip(layers, sizes):
        values = _merge(values, layer)
        chosen = sections.get(size)
        if chosen is not None and not isinstance(chosen, dict):
            raise UserError(f"{path}: sizes: {size}: expected a mapping of sections")
        values = _merge(values, chosen or {})
    return values


def _overridden(values: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    values = copy.deepcopy(values)
    for override in overrides:
        key, found, text = override.partition("=")
        if not found or not key:
            raise UserError(
                f"'{_short(override)}': expected an override key.path=value, e.g. train.lr=0.001"
            )
        path = key.strip().split(".")
        if len(path) > _DEEPEST:
            raise UserError(f"'{_short(override)}': expected a key of at most {_DEEPEST} parts")
        _set(values, path, _parse(text, override), override)
    return values


def _root(values: dict[str, Any]) -> Any:
    data = values.get("data")
    return data.get("root") if isinstance(data, dict) else None


def parse_config(values: Any, where: str) -> Config:
    """Checks plain values against the schema.

    Raises:
        UserError: With the first problems, each with its key.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected a mapping of sections (got {type(values).__name__})")
    values = dict(values)
    values.setdefault("name", Path(where).stem)
    try:
        return Config.model_validate(_tuples(values))
    except ValidationError as e:
        lines = [_explain(error, values) for error in e.errors()]
        more = f" (and {len(lines) - 2} more)" if len(lines) > 2 else ""
        raise UserError(f"{where}: " + "; ".join(dict.fromkeys(lines[:2])) + more) from None


def to_dict(config: Config) -> dict[str, Any]:
    """Plain values (as JSON and YAML hold them)."""
    return config.model_dump(mode="json")


def to_yaml(config: Config) -> str:
    """The config as YAML; reading it gives the same config."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def config_hash(config: Config) -> str:
    """Twelve hexadecimal digits that change with any value."""
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
        f"--cfg: there is no config '{name}'; those that come with the package are "
        f"{', '.join(available_configs())}"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            values = load_yaml(file.read(MOST_CHARACTERS + 1))
    except YAMLError as e:
        raise UserError(f"{path}: not valid YAML ({e})") from e
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: cannot be read ({e})") from e
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of sections (got {type(values).__name__})")
    return values


def _merge(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Lays values over others, section by section; a section of another kind replaces the whole."""
    out = copy.deepcopy(base)
    for key, value in values.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        same = both and all(value.get(k, out[key].get(k)) == out[key].get(k) for k in _KINDS)
        out[key] = _merge(out[key], value) if same else value
    return out


def _set(values: dict[str, Any], path: list[str], value: Any, override: str) -> None:
    for key in path[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise UserError(f"'{_short(override)}': '{_short(key)}' is a value, not a section")
    values[path[-1]] = value


def _short(text: str) -> str:
    """A text in a line."""
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _parse(text: str, override: str) -> Any:
    try:
        value = load_yaml(text) if text else ""
    except YAMLError as e:
        raise UserError(f"'{_short(override)}': the value is not valid YAML ({e})") from e
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            pass
    return value


def _tuples(value: Any, key: str = "") -> Any:
    """YAML has no pairs: ``scales: [3, [2, 3], 1]`` means ``(2, 3)`` inside. Numbers like ``1e-3``
    are text in YAML 1.1 and mean numbers here.
    """
    if isinstance(value, dict):
        return {k: _tuples(v, str(k)) for k, v in value.items()}
    if key == "scales" and isinstance(value, list):
        return [tuple(v) if isinstance(v, list) else v for v in value]
    if isinstance(value, str) and key not in ("name", "root", "strategy", "weights"):
        try:
            return float(value)
        except ValueError:
            pass
    return value


def _explain(error: Any, values: dict[str, Any]) -> str:
    """One problem in one line."""
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    keys = []  # the path without the names of union members that pydantic puts in
    section: type[Section] | None = Config
    node: Any = values
    for i, part in enumerate(error["loc"]):
        known = isinstance(node, dict) and part in node
        missing = error["type"] == "missing" and i + 1 == len(error["loc"])
        if not known and not missing and not isinstance(part, int):
            continue
        keys.append(str(part))
        parent = section
        node = node[part] if known else None
        field = section.model_fields.get(part) if section is not None else None
        annotation = field.annotation if field is not None else None
        section = section_of(annotation, node if isinstance(node, dict) else {})
    key = ".".join(keys)
    if error["type"] == "extra_forbidden":
        choices = list(parent.model_fields) if parent is not None else []
        hint = nearest(keys[-1], choices) or f"; known keys are {', '.join(choices)}"
        return f"unknown key '{_short(key)}'{hint}"
    message = error["msg"][0].lower() + error["msg"][1:]
    try:
        shown = repr(error["input"])
    except ValueError:  # Python writes no number of more than 4,300 digits
        shown = "a very long number"
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    key = _short(key)
    return f"{key}: {message} (got {shown})"
