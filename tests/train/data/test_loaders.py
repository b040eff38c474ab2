import os
import signal
import time

import pytest
import torch

from rstg_pyg.train.data.loaders import AT_ONCE, VideoLoader
from rstg_pyg.train.data.skipped import UNREAD
from rstg_pyg.train.data.syncmnist import SyncMNIST
from rstg_pyg.train.errors import UserError


def make(digits, num_videos=10):
    return SyncMNIST(digits, "train", num_videos, num_frames=2, frame_size=8, canvas_size=30)


def test_goes_through_everything_once(digits):
    loader = VideoLoader(make(digits), batch_size=4)
    assert len(loader) == 3
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([c for c, _ in batches]), make(digits).videos(range(10)).clips)
    assert len(loader.waits) == 3


def test_small_batches_are_made_several_at_once(digits, monkeypatch):
    def batches():
        loader = VideoLoader(make(digits), batch_size=4, steps=7, rank=1, num_ranks=2)
        loader.start, calls = 1, []
        monkeypatch.setattr(
            SyncMNIST, "videos", lambda self, visits: calls.append(len(visits)) or plain(self, visits)
        )
        return list(loader), calls

    plain = SyncMNIST.videos
    expected, one_by_one = batches()
    monkeypatch.setitem(AT_ONCE, "cpu", 6)  # of each process
    found, together = batches()
    assert one_by_one == [2, 1, 2, 2, 1, 2] and together == [5, 5]
    for (clips, labels), (same_clips, same_labels) in zip(found, expected, strict=True):
        assert torch.equal(clips, same_clips) and torch.equal(labels, same_labels)


def test_shuffles_anew_every_epoch(digits):
    loader = VideoLoader(make(digits), batch_size=5, steps=6, shuffle=True, seed=1)
    epochs = [torch.cat([loader.visits(2 * e), loader.visits(2 * e + 1)]) for e in range(3)]
    for epoch, order in enumerate(epochs):
        assert order.sort().values.tolist() == list(range(10 * epoch, 10 * (epoch + 1)))
    orders = [order % 10 for order in epochs]
    assert not torch.equal(orders[0], orders[1]) and not torch.equal(orders[1], orders[2])
    other = VideoLoader(make(digits), batch_size=5, steps=6, shuffle=True, seed=2)
    assert not torch.equal(other.visits(0), loader.visits(0))


def test_videos_of_a_curriculum_come_first_in_any_order(digits):
    dataset = SyncMNIST(digits, "train", 10, num_digits=5, curriculum=0.6)
    loader = VideoLoader(dataset, batch_size=2, steps=10, shuffle=True, seed=1)
    epochs = torch.cat([loader.visits(step) for step in range(10)]).view(2, 10) % 10
    for epoch in epochs:
        assert sorted(epoch[:6].tolist()) == [0, 1, 2, 3, 4, 5]
        assert sorted(epoch[6:].tolist()) == [6, 7, 8, 9]
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[0], epochs[0].sort().values)


class ToldToStop(torch.utils.data.Dataset):
    """Every item comes after a Ctrl-C, which a terminal sends to all processes."""

    def __len__(self):
        return 4

    def __getitem__(self, item):
        os.kill(os.getpid(), signal.SIGINT)
        return torch.zeros(1, 2, 2, 2, dtype=torch.uint8), item


def test_workers_leave_ctrl_c_to_the_training(capfd):
    before = signal.signal(signal.SIGINT, lambda number, frame: print("stopping", flush=True))
    try:
        assert [len(labels) for _, labels in VideoLoader(ToldToStop(), 2, num_workers=1)] == [2, 2]
    finally:
        signal.signal(signal.SIGINT, before)
    assert "stopping" not in capfd.readouterr().out


def test_resumes_with_the_next_batch(digits):
    whole = [c for c, _ in VideoLoader(make(digits), 3, steps=8, shuffle=True)]
    first = VideoLoader(make(digits), 3, steps=8, shuffle=True)
    iterator = iter(first)
    for _ in range(5):
        next(iterator)
    second = VideoLoader(make(digits), 3, steps=8, shuffle=True)
    second.load_state_dict(first.state_dict())
    rest = [c for c, _ in second]
    assert len(rest) == 3
    assert all(torch.equal(a, b) for a, b in zip(whole[5:], rest))
    assert len(list(second)) == 8  # the next time from the beginning


def test_workers_give_the_same_batches(digits):
    kwargs = dict(batch_size=4, steps=4, shuffle=True, seed=5)
    for a, b in zip(
        VideoLoader(make(digits), **kwargs), VideoLoader(make(digits), **kwargs, num_workers=2)
    ):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_ranks_share_every_batch(digits):
    parts = [VideoLoader(make(digits), 4, rank=r, num_ranks=3) for r in range(3)]
    seen = torch.cat([loader.visits(step) for step in range(3) for loader in parts])
    assert seen.sort().values.tolist() == list(range(10))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_rank_without_a_video_in_the_last_batch(digits, num_workers):
    dataset = make(digits, num_videos=9)
    ranks = [VideoLoader(dataset, 4, num_workers=num_workers, rank=r, num_ranks=2) for r in range(2)]
    labels = [[labels.tolist() for _, labels in loader] for loader in ranks]
    assert [len(batch) for batch in labels[0]] == [2, 2, 1]
    assert [len(batch) for batch in labels[1]] == [2, 2, 1]
    assert labels[1][-1] == [UNREAD]
    assert all(UNREAD not in batch for batch in labels[0] + labels[1][:-1])


def test_data_workers_do_not_draw_from_the_generator_of_the_training(digits):
    states = []
    for num_workers in (0, 1):
        torch.manual_seed(0)
        list(VideoLoader(make(digits), 4, num_workers=num_workers))
        list(VideoLoader(Videos(), 4, num_workers=num_workers))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


class Videos(torch.utils.data.Dataset):
    """Ten numbered videos of which some cannot be read."""

    def __init__(self, fail=lambda item: None):
        self.fail = fail
        self.ids = [f"no-{i}" for i in range(10)]

    def __len__(self):
        return 10

    def __getitem__(self, visit):
        self.fail(visit % 10)
        return torch.tensor([visit]), visit % 10


@pytest.mark.parametrize("num_workers", [0, 2])
def test_visits_of_later_epochs(num_workers):
    loader = VideoLoader(Videos(), 5, steps=4, num_workers=num_workers)
    clips = torch.cat([clips for clips, _ in loader]).flatten()
    assert clips.tolist() == list(range(20))


def unreadable(item):
    if item == 7:
        raise UserError("video-7: truncated")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_users_error_in_a_worker_arrives_without_its_traceback(num_workers):
    with pytest.raises(UserError) as e:
        list(VideoLoader(Videos(unreadable), 2, num_workers=num_workers))
    assert str(e.value) == "video-7: truncated"


def dies(item):
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)


def hangs(item):
    if item == 3:
        time.sleep(60)


@pytest.mark.parametrize("fail", [dies, hangs])
def test_a_worker_that_dies_or_hangs_is_named_with_its_videos(fail):
    loader = VideoLoader(Videos(fail), 2, num_workers=1, timeout=2)
    with pytest.raises(UserError, match="worker died or hung .* were at video no-3;"):
        list(loader)


def test_other_errors_of_a_data_set_are_not_hidden():
    def fail(item):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(VideoLoader(Videos(fail), 2))
