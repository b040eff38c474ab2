"""The filters alone: their loss cell by cell, and that they learn."""

import pytest
import torch
from helpers.tiny_run import tiny_config

from rstg_pyg.backbones import SimpleConv
from rstg_pyg.train.build import build_dataset, build_model, freeze, normalize
from rstg_pyg.train.config import parse_config
from rstg_pyg.train.data.syncmnist import SyncMNIST
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.training.pretrain import Filters, map_cells, pretrain


def made(**sections):
    """A config, and its network."""
    config = parse_config(tiny_config(**sections), "test")
    torch.manual_seed(0)
    return config, build_model(config, 4)


def by_hand(filters, config, clips, digits, corners):
    """Loss and accuracy, from the docstring; of a backbone with out_channels also their R2."""
    data = config.data
    (side, first, stride) = map_cells(config)
    moving = config.model.backbone.out_channels is not None
    x = normalize(clips, config)
    for stage in filters.backbone.stages.values():
        x, before = stage(x), x
    maps = filters.readout((before if moving else x)[:, :, -1])
    told = x[:, :, -1]
    assert maps.shape == (len(clips), 1 + (1 if moving else 3) * data.num_classes, side, side)
    loss, right, errors = 0.0, 0, []
    scale = data.frame_size / data.canvas_size
    steps = (corners[:, -1] - corners[:, 0]) * scale / 4  # of two frames
    for b, (kinds, places) in enumerate(zip(digits.tolist(), corners[:, -1])):
        logs = maps[b, : 1 + data.num_classes].log_softmax(0)
        scores = torch.zeros(len(kinds), data.num_classes)
        sums = torch.zeros(3, data.num_classes)
        for d, kind in enumerate(kinds):
            sums[:, kind] = torch.tensor([1.0, *steps[b, d].tolist()])
        for y in range(side):
            for x in range(side):
                held = 0.0
                wanted = torch.zeros(3, data.num_classes)
                for d, kind in enumerate(kinds):
                    pixels = (places[d] + data.digit_size / 2) * scale
                    off_y, off_x = ((pixels - first) / stride - torch.tensor([y, x])).tolist()
                    near = max(0.0, 1 - abs(off_y)) * max(0.0, 1 - abs(off_x))
                    if near == 0:
                        continue
                    held += near
                    loss -= near * logs[1 + kind, y, x]
                    scores[d] += near * logs[1:, y, x].detach()
                    wanted[:, kind] = near * sums[:, kind]
                    if not moving:
                        shifts = maps[b, 1 + data.num_classes :, y, x]
                        loss += (shifts[kind] - off_y) ** 2
                        loss += (shifts[data.num_classes + kind] - off_x) ** 2
                loss -= 0.1 * max(0.0, 1 - held) * logs[0, y, x]
                if moving:
                    loss += (told[b, :, y, x] - wanted.flatten()).square().sum()
        if moving:
            wrong = told[b].sum((1, 2)).view(3, -1) - sums
            loss += wrong.square().sum()
            errors.append(wrong[1:, kinds])
        right += (scores.argmax(1) == torch.tensor(kinds)).sum().item()
    expected = {"accuracy": torch.tensor(right / digits.numel())}
    if moving:
        expected["steps_r2"] = 1 - torch.stack(errors).square().mean() / steps.var()
    return loss / digits.numel(), expected


@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"backbone": {"filters": [4, 4, 8]}}},
        {"data": {"frame_size": 24}},
        {"model": {"backbone": {"pool": False, "padding": 0}}},
        {"model": {"backbone": {"difference": True}}},
        {"model": {"backbone": {"difference": True, "out_channels": 9}}},
    ],
    ids=["three stages", "larger than the canvas", "every pixel", "differences", "steps"],
)
def test_the_loss(sections):
    config, model = made(**sections)
    count = 1 + config.model.backbone.difference
    videos = build_dataset(config, "train", num_frames=count).videos(torch.arange(5))
    batch = videos.clips, videos.classes, videos.corners
    filters = Filters(model.backbone, config)
    for weight in filters.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    loss, measured = filters(*batch)
    expected, right = by_hand(filters, config, *batch)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(measured, right)


