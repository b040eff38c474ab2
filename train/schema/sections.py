"""What sections of a config are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field

_MOST = 2**31 - 1  # of a count: sizes of tensors are products of several
PositiveInt = Annotated[int, Field(gt=0, le=_MOST)]
NonNegativeInt = Annotated[int, Field(ge=0, le=_MOST)]
#: What all random generators take.
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Scale = PositiveInt | tuple[PositiveInt, PositiveInt]


class Section(BaseModel):
    """A part of a config: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def chosen(key: str, default: str, kinds: Mapping[str, str]):
    """Which member of a union a section means, by one of its values."""

    def choose(value: Any) -> str | None:
        found = value.get(key, default) if isinstance(value, Mapping) else getattr(value, key, None)
        return kinds.get(found) if isinstance(found, str) else None

    kinds_text = ", ".join(kinds)
    return Discriminator(
        choose,
        custom_error_type="unknown_kind",
        custom_error_message=f"expected '{key}' to be one of {kinds_text}",
    )


def section_of(annotation: Any, value: Any) -> type[Section] | None:
    """The schema of a section: the annotation itself, or the member of a union that ``value`` means."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for member in getattr(annotation, "__args__", ()):
        inner = getattr(member, "__origin__", member)
        if not (isinstance(inner, type) and issubclass(inner, Section)):
            continue
        for key in ("dataset", "kind"):
            field = inner.model_fields.get(key)
            found = value.get(key, field.default) if field is not None and value is not None else None
            if field is not None and found in getattr(field.annotation, "__args__", ()):
                return inner
        if not {"dataset", "kind"} & set(inner.model_fields):
            return inner
    return None
