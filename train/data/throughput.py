"""How fast clips are read, for every kind of source."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from rstg_pyg.train.data.clips import VideoClips
from rstg_pyg.train.data.folder import VideoFolder, is_class_folder
from rstg_pyg.train.data.something import SomethingSomething
from rstg_pyg.train.data.sources import find_sources


def measure(root: str | Path, seconds: float, **options) -> list[dict[str, Any]]:
    """Reads random training clips from every source below ``root`` in this process.

    The files may be in the system's cache: this measures decoding, resizing and cropping.

    Args:
        root: The data set's folder.
        seconds: How long, for each source.
        options: More arguments of the data set.

    Returns:
        For each source ``source``, ``detail``, ``clips_per_second``, ``milliseconds`` (median time of a
        clip) and ``clips`` (how many were read).

    Raises:
        UserError: If the data set is wrong.
    """
    kind = VideoFolder if is_class_folder(root) else SomethingSomething
    dataset: VideoClips = kind(root, "train", partial=True, val_fraction=0.0, **options)
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
        rate = len(times) / (time.perf_counter() - begin)
        rates.append({
            "source": source.kind, "detail": source.detail, "clips_per_second": rate,
            "milliseconds": 1000 * float(np.median(times)), "clips": len(times),
        })  # fmt: skip
    return rates
