import collections
import itertools
import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from rstg_pyg.train.data.syncmnist import Digits, SyncMNIST, painting, videos
from rstg_pyg.train.errors import UserError

SMALL = dict(num_frames=4, frame_size=16, canvas_size=30, digit_size=10, max_step=4)


def make(digits, split="train", num_videos=10_000, **kwargs):
    return SyncMNIST(digits, split, num_videos, **{**SMALL, **kwargs})


def test_published_defaults(digits):
    dataset = SyncMNIST(digits, "train", 600_000)
    clip, label = dataset[599_999]
    assert clip.shape == (1, 10, 64, 64) and clip.dtype == torch.uint8
    assert dataset.num_labels == 46 and 0 <= label < 46
    assert dataset.none_probability == pytest.approx(1 / 92)
    assert len(dataset) == 600_000
    assert clip.amax() == 255 and clip.amin() == 0


def test_an_item_is_the_same_video_alone_and_in_any_batch(digits):
    dataset = make(digits, seed=3)
    batch = dataset.videos(torch.arange(40))
    again = make(digits, seed=3).videos([7, 39, 0])
    for i, item in enumerate([7, 39, 0]):
        assert torch.equal(batch.clips[item], again.clips[i])
        clip, label = dataset[item]
        assert torch.equal(clip, batch.clips[item]) and label == batch.labels[item]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_item_is_the_same_video_in_a_copy_and_any_worker(digits, workers):
    dataset = make(digits, num_videos=24)
    copy = pickle.loads(pickle.dumps(dataset))
    clips = torch.cat([c for c, _ in DataLoader(copy, batch_size=5, num_workers=workers)])
    assert torch.equal(clips, dataset.videos(torch.arange(24)).clips)


def test_seed_and_split_change_the_videos(digits):
    first = make(digits, seed=0).videos(torch.arange(50)).corners
    assert not torch.equal(first, make(digits, seed=1).videos(torch.arange(50)).corners)
    assert not torch.equal(first, make(digits, "val").videos(torch.arange(50)).corners)


def test_digits_of_a_video(digits):
    dataset = make(digits, num_digits=4, num_classes=6)
    videos = dataset.videos(torch.arange(300))
    classes = videos.classes
    assert classes.max() == 5
    assert all(len(set(row)) == 4 for row in classes.tolist())
    # The first digit goes through the images in order, as published.
    kept = digits.labels[digits.labels < 6]
    assert torch.equal(classes[:, 0], kept[:300])
    assert torch.equal(dataset.videos([len(kept) + 5]).classes[:, 0], kept[5:6])
    # The others are uniform over the other classes.
    counts = classes[:, 1:].flatten().bincount(minlength=6).float()
    assert counts.min() > 0.7 * counts.mean()


def test_a_curriculum_shows_three_digits_first(digits):
    size = dict(canvas_size=64, frame_size=64, num_digits=5, num_videos=20)
    plain, eased = make(digits, **size), make(digits, **size, curriculum=0.45)
    assert "in the first 9 of them 3 visible" in eased.describe() and "visible" not in plain.describe()
    ours, theirs = eased.videos(torch.arange(20)), plain.videos(torch.arange(20))
    for field in ("labels", "classes", "corners", "synchronous"):
        assert torch.equal(getattr(ours, field), getattr(theirs, field))
    assert torch.equal(ours.clips[9:], theirs.clips[9:])
    lit = 0
    for clip, corners in zip(ours.clips[:9, 0], ours.corners):  # [T, 64, 64], [T, D, 2]
        for frame, places in zip(clip, corners.tolist()):
            seen = torch.zeros(64, 64, dtype=torch.bool)
            for row, column in places[:3]:
                seen[row : row + 10, column : column + 10] = True
            assert frame[~seen].max() == 0
            lit += sum(int(frame[r : r + 10, c : c + 10].max() > 0) for r, c in places[:3])
    assert lit == 9 * 4 * 3
    assert all((a != b).any() for a, b in zip(ours.clips[:9], theirs.clips[:9]))
    assert make(digits, num_digits=3, curriculum=0.45).num_first == 0  # all are visible


def test_the_label_follows_from_the_trajectories(digits):
    dataset = make(digits, num_digits=3, num_classes=5, num_frames=8, none_probability=0.3)
    videos = dataset.videos(torch.arange(500))
    steps = videos.corners.diff(dim=1)  # [B, T - 1, D, 2]
    for b in range(500):
        alike = [
            (i, j) for i in range(3) for j in range(i) if torch.equal(steps[b, :, i], steps[b, :, j])
        ]
        if not alike:
            assert videos.labels[b] == dataset.num_labels - 1 and not videos.synchronous[b]
        else:
            assert alike == [(1, 0)] and videos.synchronous[b]
            low, high = sorted(videos.classes[b, :2].tolist())
            assert videos.labels[b] == high * (high - 1) // 2 + low
    assert 0.2 < 1 - videos.synchronous.float().mean() < 0.4


