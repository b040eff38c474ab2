"""One function over many items, in several processes, with results in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from rstg_pyg.train.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Calls(Dataset):
    """``function(items[i])``; every worker says in shared memory which item it is at."""

    def __init__(self, function: Callable, items: Sequence, workers: int):
        self.function = function
        self.items = items
        self.at = torch.full((workers,), -1).share_memory_()  # -1 for none

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        info = get_worker_info()
        worker = 0 if info is None else info.id
        self.at[worker] = number
        result = self.function(self.items[number])
        self.at[worker] = -1
        return result


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, timeout: float = 600.0
) -> Iterator[Result]:
    """Yields ``function(item)`` for every item, in order; only a few results wait at a time.

    Args:
        function: What to call; with several workers it and its results must be picklable.
        items: The items.
        workers: Number of processes; with 1 there are none but this one.
        timeout: Seconds after which a result that does not come is an error.

    Raises:
        UserError: If a worker process dies or hangs; it names the items that the workers were at.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    calls = _Calls(function, items, workers)
    try:
        yield from DataLoader(calls, None, num_workers=workers, collate_fn=_as_it_is, timeout=timeout)
    except RuntimeError as e:
        if not str(e).startswith("DataLoader"):  # the function's own
            raise
        names = ", ".join(str(items[number]) for number in calls.at.tolist() if number >= 0)
        raise UserError(
            f"a worker process died or hung ({str(e).splitlines()[0]}) at {names or 'its start'}; fix "
            f"or remove it, or use fewer --workers if memory was short"
        ) from e


def _as_it_is(result: Result) -> Result:
    return result
