import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from rstg_pyg.train.data.mini import files as mini_something
from rstg_pyg.train.data.mini.clips import SPLITS, MiniSomething
from rstg_pyg.train.data.mini.files import write_mini_something
from rstg_pyg.train.data.mini.scenes import EVENTS, Draws, Stage
from rstg_pyg.train.errors import UserError

SMALL = dict(size=24, num_frames=4)
COUNTS = dict(train=40, validation=20, test=3)
NAMES = list(EVENTS)
MIRRORED = [(a, b) for a, b in zip(NAMES[::2], NAMES[1::2]) if EVENTS[b].reverse]
assert len(NAMES) == 20 and len(MIRRORED) == 8  # most classes need the order of frames


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_mini_something(tmp_path_factory.mktemp("data") / "mini", **COUNTS, **SMALL)


def listed(root, name):
    text = (root / f"something-something-v1-{name}.csv").read_text(encoding="utf-8")
    assert text.endswith("\n")
    return text.splitlines()


def frames_of(root, number):
    return sorted((root / "20bn-something-something-v1" / str(number)).iterdir())


def test_layout(root):
    labels = listed(root, "labels")
    assert sorted(EVENTS) == labels and len(labels) >= 12
    rows = [line.split(";") for split in ("train", "validation") for line in listed(root, split)]
    assert all(len(row) == 2 and row[1] in labels for row in rows)
    numbers = [row[0] for row in rows] + listed(root, "test")
    assert numbers == [str(i) for i in range(1, 64)]
    assert {p.name for p in (root / "20bn-something-something-v1").iterdir()} == set(numbers)
    for number in numbers:
        assert [p.name for p in frames_of(root, number)] == [f"{i:05d}.jpg" for i in range(1, 5)]
    with Image.open(frames_of(root, 1)[0]) as image:
        assert image.format == "JPEG" and image.mode == "RGB" and image.size == (24, 24)
    assert json.loads((root / "mini-something.json").read_text())["seed"] == 0
    assert len(list(root.iterdir())) == 6
    for counts in (Counter(row[1] for row in rows[:40]), Counter(row[1] for row in rows[40:])):
        assert counts.keys() == EVENTS.keys() and len(set(counts.values())) == 1  # balanced


def test_a_clip_is_the_same_alone_and_in_the_set(root):
    clips = MiniSomething(**SMALL)
    for split, item, number in (("train", 7, 8), ("validation", 19, 60), ("test", 0, 61)):
        clip = clips.render(split, item)
        written = np.stack([np.asarray(Image.open(p)) for p in frames_of(root, number)])
        assert clip.shape == written.shape == (4, 24, 24, 3) and clip.dtype == np.uint8
        assert np.abs(clip.astype(int) - written).mean() < 12  # JPEG


def test_the_same_parameters_give_the_same_files(root, tmp_path, monkeypatch):
    monkeypatch.setattr("rstg_pyg.train.data.mini.files._FEW", 0)  # in two processes
    again = write_mini_something(tmp_path / "again", **COUNTS, **SMALL)
    files = [p.relative_to(root) for p in sorted(root.rglob("*")) if p.is_file()]
    assert files == [p.relative_to(again) for p in sorted(again.rglob("*")) if p.is_file()]
    assert all((root / p).read_bytes() == (again / p).read_bytes() for p in files)


def test_pixels_are_those_of_any_other_machine():
    """If this fails after a change of the scenes, give ``VERSION`` the next number."""
    clips = MiniSomething()
    digest = hashlib.sha256()
    for item in range(len(EVENTS)):
        digest.update(clips.render("train", item).tobytes())
    assert (mini_something.VERSION, digest.hexdigest()[:16]) == (1, "fe42bf6ee1c2676f")


def test_splits_seeds_and_items_differ():
    clips = MiniSomething(**SMALL)
    shown = [clips.render(split, item, NAMES[0]) for split in SPLITS for item in (0, 1, 20)]
    shown.append(MiniSomething(**SMALL, seed=1).render("train", 0, NAMES[0]))
    for i, one in enumerate(shown):
        for other in shown[:i]:
            assert np.abs(one.astype(int) - other).mean() > 5


@pytest.mark.parametrize("one, other", MIRRORED)
def test_a_reversible_pair_has_the_same_frames(one, other):
    clips = MiniSomething(**SMALL)
    forth, back = clips.render("train", 3, one), clips.render("train", 3, other)
    assert np.array_equal(forth, back[::-1])
    assert np.abs(forth[0].astype(int) - forth[-1]).mean() > 2  # and something happens


