"""One function over many items, in several processes, with results in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import torch

from rstg_pyg.train.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 4  # results that may wait per worker


def in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """Yields ``function(item)`` for every item, in order; only a few results wait at a time.

    Args:
        function: What to call; with several workers it must be picklable.
        items: The items.
        workers: Number of processes; with 1 there are none but this one.

    Raises:
        UserError: If a worker process dies.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)
    waiting: deque = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as e:
        raise UserError(
            "a worker process died, which is the system's doing (often too little memory); run it "
            "again with fewer --workers"
        ) from e
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    """A worker computes with one thread, leaves Ctrl-C to its parent, and ends when that is gone."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
