"""The filters alone: their loss cell by cell, and that they learn."""

import pytest
import torch
from helpers.tiny_run import tiny_config

from rstg_pyg.backbones import SimpleConv
from rstg_pyg.train.build import build_dataset, build_model, normalize
from rstg_pyg.train.config import parse_config
from rstg_pyg.train.data.syncmnist import SyncMNIST
from rstg_pyg.train.training.pretrain import Filters, map_cells, pretrain


def made(**sections):
    """A config, and its network."""
    config = parse_config(tiny_config(**sections), "test")
    torch.manual_seed(0)
    return config, build_model(config, 4)


def by_hand(filters, config, clips, digits, corners):
    """Loss and accuracy, from the docstring."""
    data = config.data
    (side, first, stride) = map_cells(config)
    moving = config.model.backbone.difference
    maps = filters.readout(filters.backbone(normalize(clips, config))[:, :, -1])
    assert maps.shape == (len(clips), 1 + (5 if moving else 3) * data.num_classes, side, side)
    loss, right = 0.0, 0
    for b, (kinds, places) in enumerate(zip(digits.tolist(), corners[:, -1])):
        steps = places - corners[b, 0]  # of two frames
        steps = steps * (data.frame_size / data.canvas_size / stride)
        logs = maps[b, : 1 + data.num_classes].log_softmax(0)
        scores = torch.zeros(len(kinds), data.num_classes)
        for y in range(side):
            for x in range(side):
                held = 0.0
                moved = torch.zeros(2 * data.num_classes)
                for d, kind in enumerate(kinds):
                    pixels = (places[d] + data.digit_size / 2) * (data.frame_size / data.canvas_size)
                    off_y, off_x = ((pixels - first) / stride - torch.tensor([y, x])).tolist()
                    near = max(0.0, 1 - abs(off_y)) * max(0.0, 1 - abs(off_x))
                    if near == 0:
                        continue
                    held += near
                    loss -= near * logs[1 + kind, y, x]
                    shifts = maps[b, 1 + data.num_classes :, y, x]
                    loss += (shifts[kind] - off_y) ** 2 + (shifts[data.num_classes + kind] - off_x) ** 2
                    scores[d] += near * logs[1:, y, x].detach()
                    moved[kind], moved[data.num_classes + kind] = near * steps[d]
                loss -= 0.1 * max(0.0, 1 - held) * logs[0, y, x]
                if moving:
                    loss += (maps[b, 1 + 3 * data.num_classes :, y, x] - moved).square().sum()
        right += (scores.argmax(1) == torch.tensor(kinds)).sum().item()
    return loss / digits.numel(), right / digits.numel()


@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"backbone": {"filters": [4, 4, 8]}}},
        {"data": {"frame_size": 24}},
        {"model": {"backbone": {"pool": False, "padding": 0}}},
        {"model": {"backbone": {"difference": True}}},
    ],
    ids=["three stages", "larger than the canvas", "every pixel", "steps"],
)
def test_the_loss(sections):
    config, model = made(**sections)
    count = 1 + config.model.backbone.difference
    videos = build_dataset(config, "train", num_frames=count).videos(torch.arange(5))
    batch = videos.clips, videos.classes, videos.corners
    filters = Filters(model.backbone, config)
    loss, accuracy = filters(*batch)
    expected, right = by_hand(filters, config, *batch)
    torch.testing.assert_close(loss, expected)
    assert accuracy.item() == pytest.approx(right)


@pytest.mark.slow
def test_only_the_filters_learn_and_they_recognize_digits(tmp_path):
    config, model = made(
        model={"backbone": {"filters": [16, 16]}}, pretrain={"steps": 60, "batch_size": 64, "lr": 0.02}
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = pretrain(model, config, torch.device("cpu"))
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {name for name in before if name.startswith("backbone.")}
    assert found["steps"] == 60 and found["seconds"] > 0
    assert found["accuracy"] > 0.6  # of 3 classes

    again = build_model(config, 4)
    again.load_state_dict(before)
    one_step = config.model_copy(update={"pretrain": config.pretrain.model_copy(update={"steps": 1})})
    first = pretrain(again, one_step, torch.device("cpu"))
    assert found["loss"] < 0.7 * first["loss"]


def test_every_step_has_videos_of_its_own(tmp_path, monkeypatch):
    config, model = made(pretrain={"steps": 3, "batch_size": 4})
    seen, videos = [], SyncMNIST.videos
    monkeypatch.setattr(
        SyncMNIST, "videos", lambda self, visits: seen.append(visits.tolist()) or videos(self, visits)
    )
    pretrain(model, config, torch.device("cpu"))
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


@pytest.mark.parametrize("backbone", [{"padding": 1}, {"padding": 0}, {"pool": [True, False, False]}])
def test_where_the_cells_of_the_map_are(backbone):
    """A cell's center is that of the pixels that it depends on."""
    backbone = {"filters": [2, 3, 4], **backbone}
    config = parse_config(
        {"data": {"frame_size": 48}, "model": {"backbone": backbone, "rstg": {"scales": [1]}}}, "x"
    )
    side, first, stride = map_cells(config)
    clip = torch.rand(1, 1, 1, 48, 48, requires_grad=True)
    maps = build_model(config, 3).backbone(clip)
    assert maps.shape[-2:] == (side, side)
    cell = side // 2  # not at the border, where padding cuts the pixels off
    stage = SimpleConv(1, [2, 3, 4], config.model.backbone.padding, config.model.backbone.pool)
    for parameter in stage.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    used = []
    for row in range(48):
        pixels = torch.zeros(1, 1, 1, 48, 48)
        pixels[..., row, :] = 1
        with torch.no_grad():
            change = (stage(pixels) - stage(torch.zeros_like(pixels))).abs()
        used += [row] if change[0, :, 0, cell].amax() > 1e-7 else []
    assert (used[0] + used[-1] + 1) / 2 == first + stride * cell
