import torch

from rstg_pyg.train.data.loaders import VideoLoader
from rstg_pyg.train.data.syncmnist import SyncMNIST


def make(digits, num_videos=10):
    return SyncMNIST(digits, "train", num_videos, num_frames=2, frame_size=8, canvas_size=30)


def test_goes_through_everything_once(digits):
    loader = VideoLoader(make(digits), batch_size=4)
    assert len(loader) == 3
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([c for c, _ in batches]), make(digits).videos(range(10)).clips)
    assert len(loader.waits) == 3


def test_shuffles_anew_every_epoch(digits):
    loader = VideoLoader(make(digits), batch_size=5, steps=6, shuffle=True, seed=1)
    epochs = [torch.cat([loader.items(2 * e), loader.items(2 * e + 1)]) for e in range(3)]
    for order in epochs:
        assert order.sort().values.tolist() == list(range(10))
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[1], epochs[2])
    other = VideoLoader(make(digits), batch_size=5, steps=6, shuffle=True, seed=2)
    assert not torch.equal(other.items(0), loader.items(0))


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
    seen = torch.cat([loader.items(step) for step in range(3) for loader in parts])
    assert seen.sort().values.tolist() == list(range(10))
