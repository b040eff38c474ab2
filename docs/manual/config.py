"""The reference of the configs, from the schema that checks them."""

from __future__ import annotations

import importlib
import json
import re
from typing import Any

from sphinx.pycode import ModuleAnalyzer

from rstg_pyg.train.config import CONFIG_FOLDER, Config, available_configs

_MODULES = [f"rstg_pyg.train.{path.stem}" for path in sorted(CONFIG_FOLDER.parent.glob("schema*.py"))]
_NAMES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true`, `false`"}
#: The bounds of all numbers, which need not be said each time; and how others are written.
_MOST, _POWERS = (None, 2**31 - 1, 1e30, -1e30), {2**32: "2^32"}
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def config_reference() -> str:
    """Every section, key, type and default, as Markdown."""
    schema = Config.model_json_schema()
    sections = {"Config": schema, **schema["$defs"]}
    comments, classes = {}, {}
    for module in _MODULES:
        comments.update(ModuleAnalyzer.for_module(module).find_attr_docs())
        classes.update(vars(importlib.import_module(module)))
    out = []
    for name, path in _paths(schema, sections):
        section = sections[name]
        rows = ["| key | values | default | |", "|---|---|---|---|"]
        for key, field in section["properties"].items():
            inner = _references(field)
            values = " or ".join(f"[{_title(n, sections)}](#{_anchor(n)})" for n in inner)
            values += _or_null(field) if inner else _values(field)
            default = "*needed*" if key in section.get("required", ()) else _default(field, bool(inner))
            bases = (base.__name__ for base in classes[name].__mro__)  # some keys are inherited
            lines = next((comments[base, key] for base in bases if (base, key) in comments), ())
            note = _markdown(" ".join(lines))
            rows.append(f"| `{key}` | {values} | {default} | {note} |")
        out.append(
            f"({_anchor(name)})=\n## {_title(name, sections, path)}\n\n"
            f"{_markdown(section.get('description', ''))}\n\n" + "\n".join(rows)
        )
    return "\n\n".join(out)


def config_files() -> str:
    """The configs that come with the package, with the first sentence of each, as Markdown."""
    rows = ["| config | |", "|---|---|"]
    for name in available_configs():
        comment = re.match(r"(#.*\n)+", (CONFIG_FOLDER / name).read_text(encoding="utf-8"))
        text = re.sub(r"\n?# ?", " ", comment[0] if comment else "").strip()
        rows.append(f"| `{name}` | {re.split(r'[.] (?=[(A-Z])', text)[0].rstrip('.:')} |")
    return "\n".join(rows)


def _paths(schema: dict[str, Any], sections: dict[str, Any], path: str = "") -> list[tuple[str, str]]:
    """Every section in reading order, with the dotted path of its keys."""
    out = [(schema["title"], path)]
    for key, field in schema["properties"].items():
        for name in _references(field):
            out += _paths(sections[name], sections, f"{path}.{key}".lstrip("."))
    return out


def _references(field: dict[str, Any]) -> list[str]:
    """The sections that a key can hold."""
    if "$ref" in field:
        return [field["$ref"].rsplit("/", 1)[1]]
    options = [*field.get("anyOf", ()), *field.get("oneOf", ()), *field.get("allOf", ())]
    return [name for option in options for name in _references(option)]


def _title(name: str, sections: dict[str, Any], path: str | None = None) -> str:
    """``data`` with ``dataset: something``: the path, and what chooses this section among others."""
    for key in ("dataset", "kind"):
        values = _values(sections[name]["properties"].get(key, {}))
        if values:
            return f"{'' if path is None else f'`{path}`, '}{key}: {values}"
    return f"`{path}`" if path else "The whole" if path == "" else name.removesuffix("Config")


def _anchor(name: str) -> str:
    return f"config-{name.removesuffix('Config').lower()}"


def _values(field: dict[str, Any]) -> str:
    """What a key can be."""
    if "const" in field or "enum" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if "anyOf" in field:
        return " or ".join(_values(option) for option in field["anyOf"])
    if field.get("type") == "null":
        return "`null`"
    if field.get("type") == "array":
        if "prefixItems" in field:
            return "a pair of them"
        return f"list of: {_values(field['items'])}"
    found = {sign: field[bound] for bound, sign in _BOUNDS.items() if field.get(bound) not in _MOST}
    bounds = " ".join(f"{sign} {_POWERS.get(value, f'{value:g}')}" for sign, value in found.items())
    bounds = bounds.replace("≥ 0 ≤ 1", "0 to 1")
    return f"{_NAMES.get(field.get('type'), '')} {bounds}".strip()


def _or_null(field: dict[str, Any]) -> str:
    null = any(option.get("type") == "null" for option in field.get("anyOf", ()))
    return " or `null`" if null else ""


def _default(field: dict[str, Any], is_section: bool) -> str:
    value = field.get("default")
    if is_section and value is not None:
        kind = value.get("dataset", value.get("kind"))
        return "its defaults" if kind is None else f"`{kind}`"
    return f"`{json.dumps(value, ensure_ascii=False)}`" if value != "" else ""


def _markdown(text: str) -> str:
    """Roles and code marks of a docstring in Markdown; one line, as a table needs."""
    text = re.sub(r":(\w+):`~?([^`]+)`", r"{py:\1}`\2`", text)
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    return " ".join(text.split()).replace("|", "\\|")
