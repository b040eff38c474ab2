"""How fast clips are read, for every kind of source."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rstg_pyg.train.data.something import SomethingSomething
from rstg_pyg.train.data.sources import find_sources


@dataclass(frozen=True)
class Rate:
    """Training clips per second that one process reads.

    Attributes:
        source: Kind of the source.
        detail: Which one.
        clips_per_second: The rate.
        milliseconds: Median time of a clip.
        clips: Clips read.
    """

    source: str
    detail: str
    clips_per_second: float
    milliseconds: float
    clips: int


def measure(root: str | Path, split: str, seconds: float, **options) -> list[Rate]:
    """Reads random training clips of a split from every source below ``root``, one process at a time.

    The files may be in the system's cache; what is measured is decoding, resizing and cropping.

    Args:
        root: The data set's folder.
        split: The split.
        seconds: How long, for each source.
        options: More arguments of :class:`SomethingSomething`.

    Raises:
        UserError: If the data set is wrong.
    """
    dataset = SomethingSomething(root, split, partial=True, **options)
    rates = []
    for source in find_sources(root, dataset.ids):
        dataset.source = source
        missing = set(source.missing(dataset.ids))
        there = [item for item, video in enumerate(dataset.ids) if video not in missing]
        order = np.random.default_rng(0).permutation(there).tolist()
        dataset[order[0]]  # opens what is opened once
        times: list[float] = []
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            epoch, place = divmod(len(times), len(order))
            dataset[epoch * len(dataset) + order[place]]
            times.append(time.perf_counter() - start)
        total = time.perf_counter() - begin
        median = 1000 * float(np.median(times))
        rates.append(Rate(source.kind, source.detail, len(times) / total, median, len(times)))
    return rates
