"""Weights to start from, stages that rest, rates, averages, mixtures, balanced and sigmoid losses."""

import math
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny_run import ONE_FILTER, tiny_config
from torchmetrics.functional.classification import multilabel_average_precision
from torchvision.models import get_model
from torchvision.models.video import R3D_18_Weights

from rstg_pyg.train.build import build_model, check_model, normalize
from rstg_pyg.train.config import load_config, parse_config
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.run import main
from rstg_pyg.train.training.initial import load_pretrained
from rstg_pyg.train.training.task import VideoTask

R3D = {"kind": "torchvision", "network": "r3d_18"}
SMALL = {"dataset": "folder", "num_frames": 4, "short_side": 16, "crop_size": 16}


def config_of(model=ONE_FILTER, data=None, **train):
    values = tiny_config(model=model, train=train)
    return parse_config(values if data is None else {**values, "data": data}, "test")


def task_of(num_classes=3, multi_label=False, **settings):
    config = config_of(**settings)
    torch.manual_seed(0)
    names = list("abcd")[:num_classes]
    return VideoTask(build_model(config, num_classes), config, 9, "origin", names, multi_label)


def clips(count):
    return torch.randint(0, 256, (count, 1, 3, 16, 16), dtype=torch.uint8)


def video_config(**changes):
    """A network of torchvision on small clips."""
    model = {"backbone": {**R3D, **changes}, "rstg": {"places": ["layer2"], "hidden_channels": 4}}
    return parse_config({"name": "x", "model": model, "data": SMALL}, "x")


def test_data_are_made_as_for_the_weights_unless_given():
    backbone = {**R3D, "weights": "KINETICS400_V1"}
    data = {"dataset": "folder", "std": 50.0, "num_frames": 8}
    config = parse_config({"name": "x", "model": {"backbone": backbone}, "data": data}, "x")
    made = R3D_18_Weights.KINETICS400_V1.transforms()
    assert (config.data.short_side, config.data.crop_size) == (128, 112)
    assert (config.data.frame_stride, config.data.sampling) == (2, "dense")
    assert (config.data.num_frames, config.data.std) == (8, 50.0)
    x = torch.randint(0, 256, (2, 3, 1, 2, 2), dtype=torch.uint8)
    mean = torch.tensor(made.mean).view(3, 1, 1, 1)
    torch.testing.assert_close(normalize(x, config), (x / 255 - mean) * 255 / 50, rtol=0, atol=1e-4)
    again = parse_config(config.model_dump(mode="json"), "x")  # as in a checkpoint
    assert again == config
    assert parse_config({"name": "x", "data": data}, "x").data.crop_size == 224


def test_weights_of_a_video_network(tmp_path, monkeypatch, capsys):
    network = get_model("r3d_18")
    torch.save(network.state_dict(), tmp_path / "r3d.pth")
    config = video_config(weights=str(tmp_path / "r3d.pth"))
    model = build_model(config, 5)
    load_pretrained(model, config, list("abcde"))
    assert "r3d_18: 100 used" in capsys.readouterr().out
    for name, value in model.backbone.network.state_dict().items():
        assert "num_batches" in name or torch.equal(value, network.state_dict()[name]), name

    def refused(weights, *words):
        config = video_config(weights=weights)
        with pytest.raises(UserError) as e:
            load_pretrained(build_model(config, 5), config, list("abcde"))
        assert len(str(e.value).splitlines()) == 1
        assert all(word in str(e.value) for word in words), e.value

    def offline(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr("torch.hub.urlopen", offline)
    place = tmp_path / "checkpoints/r3d_18-b3b3357e.pth"
    refused("KINETICS400_V1", R3D_18_Weights.KINETICS400_V1.url, "cannot be downloaded", str(place))
    refused("KINETICS", "no such file; r3d_18 has weights of the names KINETICS400_V1")
    place.parent.mkdir(exist_ok=True)
    torch.save({**network.state_dict(), "layer1.0.conv1.0.weight": torch.zeros(2)}, place)
    refused("KINETICS400_V1", "layer1.0.conv1.0.weight", "expected shape [64, 64, 3, 3, 3], got [2]")
    torch.save(get_model("s3d").state_dict(), place)
    refused("KINETICS400_V1", "network.stem.0.weight", "features.0.0.0.weight")


def test_init_takes_what_fits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    task = task_of()
    checkpoint = {"state_dict": task.state_dict(), "global_step": 1}
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, "a.ckpt")
    trained = task.model.state_dict()

    def taken(names, **settings):
        config = config_of(init="a.ckpt", **settings)
        torch.manual_seed(1)
        model = build_model(config, len(names))
        load_pretrained(model, config, names)
        state = model.state_dict()
        return {n for n in state if n in trained and torch.equal(state[n], trained[n])}

    head = {"lin.weight", "lin.bias"}  # zeros anyhow
    assert taken(list("abc")) == trained.keys()
    assert "new" not in capsys.readouterr().out
    assert trained.keys() - taken(list("xyz")) == {"lin.weight"}
    assert "new: lin.weight (of other classes), lin.bias (of other classes)" in capsys.readouterr().out
    assert trained.keys() - taken(list("abcd")) == head
    assert "new: lin.weight [4, 4] ([3, 4] in the file)" in capsys.readouterr().out
    other = {**ONE_FILTER, "backbone": {"filters": [5]}, "rstg": None}
    with pytest.raises(UserError, match=r"nothing fits .*; expected backbone.stages"):
        taken(list("abc"), model={**other, "rstg": {"hidden_channels": 6}})
    with pytest.raises(UserError, match="there is no such run, checkpoint or model"):
        load_pretrained(task.model, config_of(init="b"), list("abc"))


