"""Which frames make the clips of windows, of sources without pixels."""

import numpy as np
import pytest
import torch

from rstg_pyg.train.data.sampling import test_indices, uniform
from rstg_pyg.train.windows import plan, windows_of_file


class Numbers:
    """A video whose frames are their numbers."""

    def __init__(self, times, varying):
        self.seconds, self.varying = np.asarray(times, dtype=float), varying

    def times(self, video):
        return self.seconds

    def varying_times(self, video):
        return self.seconds if self.varying else None

    def frames(self, video, indices, short_side):
        return (torch.tensor([[[index]]]) for index in indices)


@pytest.mark.parametrize("varying", [False, True])
def test_windows_of_a_file_by_hand(varying):
    """Four frames of each: by number, or those that are shown at even times since its first frame."""
    generator = np.random.default_rng(0)
    times = np.arange(200) / 25
    if varying:
        times = np.cumsum(generator.choice([0.02, 0.04, 0.2], 200))
        times -= times[0]
    found = [*windows_of_file(Numbers(times, varying), "", lambda n, t: uniform(n, 4, t), 8, 1.0, 0.3)]
    length = float(times[-1]) * 200 / 199
    starts = [0.3 * i for i in range(1000) if 0.3 * i + 1 <= length]
    if starts[-1] + 1 < length - 1e-6:
        starts.append(length - 1)
    assert [start for start, *_ in found] == pytest.approx(starts)
    for start, end, frames in found:
        assert end == pytest.approx(start + 1)
        inside = [i for i, t in enumerate(times) if start - 1e-6 <= t < end - 1e-6]
        expected = [inside[int(place)] for place in np.linspace(0, len(inside) - 1, 4)]
        if varying:
            wanted = np.linspace(times[inside[0]], times[inside[-1]], 4)
            expected = [max(i for i in inside if times[i] <= t + 1e-6) for t in wanted]
        assert frames.flatten().tolist() == expected


def test_a_later_window_may_begin_with_an_earlier_frame():
    """The middle of a window, in time, moves back where many frames follow on few."""
    for seed in range(20):
        gaps = np.random.default_rng(seed).choice([0.01, 0.01, 0.01, 0.01, 1.5], 150)
        times = np.cumsum(gaps) - gaps[0]

        def middle(count, seen):
            return test_indices(count, 2, "dense", times=seen)[0]

        found = [*windows_of_file(Numbers(times, True), "", middle, 8, 4.0, 0.1)]
        for start, end, frames in found:
            first, last = np.searchsorted(times, [start - 1e-6, end - 1e-6])
            expected = first + middle(last - first, times[first:last] - times[first])
            assert frames.flatten().tolist() == expected.tolist()
        begins = np.array([int(frames.min()) for *_, frames in found])
        if (np.diff(begins) < 0).any():
            return
    raise AssertionError("expected a window that begins before the one before it")


def test_the_plan_of_windows():
    times = np.arange(100) / 10  # ten seconds
    for (seconds, step), expected in {
        (4, 2): [(0, 4), (2, 6), (4, 8), (6, 10)],
        (4, 2.5): [(0, 4), (2.5, 6.5), (5, 9), (6, 10)],
        (12, 1): [(0, 10)],
    }.items():
        assert np.allclose(plan(times, seconds, step), expected)
