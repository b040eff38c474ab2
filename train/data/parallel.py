"""One function over many items, in several processes, with results in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import torch

from rstg_pyg.train.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 4  # results that may wait per worker


def in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, timeout: float = 600.0
) -> Iterator[Result]:
    """Yields ``function(item)`` for every item, in order; only a few results wait at a time.

    Args:
        function: What to call; with several workers it must be picklable.
        items: The items.
        workers: Number of processes; with 1 there are none but this one.
        timeout: Seconds after which a result that does not come is an error.

    Raises:
        UserError: If a worker process dies or hangs; with the items that the workers were at.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)
    waiting: deque = deque()  # items with their results to come

    def next_result() -> Result:
        result = waiting[0][1].result(timeout)
        waiting.popleft()
        return result

    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) >= _AHEAD * workers:
                yield next_result()
        while waiting:
            yield next_result()
    except BrokenProcessPool as e:
        raise UserError(
            f"a worker process died at {_at(waiting, workers)}, which is the system's doing (often too "
            f"little memory); run it again with fewer --workers"
        ) from e
    except TimeoutError as e:
        item, future = waiting[0]
        if future.done():  # the function's own
            raise
        for process in set(multiprocessing.active_children()) - before:
            process.kill()
            process.join()
        raise UserError(
            f"a worker process hung for {timeout:g} seconds, at {item}; mend or remove it"
        ) from e
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _at(waiting: deque, workers: int) -> str:
    """The items that the workers can have been at: the first ones without a result."""
    left = [
        str(item)
        for item, future in waiting
        if not future.done() or isinstance(future.exception(), BrokenProcessPool)
    ]
    return ("one of " if len(left) > 1 else "") + (", ".join(left[:workers]) or "its start")


def _start_worker() -> None:
    """A worker computes with one thread, leaves Ctrl-C to its parent, and ends when that is gone."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