@pytest.mark.slow
def test_moves_are_the_published_ones(digits):
    options = dict(num_frames=10, frame_size=8)
    corners = [
        SyncMNIST(digits, "train", 10_000, none_probability=share, **options)
        .videos(range(2000))
        .corners
        for share in (1.0, 0.0)
    ]
    assert corners[0].min() == 0 and corners[0].max() <= 70  # an independent digit never reaches 71
    steps = corners[0].diff(dim=1).float()
    assert steps.min() == -10 and steps.max() == 9
    middle = steps[(corners[0][:, :-1] >= 10) & (corners[0][:, :-1] <= 61)]
    assert abs(middle.mean() + 0.5) < 0.03
    assert abs(middle.var(correction=0) - (20**2 - 1) / 12) < 0.5  # uniform on -10..9
    pair = corners[1][:, :, :2]  # moves as far as both can
    assert pair.min() >= 0 and pair.max() <= 71
    steps = pair.diff(dim=1)
    assert torch.equal(steps[:, :, 0], steps[:, :, 1])
    assert steps.abs().max() <= 10 and steps.float().std() > 2


def moved(places, most, last):
    """The probabilities ``{places: share}`` after a step that all of these places make together."""
    found = {}
    for before, probability in places.items():
        low, high = max(-most, -min(before)), min(most, last - max(before))
        steps = range(low, high) or [0]  # the last one is excluded
        for step in steps:
            after = tuple(place + step for place in before)
            found[after] = found.get(after, 0) + probability / len(steps)
    return found


@pytest.mark.parametrize("together", [1, 2])
def test_digits_are_where_the_published_rules_put_them(digits, together):
    """All probabilities of the first and the second frame, of a single digit and of a pair: they begin
    anywhere, and move before the first frame.
    """
    size = dict(canvas_size=12, digit_size=4, frame_size=12, max_step=3, num_frames=2)
    corners = make(digits, **size, none_probability=0.0).videos(range(4000)).corners
    places = itertools.product(range(8), repeat=together)
    shares = {place: 1 / 8**together for place in places}
    for frame in range(2):
        shares = moved(shares, 3, 7)
        which = corners[:, frame, :2] if together == 2 else corners[:, frame, 2:].flatten(0, 1)[:, None]
        rows = which.transpose(1, 2).flatten(0, 1).tolist()  # both axes are alike
        counts = collections.Counter(map(tuple, rows))
        assert set(counts) <= set(shares)
        for place, share in shares.items():
            error = (share * (1 - share) / len(rows)) ** 0.5
            assert counts[place] / len(rows) == pytest.approx(share, abs=5 * error), place


def test_any_image_of_a_class_takes_part(monkeypatch):
    """Images of one gray each, which tells them apart."""
    gray = torch.arange(20, 80, dtype=torch.uint8)
    labels = torch.arange(60) % 4
    plain = Digits(gray.view(-1, 1, 1).expand(60, 28, 28).clone(), labels, "plain", "")
    seen = []
    monkeypatch.setattr(
        videos, "paint", lambda images, *rest: seen.append(images) or painting.paint(images, *rest)
    )
    found = make(plain, num_digits=3, num_classes=4).videos(range(3000))
    number = torch.cat(seen)[:, :, 0, 0].long() - 20  # [B, D]
    assert torch.equal(labels[number], found.classes)
    assert torch.equal(number[:, 0], torch.arange(3000) % 60)
    counts = number[:, 1:].flatten().bincount(minlength=60)
    assert (counts - 100).abs().max() < 50  # five deviations


def test_label_names(digits):
    dataset = make(digits, num_digits=2, num_classes=4)
    assert dataset.label_names == ["1+0", "2+0", "2+1", "3+0", "3+1", "3+2", "none"]
    videos = dataset.videos(torch.arange(100))
    for row, label in zip(videos.classes.tolist(), videos.labels.tolist()):
        assert dataset.label_names[label] in (f"{max(row)}+{min(row)}", "none")


def test_splits_use_their_own_digits(digits, test_digits):
    train, test = make(digits), make(test_digits, "test")
    assert len(train.images) == len(digits.images)
    seen = {im.numpy().tobytes() for im in train.images}
    unseen = {im.numpy().tobytes() for im in test.images}
    assert len(unseen & seen) <= 1  # tiny digits may coincide once


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_digits=1), "expected 2 to 10 digits"),
        (dict(num_digits=11), "expected 2 to 10 digits"),
        (dict(num_digits=5, num_classes=4), "expected 5 to 10"),
        (dict(num_classes=11), "expected 5 to 10"),
        (dict(digit_size=30), "less than data.canvas_size=30"),
    ],
)
def test_errors(digits, changes, message):
    with pytest.raises(UserError, match=message):
        make(digits, **changes)


def test_visits_of_later_epochs_are_the_same_videos(digits):
    dataset = make(digits, num_videos=10)
    assert torch.equal(dataset[23][0], dataset[3][0])
    assert len(list(dataset)) == 10
    with pytest.raises(IndexError, match="from 0"):
        dataset[-1]
