"""YAML as configs have it: plain values, every key once, of a size that a person writes."""

from __future__ import annotations

from typing import Any

import yaml

MOST_CHARACTERS = 200_000
_MOST_VALUES = 20_000  # with what aliases repeat
_DEEPEST = 40


class YAMLError(ValueError):
    """What is wrong with a text, in one line."""


def load_yaml(text: str) -> Any:
    """Reads YAML of plain values.

    No tag makes anything but text, numbers, truth values, dates, lists and mappings. Anchors and
    aliases can be used, but not to blow a short text up.

    Raises:
        YAMLError: If the text is not YAML, has a key twice in a mapping, or is too large or too deep.
    """
    if len(text) > MOST_CHARACTERS:
        raise YAMLError(f"expected at most {MOST_CHARACTERS:,} characters (got {len(text):,})")
    try:
        _check_depth(text)
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {}, 1)
        return loader.construct_document(node)
    except YAMLError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError, AttributeError, TypeError, KeyError) as e:
        raise YAMLError(" ".join(str(e).split())[:300] or type(e).__name__) from None


def _check_depth(text: str) -> None:
    """Goes through the text once without making anything, since what makes nodes calls itself."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(
            event, yaml.CollectionEndEvent
        )
        if depth > _DEEPEST:
            raise _too_deep(event)


def _measure(node: yaml.Node, known: dict[int, tuple[int, int] | None], depth: int) -> tuple[int, int]:
    """How many values a node has, counted as often as aliases repeat them, and how deep it is.

    Raises:
        YAMLError: If that is too much, a node is part of itself, or a key is no scalar or there twice
            (PyYAML would take the last one).
    """
    if isinstance(node, yaml.ScalarNode):
        return 1, 1
    if id(node) not in known:
        known[id(node)] = None
        parts = _values(node) if isinstance(node, yaml.MappingNode) else node.value
        sizes = [_measure(part, known, depth + 1) for part in parts] if depth <= _DEEPEST else []
        known[id(node)] = 1 + sum(n for n, _ in sizes), 1 + max((deep for _, deep in sizes), default=0)
    size = known[id(node)]
    if size is None:
        raise YAMLError(f"{_place(node)}: an alias leads into itself")
    if size[0] > _MOST_VALUES:
        raise YAMLError(
            f"{_place(node)}: expected at most {_MOST_VALUES:,} values, with those that aliases repeat"
        )
    if depth + size[1] > _DEEPEST:
        raise _too_deep(node)
    return size


def _values(node: yaml.MappingNode) -> list[yaml.Node]:
    """The values of a mapping, the keys checked."""
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise YAMLError(f"{_place(key)}: expected a name as key")
        if (key.tag, key.value) in seen:
            raise YAMLError(f"{_place(key)}: the key '{key.value[:60]}' is there twice")
        seen.add((key.tag, key.value))
    return [value for _, value in node.value]


def _too_deep(node: yaml.Node | yaml.Event) -> YAMLError:
    return YAMLError(f"{_place(node)}: expected at most {_DEEPEST} sections within each other")


def _place(node: yaml.Node | yaml.Event) -> str:
    return f"line {node.start_mark.line + 1}, column {node.start_mark.column + 1}"
