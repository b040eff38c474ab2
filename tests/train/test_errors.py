"""Words of messages, and the numbers of things in what commands print."""

import pytest
from helpers.tiny_predictor import write_video

from rstg_pyg.train.data.check import check
from rstg_pyg.train.errors import counted
from rstg_pyg.train.predictor import Predictor
from rstg_pyg.train.run_folder.printed import _time


@pytest.mark.parametrize(
    ("number", "words", "text"),
    [
        (0, ["step"], "0 steps"),
        (1, ["step"], "1 step"),
        (1200, ["step"], "1,200 steps"),
        (1, ["class", "classes"], "1 class"),
        (2, ["class", "classes"], "2 classes"),
        (1, ["video is", "videos are"], "1 video is"),
    ],
)
def test_counted(number, words, text):
    assert counted(number, *words) == text


def test_one_of_a_thing_is_not_several(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    write_video(tmp_path / "train" / "a" / "1.mp4")
    assert "train: 1 video;" in check(tmp_path).text()
    assert _time({"seconds": 6.0, "steps": 1}) == "0.1 minutes, 1 step"
    predictor = Predictor.load("smt_demo", "cpu")
    predictor.num_frames, predictor.names = 1, ["a"]
    assert "smt_demo: 1 class; " in predictor.describe() and " of 1 frame (" in predictor.describe()