@pytest.mark.parametrize("backbone", [{}, {"difference": True, "out_channels": 9}])
def test_in_mixed_precision_the_network_is_in_bfloat16_and_the_loss_is_not(backbone):
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        config, model = made(model={"backbone": backbone}, trainer={"precision": precision})
        count = 1 + config.model.backbone.difference
        videos = build_dataset(config, "train", num_frames=count).videos(torch.arange(5))
        filters, seen = Filters(model.backbone, config), []
        torch.nn.init.normal_(filters.readout.weight, std=0.1)
        for stage in [*model.backbone.stages.values(), filters.readout]:
            stage.register_forward_hook(lambda *args, seen=seen: seen.append(args[2].dtype))
        losses[precision], _ = filters(videos.clips, videos.classes, videos.corners)
        assert set(seen) == {torch.float32 if precision == "32-true" else torch.bfloat16}
    assert losses["bf16-mixed"].dtype == torch.float32
    torch.testing.assert_close(losses["bf16-mixed"], losses["32-true"], rtol=0.02, atol=0)
    assert losses["bf16-mixed"] != losses["32-true"]


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


@pytest.mark.slow
def test_steps_are_learned_and_told_by_the_mean_over_the_map(tmp_path):
    """Also of filters that the main training freezes, and shared by a file."""
    file = str(tmp_path / "filters.safetensors")
    settings = {"steps": 250, "batch_size": 64, "lr": 0.01, "file": file}
    backbone = {"filters": [16, 32], "difference": True, "out_channels": 9, "padding": 1}
    config, model = made(
        model={"backbone": backbone}, pretrain=settings, train={"freeze": ["backbone"]}
    )
    freeze(model, ["backbone"])
    found = pretrain(model, config, torch.device("cpu"))
    assert not any(weight.requires_grad for weight in model.backbone.parameters())
    videos = build_dataset(config, "val", num_frames=2, num_videos=200).videos(torch.arange(200))
    with torch.no_grad():
        told = model.backbone(normalize(videos.clips, config))[:, :, 1].mean((2, 3)).view(200, 3, 3)
    steps = videos.corners.diff(dim=1)[:, 0] * (config.data.frame_size / config.data.canvas_size) / 4
    told = told[:, 1:].gather(2, videos.classes[:, None].expand(-1, 2, -1)).transpose(1, 2)
    assert 1 - (told - steps).square().mean() / steps.var() > 0.3
    assert found["steps_r2"] > 0.3

    other = build_model(config, 4)
    other_seed = config.model_copy(update={"seed": 1})
    assert pretrain(other, other_seed, torch.device("cpu")) == found
    for name, value in other.backbone.state_dict().items():
        assert torch.equal(value, model.backbone.state_dict()[name])
    settings["lr"] = 0.02
    changed = made(model={"backbone": backbone}, pretrain=settings)[0]
    with pytest.raises(UserError, match=r"other settings; there and here: pretrain.lr \(0.01"):
        pretrain(other, changed, torch.device("cpu"))


def test_every_step_has_videos_of_its_own(tmp_path, monkeypatch):
    config, model = made(pretrain={"steps": 3, "batch_size": 4})
    seen, videos = [], SyncMNIST.videos
    monkeypatch.setattr(
        SyncMNIST, "videos", lambda self, visits: seen.append(visits.tolist()) or videos(self, visits)
    )
    pretrain(model, config, torch.device("cpu"))
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_all_digits_are_visible(monkeypatch):
    config, model = made(data={"curriculum": 1.0}, pretrain={"steps": 1})
    hidden, videos = [], SyncMNIST.videos
    monkeypatch.setattr(
        SyncMNIST, "videos", lambda self, visits: hidden.append(self.num_first) or videos(self, visits)
    )
    pretrain(model, config, torch.device("cpu"))
    assert set(hidden) == {0}


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
