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
#: Of averages over the past, which never begin at 1.
Decay = Annotated[float, Field(ge=0, lt=1)]
_MOST_FLOAT = 1e30  # float32, which everything is computed in, ends at 3.4e38
Number = Annotated[float, Field(ge=-_MOST_FLOAT, le=_MOST_FLOAT)]
Positive = Annotated[float, Field(gt=0, le=_MOST_FLOAT)]
NonNegative = Annotated[float, Field(ge=0, le=_MOST_FLOAT)]
#: What there is one module, one pass or one process of for each; a side of a grid has its square.
Few = Annotated[int, Field(gt=0, le=1_000)]
FewOrNone = Annotated[int, Field(ge=0, le=1_000)]
#: What is made one after the other, or held at once.
Frames = Annotated[int, Field(gt=0, le=10_000)]
Pixels = Annotated[int, Field(gt=0, le=65_536)]
Batch = Annotated[int, Field(gt=0, le=1_000_000)]
Many = Annotated[int, Field(gt=0, le=100_000_000)]
Scale = Few | tuple[Few, Few]


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
