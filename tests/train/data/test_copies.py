"""Videos that are the same file, by a link or as a copy, do not come into two splits."""

import shutil

import pytest
from helpers.video_folders import found, problem

from rstg_pyg.train.data.check import check
from rstg_pyg.train.data.folder import read_folder

pytestmark = pytest.mark.usefixtures("cache")


def test_the_same_file_in_two_splits(root):
    shutil.copy(root / "train/a/0.mp4", root / "val/a/copy.mp4")
    problem(root, "1 video is in two splits: train/a/0.mp4 (train) and val/a/copy.mp4 (val)")
    (root / "val/a/link.mp4").symlink_to(root / "train/b/1.mp4")
    assert "2 videos are in two splits" in problem(root, "and 1 more")
    assert "2 videos are in two splits" in check(root).text()


def test_the_same_file_below_a_folder_that_the_lists_do_not_name(root):
    (root / "train").rename(root / "videos")
    (root / "train.csv").write_text("a/0.mp4,a\na/1.mp4,a\n")
    (root / "val.csv").write_text("a/1.mp4,a\n")
    problem(root, "val.csv, line 1: a/1.mp4 is there twice (first in", "train.csv, line 2)")
    (root / "val.csv").write_text("b/copy.mp4,a\n")
    shutil.copy(root / "videos/a/1.mp4", root / "videos/b/copy.mp4")
    problem(root, "a/1.mp4 (train) and b/copy.mp4 (val) are the same file")


def test_copies_do_not_come_to_both_sides_of_val_fraction(root):
    shutil.rmtree(root / "val")
    for number in range(3):
        shutil.copy(root / f"train/a/{number}.mp4", root / f"train/a/{number} (1).mp4")
    listing = read_folder(root)
    kept = [name for name in found(root)["train"] if name.startswith("train/a")]
    assert sorted(kept) == [f"train/a/{number} (1).mp4" for number in range(3)]
    assert listing.notes == [
        f"{root}: 3 videos of train are copies of others and not used: train/a/0.mp4 of "
        "train/a/0 (1).mp4, and 2 more"
    ]
    assert len(listing.part("train", 0.5)) + len(listing.part("val", 0.5)) == 6
    shutil.copy(root / "train/a/1.mp4", root / "train/b/1 (2).mp4")
    problem(root, "train/b/1 (2).mp4 are the same file, of two classes; remove one")
