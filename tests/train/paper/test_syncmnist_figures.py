import json
import math

import pytest
import torch
from helpers.results import TINY_ROW

from rstg_pyg.graphs import multiscale_grid
from rstg_pyg.train.config import load_config
from rstg_pyg.train.data.syncmnist import Videos
from rstg_pyg.train.drawing.overlay import Attention
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.paper.syncmnist_figures import (
    accuracy_by_videos,
    by_distance,
    pair_distance,
    places,
    split_attention,
    write_figures,
)
from rstg_pyg.train.run import main
from rstg_pyg.train.training.pretrain import map_cells


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for row in ("ours", "mean_lstm"):
        assert main(["--cfg", f"syncmnist/{row}.yaml", *TINY_ROW, "--out", str(folder / row)]) == 0
    return folder


@pytest.mark.slow
def test_pictures_and_their_numbers(runs, tmp_path):
    numbers = write_figures([runs / "ours", runs / "mean_lstm"], tmp_path, 30)
    for name in ("curves", "distance", "attention"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "figures.json").read_text()) == numbers
    assert numbers["curves"]["ours, seed 0"]["videos"] == [48, 96]  # 3 and 6 steps of 16
    assert sum(b["videos"] for b in numbers["distance"]["mean_lstm, seed 0"]) <= 30
    assert len(numbers["attention"]["pair"]["mean"]) == 3
    assert (
        numbers["attention"]["rounds"]
        == load_config(str(runs / "ours/config.yaml")).model.rstg.num_rounds
    )


@pytest.mark.slow
def test_without_messages_there_is_no_attention(runs, tmp_path):
    assert write_figures([runs / "mean_lstm"], tmp_path, 5)["attention"] is None
    assert not (tmp_path / "attention.png").exists()


def test_accuracy_by_videos_seen(tmp_path):
    config = load_config("syncmnist/ours.yaml", ["train.batch_size=8"])
    (tmp_path / "metrics.csv").write_text(
        "step,split,loss,top1\n10,train,2,0.1\n10,val,2,0.25\n20,val,1,0.5\n"
    )
    assert accuracy_by_videos(tmp_path, config) == {"videos": [80, 160], "top1": [0.25, 0.5]}
    (tmp_path / "metrics.csv").write_text("step\n1\n")
    with pytest.raises(UserError, match="not the metrics of a run"):
        accuracy_by_videos(tmp_path, config)


def test_accuracy_by_distance():
    distance = torch.tensor([0.4, 0.1, 0.3, 0.2, 0.5])
    correct = torch.tensor([True, False, True, True, False])
    low, high = by_distance(distance, correct, bins=2)
    assert (low["videos"], high["videos"]) == (3, 2)
    assert (low["low"], low["high"]) == pytest.approx((0.1, 0.3))
    assert low["distance"] == pytest.approx(0.2) and high["distance"] == pytest.approx(0.45)
    assert (low["top1"], high["top1"]) == pytest.approx((2 / 3, 0.5))
    assert low["error"] == pytest.approx(math.sqrt(2 / 9 / 3))
    assert by_distance(distance[:0], correct[:0]) == []


def test_distance_of_the_pair():
    """3 and 4 cells apart in the first frame, in the same place in the second."""
    corners = torch.tensor([[[[0, 0], [3, 4], [9, 9]], [[5, 5], [5, 5], [0, 0]]]])
    videos = Videos(*[torch.zeros(1)] * 3, corners, torch.ones(1))
    config = load_config("syncmnist/ours.yaml")  # a canvas of 32
    assert pair_distance(videos, config).tolist() == pytest.approx([2.5 / 32])


def test_where_digits_are_on_the_map():
    """Mini: 32 pixels, three convolutions without padding and two poolings; 4 cells, the first of
    which is centered at pixel 9, the next 4 pixels on.
    """
    config = load_config("syncmnist/ours.yaml")
    side, first, stride = map_cells(config)
    assert (side, first, stride) == (4, 9.0, 4.0)
    center = torch.tensor([[9.0, 13.0], [0.0, 32.0]]) - 6  # half a digit
    assert places(center[None], config)[0].tolist() == [[0.125, 0.375], [0.0, 1.0]]
    other = load_config("syncmnist/i3d.yaml")
    assert places(center[None], other)[0, 1].tolist() == [0.0, 1.0]


def test_attention_of_regions_by_what_they_hold():
    """All that the other cells of a 2 x 2 grid give goes to cell 0 in frame 0, to cell 3 in frame 1."""
    grid = multiscale_grid((2, 1))
    source = grid.edge_index[0]
    alpha = torch.stack([(source == 0).float(), (source == 3).float()])
    alpha = alpha[None, ..., None]  # one round, one head
    found = Attention("head", ((2, 2), (1, 1)), grid.region, grid.node_type, grid.edge_index, alpha)
    relative = found.relative()[:, :4]
    top_left, top_right, bottom_left = [0.1, 0.1], [0.1, 0.9], [0.9, 0.1]
    # The pair in cells 0 and 1; another digit in 2, and in frame 1 in 1, too.
    centers = torch.tensor(
        [[top_left, top_right, bottom_left, bottom_left], [top_left, top_right, bottom_left, top_right]]
    )
    pair, others, empty = split_attention(found, centers)
    assert pair.tolist() == pytest.approx([float(relative[0, :2].mean()), float(relative[1, 0])])
    assert others.tolist() == pytest.approx([0.0, 0.0])
    assert empty.tolist() == pytest.approx([0.0, float(relative[1, 3])])
    assert relative[0, 0] > 1 and relative[1, 3] > 1
    all_over = torch.tensor([[[0.1, 0.1], [0.1, 0.9], [0.9, 0.1], [0.9, 0.9]]]).expand(2, -1, -1)
    assert split_attention(found, all_over)[2].isnan().all()
