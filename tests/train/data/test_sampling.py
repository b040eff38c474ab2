import numpy as np
import pytest

from rstg_pyg.train.data.sampling import (
    dense,
    segments,
    test_indices,
    train_indices,
    uniform,
    uniform_shifted,
)


def test_uniform_is_the_published_one():
    assert uniform(40, 32).tolist() == [int(x) for x in np.linspace(0, 39, 32)]
    assert uniform(4, 8).tolist() == [0, 0, 0, 1, 1, 2, 2, 3]  # truncated, frames repeat
    assert uniform(1, 3).tolist() == [0, 0, 0]


def test_the_second_uniform_one():
    expected = [min(int(x), 99) for x in np.linspace(2, 101, 32)]  # round(0.5 * 100 / 32) = 2
    assert uniform_shifted(100, 32).tolist() == expected
    assert uniform_shifted(20, 32).tolist() == uniform(20, 32).tolist()  # half a step rounds to 0


def test_segments():
    assert segments(12, 4, 0.5).tolist() == [1, 4, 7, 10]
    assert segments(12, 4, 0.0).tolist() == [0, 3, 6, 9]
    assert segments(2, 4, 0.5).tolist() == [0, 0, 1, 1]


def test_training_segments_jitter_within_their_segment():
    generator = np.random.default_rng(0)
    clips = np.array([train_indices(40, 8, "segments", generator) for _ in range(300)])
    assert (clips // 5 == np.arange(8)).all()
    assert (np.diff(clips) != 5).any()  # each segment has its own place
    assert all(len(set(column)) == 5 for column in clips.T)  # every frame has its turn
    again = train_indices(40, 8, "segments", np.random.default_rng(0))
    assert again.tolist() == clips[0].tolist()


def test_uniform_training_is_not_random():
    generator = np.random.default_rng(0)
    assert train_indices(40, 8, "uniform", generator).tolist() == uniform(40, 8).tolist()
    assert generator.random() == np.random.default_rng(0).random()


def test_dense():
    assert dense(40, 4, 3, 0.0).tolist() == [0, 3, 6, 9]
    assert dense(40, 4, 3, 1.0).tolist() == [30, 33, 36, 39]
    assert dense(7, 4, 3, 0.9).tolist() == [0, 2, 4, 6]  # too short: all of it
    assert dense(3, 6, 2, 0.5).tolist() == [0, 0, 0, 1, 1, 2]
    assert test_indices(41, 5, "dense", stride=5)[0].tolist() == [10, 15, 20, 25, 30]
    generator = np.random.default_rng(0)
    clips = [train_indices(12, 4, "dense", generator, stride=3) for _ in range(99)]
    assert {clip[0] for clip in clips} == {0, 1, 2} and all((np.diff(c) == 3).all() for c in clips)
    varying = np.cumsum([0, 1, 1, 1, 3, 3, 3])  # seconds: frames that are shown 2 s apart
    assert dense(7, 4, 1, 0.0, varying).tolist() == [0, 2, 3, 4]


@pytest.mark.parametrize("sampling", ["uniform", "segments", "dense"])
@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 10_000])
def test_all_frames_exist(sampling, length):
    clips = test_indices(length, 32, sampling, 2)
    clips.append(train_indices(length, 32, sampling, np.random.default_rng(1)))
    assert len(test_indices(length, 32, sampling)) == 1
    for clip in clips:
        assert len(clip) == 32 and clip.min() >= 0 and clip.max() < length
        assert (np.diff(clip) >= 0).all()


def test_the_two_clips_of_an_evaluation():
    """TSM's "twice sample" as its authors write it; and a quarter and three quarters of the way."""
    for length, count in ((37, 8), (5, 8), (300, 16)):
        tick = length / count
        middles = [int(tick / 2 + tick * x) for x in range(count)]
        firsts = [int(tick * x) for x in range(count)]
        found = test_indices(length, count, "segments", 2)
        assert [clip.tolist() for clip in found] == [middles, firsts]
        assert test_indices(length, count, "segments")[0].tolist() == middles
    found = test_indices(115, 4, "dense", 2, stride=5)  # a hundred places to begin at
    assert [clip.tolist() for clip in found] == [[25, 30, 35, 40], [74, 79, 84, 89]]


def test_a_frame_is_shown_until_the_next_one_comes():
    """Times as containers have them, in float: a frame at its own time counts."""
    times = np.array([0, 1, 2, 5, 6, 7, 8, 9]) / 30
    even = np.linspace(0, times[-1], 10)
    shown = [max(i for i, t in enumerate(times) if t <= wanted + 1e-9) for wanted in even]
    assert uniform(8, 10, times).tolist() == shown == [0, 1, 2, 2, 2, 3, 4, 5, 6, 7]
    for rate in (24, 25, 29.97, 30, 59.94):
        for length in (2, 7, 50, 301):
            times = np.arange(length) / rate
            for count in (1, 4, 8, length):
                same = uniform(length, count, times), uniform(length, count)
                assert np.array_equal(*same), (rate, length, count)