@pytest.mark.parametrize("stages", [["layer1"], ["stem", "layer2.0.conv1"], ["backbone"]])
def test_frozen_stages_rest(stages):
    config = video_config()
    values = {**config.model_dump(mode="json"), "train": {"freeze": stages, "backbone_lr": 1e-4}}
    config = parse_config(values, "x")
    model = build_model(config, 3)
    task = VideoTask(model, config, 9, "origin", list("abc"))
    prefixes = tuple("" if stage == "backbone" else f"{stage}." for stage in stages)
    for name, p in model.backbone.network.named_parameters():
        assert p.requires_grad != name.startswith(prefixes), name
    assert all(p.requires_grad for p in [*model.blocks.parameters(), *model.lin.parameters()])
    for name, module in model.backbone.network.named_modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            assert module.training != name.startswith(prefixes), name
    groups = task.configure_optimizers()["optimizer"].param_groups
    assert [g["initial_lr"] for g in groups] == [1e-3, 1e-3, 1e-4, 1e-4]
    trained = {p for g in groups for p in g["params"]}
    assert trained == {p for p in model.parameters() if p.requires_grad}
    ours = {p for g in groups[2:] for p in g["params"]}
    assert ours == {p for p in model.backbone.parameters() if p.requires_grad}


def test_frozen_bottlenecks_and_unknown_stages():
    resnet = {"kind": "c2d", "depths": [2, 1], "width": 4, "small_stem": True, "norm": "batch"}
    data = {**SMALL, "num_frames": 2}
    config = config_of({"backbone": resnet, "rstg": None}, data, freeze=["res2"])
    model = build_model(config, 3)
    VideoTask(model, config, 9, "origin", list("abc"))
    frozen = {n.split(".")[1] for n, p in model.backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"res2_0", "res2_1"}
    with pytest.raises(UserError, match=r"train.freeze: expected some of backbone, .*got 'res9'"):
        task_of(freeze=["res9"])


def test_a_balanced_loss():
    task = task_of(class_weights=None)
    batch, labels = clips(4), torch.tensor([0, 0, 1, 1])
    task.class_weights = torch.tensor([1.0, 3.0, 2.0])
    losses = F.cross_entropy(task(batch), labels, reduction="none")
    expected = (losses * torch.tensor([1.0, 1.0, 3.0, 3.0])).mean()
    torch.testing.assert_close(task.loss(batch, labels), expected)
    parts = [task.loss(batch[i : i + 1], labels[i : i + 1]) for i in range(4)]  # train.accumulate
    torch.testing.assert_close(sum(parts) / 4, expected)
    with pytest.raises(UserError, match=r"train.class_weights: SyncMNIST"):
        config_of(class_weights="balanced")


