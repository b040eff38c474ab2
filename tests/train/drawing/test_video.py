import json
import re

import numpy as np
import pytest
import torch
from helpers.tiny_predictor import write_checkpoint, write_frames, write_video

from rstg_pyg.train.data.sources import open_video
from rstg_pyg.train.drawing.video import video_page
from rstg_pyg.train.predictor import Predictor


def content(predictor, path):
    video = open_video(path)
    text = video_page(predictor, video, predictor.attention(video), "The title")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1))


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["center1", "full3x2"])
def test_the_page_of_a_video(tmp_path, protocol):
    write_checkpoint(tmp_path / "x.ckpt")
    write_video(tmp_path / "a.mp4")
    predictor = Predictor.load(tmp_path / "x.ckpt", "cpu", protocol)
    found = content(predictor, tmp_path / "a.mp4")
    assert (
        len(found["frames"]) == 9 and found["steps"] == predictor.times(tmp_path / "a.mp4")[0].tolist()
    )
    assert found["seconds"] == pytest.approx(np.arange(9) / 10)
    # Frames of 30 x 40 pixels are resized to 24 x 32; the center crop of 20 (or 24) is seen.
    size = 20 if protocol == "center1" else 24
    regions = np.array(found["regions"])
    low, high = regions[:, :2].min(0), regions[:, 2:].max(0)
    np.testing.assert_allclose(low, [(16 - size / 2) / 32, (12 - size / 2) / 24], atol=1e-4)
    np.testing.assert_allclose(high - low, [size / 32, size / 24], atol=1e-4)
    assert len(found["layers"]) == 2 and found["names"][-1] == "whole frame"
    best = predictor(tmp_path / "a.mp4")
    assert found["classes"] == [p.name for p in best]
    assert found["probabilities"][-1] == pytest.approx([p.probability for p in best], abs=1e-4)
    assert len(found["probabilities"]) == (4 if protocol == "center1" else 1)


def test_the_page_names_the_network_that_was_given(tmp_path):
    write_checkpoint(tmp_path / "mine/checkpoints/best.ckpt")
    write_frames(tmp_path / "frames", 4)
    found = content(Predictor.load(tmp_path / "mine", "cpu"), tmp_path / "frames")
    assert f" of {tmp_path / 'mine'} (trained with the config tiny), which sees" in found["subtitle"]


@pytest.mark.slow
def test_short_and_long_videos(tmp_path):
    write_checkpoint(tmp_path / "x.ckpt")
    predictor = Predictor.load(tmp_path / "x.ckpt", "cpu")
    write_frames(tmp_path / "short", 2)  # the network sees frames more than once
    found = content(predictor, tmp_path / "short")
    assert found["steps"] == [0, 1, 2, 3]
    assert [c.split(",")[0] for c in found["captions"]] == [f"frame {i} of 2" for i in (1, 1, 2, 2)]
    write_frames(tmp_path / "long", 400)
    found = content(predictor, tmp_path / "long")
    seen = predictor.times(tmp_path / "long")[0]
    assert 150 <= len(found["frames"]) <= 154 and torch.tensor(found["steps"]).diff().min() > 20
    assert [found["captions"][step] for step in found["steps"]] == [
        f"frame {i + 1} of 400" for i in seen
    ]
