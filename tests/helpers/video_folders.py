"""What is found in a folder of videos, and what is said of one that is no data set."""

import os

import pytest

from rstg_pyg.train.data.folder import VideoFolder, read_folder
from rstg_pyg.train.errors import UserError

SMALL = dict(num_frames=4, short_side=24, crop_size=20)


def found(root):
    """The names of the classes of all videos, by split and id."""
    listing = read_folder(root)
    assert not listing.problems, listing.problems
    return {
        split: {video.id: listing.classes[video.label] for video in videos}
        for split, videos in listing.splits.items()
    }


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(os.fsencode(name))


def problem(root, *words):
    """The one line that is said of a data set, by the data set and by the check."""
    with pytest.raises(UserError) as e:
        VideoFolder(root, **SMALL)
    message = str(e.value)
    assert len(message.splitlines()) == 1 and all(word in message for word in words), message
    return message