@pytest.mark.parametrize("settings", [{"mixup": 0.5}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 1.0}])
def test_mixtures_of_clips_and_their_labels(settings):
    task = task_of(**settings)
    seen, logits = [], []

    def note(_, inputs, out):
        seen.append(inputs[0])
        logits.append(out.detach())

    task.model.register_forward_hook(note)
    batch, labels = clips(2), torch.tensor([0, 2])
    loss = task.training_step((batch, labels), 0).detach()
    x, mixed = normalize(batch, task.config), seen[0]
    other = x.flip(0)
    box = (mixed[0] != x[0]).any(dim=0).any(dim=0)  # of all frames: CutMix has one for all
    cut = torch.equal(mixed[0], torch.where(box, other[0], x[0])) and not box.all()
    assert cut or "mixup" in settings
    if not cut:
        share = ((mixed - other) / (x - other))[x != other]
        assert share.std() < 1e-3 and 0 < share.mean() < 1
    share = float(share.mean()) if not cut else 1 - float(box.float().mean())
    targets = torch.tensor([[share, 0, 1 - share], [1 - share, 0, share]])
    torch.testing.assert_close(loss, F.cross_entropy(logits[0], targets))
    assert task.train_metrics["top1"].update_count == 1


def test_mixtures_that_would_change_nothing():
    """A video mixed with itself; a cut out of one body's joints, which is always empty."""
    for key in ("mixup", "cutmix"):
        with pytest.raises(UserError, match=rf"train.{key}: mixing needs more than one video"):
            config_of(batch_size=4, accumulate=4, **{key: 0.5})
        config_of(batch_size=4, accumulate=2, **{key: 0.5})
    load_config("skeleton/msr_action3d.yaml", ["train.mixup=0.5"])
    with pytest.raises(UserError, match="train.cutmix: skeletons have no pixels"):
        load_config("skeleton/msr_action3d.yaml", ["train.cutmix=0.5"])


def average_precision(there):
    """Of the labels by falling score."""
    ranks = torch.arange(1, len(there) + 1)
    return float(((there.cumsum(0) / ranks) * there).sum() / there.sum())


def test_several_labels_per_video():
    task = task_of(multi_label=True, label_smoothing=0.2).eval()
    batch, labels = clips(4), torch.tensor([[1.0, 0, 1], [0, 0, 1], [0, 0, 0], [1, 0, 0]])
    logits = task(batch).detach()
    expected = F.binary_cross_entropy_with_logits(logits, labels * 0.8 + 0.1)
    torch.testing.assert_close(task.loss(batch, labels), expected)
    task.on_validation_epoch_start()
    for part in ((batch[:3], labels[:3]), (batch[3:], labels[3:])):
        task.validation_step(part, 0)
    task.validation_step((batch[:1] * 0, torch.tensor([-100])), 0)  # nothing could be read
    values = task._results("validation", None)
    torch.testing.assert_close(
        values["loss"], float(F.binary_cross_entropy_with_logits(logits, labels)), rtol=1e-5, atol=0
    )
    two = [0, 2]  # the second class has no video: it does not count
    precisions = multilabel_average_precision(logits[:, two], labels[:, two].long(), 2, average="none")
    assert values["mAP"] == pytest.approx(float(precisions.mean()))
    assert math.isnan(task.class_precision[1]) and set(values) == {"loss", "mAP"}


def test_a_process_without_a_video_has_scores_to_gather():
    """torchmetrics leaves out a state that is an empty list, and the other processes wait for it."""
    task = task_of(multi_label=True).eval()
    task.on_validation_epoch_start()
    task.validation_step((clips(1), torch.tensor([-100])), 0)
    assert [x.shape for x in (*task.precision.preds, *task.precision.target)] == [(0, 3)] * 2


def test_average_precision_by_hand():
    """One video at a time, some of them with all logits between 0 and 1, and all but the last sure."""
    logits = torch.tensor([[0.2, 0.7], [0.9, 18.4], [-3.0, 18.2], [0.3, 18.1], [1.5, -4.0]])
    labels = torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 0], [1, 0]])
    task = task_of(num_classes=2, multi_label=True)
    task.forward = lambda clips: clips
    task.on_validation_epoch_start()
    for row in zip(logits.split(1), labels.split(1)):
        task.validation_step(row, 0)
    order = logits.argsort(0, descending=True)
    by_hand = [average_precision(labels[order[:, k], k]) for k in range(2)]
    assert task._results("validation", None)["mAP"] == pytest.approx(sum(by_hand) / 2)


def test_a_config_of_a_video_network_with_a_block(tmp_path, monkeypatch):
    config = video_config()
    check_model(config)
    model = build_model(config, 3)
    assert list(model.blocks) == ["layer2"]
    monkeypatch.chdir(tmp_path)
    assert main(["--cfg", "folder.yaml", "size=pretrained"]) == 2  # no videos
