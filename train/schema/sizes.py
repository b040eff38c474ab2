"""Which values of a config are to blame when something does not fit into memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from rstg_pyg.train.command import is_too_large, too_large
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.schema.config import Config

#: What tensors and numbers grow with.
_GROWING = {
    *("num_frames", "frame_size", "canvas_size", "digit_size", "crop_size", "short_side"),
    *("train_videos", "val_videos", "test_videos", "batch_size", "hidden_channels", "num_rounds"),
    *("scales", "num_update_layers", "map_size", "filters", "padding", "width", "depths"),
    *("lr", "weight_decay", "attention_scale", "mean"),
}
_NAMED, _FAR = 3, 100


@contextlib.contextmanager
def sizes_named(config: Config) -> Iterator[None]:
    """Inside, an error of memory, or of a number that is too large, names the keys to lower.

    Raises:
        UserError: In the place of such an error.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OverflowError, ValueError, TypeError) as e:
        if not is_too_large(e):
            raise
        raise UserError(f"{too_large(e)}; lower {', '.join(largest(config))}") from e


def largest(config: Config) -> list[str]:
    """The values that are largest against their defaults, as ``key=value``; those that are larger than
    these by far alone, and the batch if none is.
    """
    found = sorted(_growing(config, ""), reverse=True)
    least = max(1.0, found[0][0] / _FAR)
    names = [text for ratio, text in found if ratio > least]
    return names[:_NAMED] or [f"train.batch_size={config.train.batch_size}"]


def _growing(section: BaseModel, prefix: str) -> Iterator[tuple[float, str]]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _growing(value, f"{prefix}{name}.")
        elif name in _GROWING and value is not None:
            usual = _most(field.default) if field.default else 1
            yield _most(value) / usual, f"{prefix}{name}={value}"


def _most(value: Any) -> float:
    """The value, or the largest in a list."""
    return max(map(_most, value)) if isinstance(value, list | tuple) else abs(value)