def paths(label, item=0, num_frames=24):
    """The objects of a scene, in the direction of the clip."""
    event = EVENTS[label]
    bodies = event.scene(Stage(Draws(5, item), num_frames))
    step = -1 if event.reverse else 1
    return [(body.center[::step], body.radius[::step]) for body in bodies]


@pytest.mark.parametrize("item", range(10))
def test_what_happens_is_what_the_label_says(item):
    def moved(label):
        center = paths(label, item)[-1][0]
        return center[-1] - center[0]

    def gap(label):
        """Space between the two objects, in sides of the frame."""
        (a, r), (b, s) = paths(label, item)
        return np.sqrt(((a - b) ** 2).sum(1)) - r - s

    assert moved("Moving something up")[1] < -0.4 and moved("Moving something down")[1] > 0.4
    assert moved("Pushing something from left to right")[0] > 0.4
    assert moved("Pushing something from right to left")[0] < -0.4
    radius = paths("Moving something toward the camera", item)[0][1]
    assert radius[-1] > 2 * radius[0]
    for closer in (
        "Moving something closer to something",
        "Moving something and something closer to each other",
    ):
        assert gap(closer)[0] > 0.2 and 0 < gap(closer)[-1] < 0.08 and gap(closer).min() > 0
    assert gap("Moving something away from something")[-1] > 0.2
    collide = gap("Moving something and something so they collide with each other")
    assert min(collide[0], collide[-1]) > 0.2 and abs(collide.min()) < 0.05
    assert gap("Moving something and something so they pass each other").min() < -0.02
    (one, _), _ = paths("Moving something and something so they pass each other", item)
    assert np.abs(one[-1] - one[0]).max() > 0.4
    (target, _), _ = paths("Poking something so it slightly moves", item)
    assert 0.05 < np.abs(target[-1] - target[0]).max() < 0.2
    (target, _), _ = paths("Pretending to poke something", item)
    assert (target == target[0]).all()
    center, radius = paths("Putting something on a surface", item)[0]
    assert (np.abs(center[0] - 0.5) - radius[0]).max() > 0.5
    assert (np.abs(center[-1] - 0.5) + radius[-1]).max() < 0.5


def test_knobs():
    still = MiniSomething(**SMALL, shake=0, noise=0, distractors=0)
    clip = still.render("train", 0, "Pretending to poke something").astype(int)
    assert ((clip == clip[0]).all(axis=(0, 3))).mean() > 0.4  # what nothing passes over stays
    assert MiniSomething(size=33, num_frames=2, distractors=3).render("test", 0).shape == (2, 33, 33, 3)


@pytest.mark.parametrize("name, value", [("size", 4), ("num_frames", 1), ("seed", -1), ("train", -1)])
def test_numbers_out_of_range(tmp_path, name, value):
    with pytest.raises(UserError, match=str(value)):
        write_mini_something(tmp_path / "mini", **{**SMALL, "validation": 0, name: value})
    assert list(tmp_path.iterdir()) == []


def test_a_complete_folder_is_used_and_never_written(root):
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert write_mini_something(root, **COUNTS, **SMALL) == root
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


def test_another_or_an_incomplete_folder_is_an_error(root, tmp_path):
    with pytest.raises(UserError, match=r"seed=0 instead of 1.*choose another folder"):
        write_mini_something(root, **COUNTS, **SMALL, seed=1)
    counts = dict(train=2, validation=1)
    own = write_mini_something(tmp_path / "own", **counts, **SMALL)
    assert not (own / "something-something-v1-test.csv").exists()
    (own / "mini-something.json").write_text("{")
    with pytest.raises(UserError, match=r"no readable mini-something.json"):
        write_mini_something(own, **counts, **SMALL)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="file"):
            write_mini_something(path, **counts, **SMALL)
    (tmp_path / "empty").mkdir()
    assert write_mini_something(tmp_path / "empty", **counts, **SMALL).is_dir()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interruption_leaves_nothing(tmp_path, monkeypatch, error):
    write, calls = mini_something._write_clip, []

    def broken(*args):
        calls.append(args)
        if len(calls) > 3:
            raise error
        write(*args)

    monkeypatch.setattr(mini_something, "_write_clip", broken)
    expected = UserError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left" if expected is UserError else None):
        write_mini_something(tmp_path / "mini", train=30, validation=0, **SMALL)
    assert list(tmp_path.iterdir()) == []
