"""What processes that train together tell each other."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist


def gathered(value: Any) -> list[Any]:
    """The values of all processes, in their order."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
