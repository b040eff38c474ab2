import math
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny_run import ONE_FILTER, tiny_config

from rstg_pyg.relations import RelationClassifier
from rstg_pyg.train.build import build_model, normalize
from rstg_pyg.train.config import parse_config
from rstg_pyg.train.data.skipped import UNREAD
from rstg_pyg.train.training.task import VideoTask


def task_of(total_steps=100, **train):
    config = parse_config(tiny_config(model=ONE_FILTER, train=train), "test")
    torch.manual_seed(0)
    return VideoTask(build_model(config, 4), config, total_steps, "origin", list("abcd"))


def test_the_mean_loss_hides_no_nan():
    task = task_of()
    mean = task.train_metrics["loss"]
    assert {"loss.mean_value", "loss.weight"} <= task.train_metrics.state_dict().keys()  # as it was
    mean.update(torch.tensor([1.0, float("nan")]))
    assert mean.compute().isnan()


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_the_clips_of_a_video_are_averaged(batch):
    """However many of them go through the network at once."""
    task = task_of(batch_size=batch).eval()
    clips = torch.randint(0, 256, (3, 5, 1, 3, 16, 16), dtype=torch.uint8)
    sizes = []
    task.model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    logits = task(clips)
    assert sizes == [batch] * (15 // batch) + [15 % batch] * (15 % batch > 0)
    one_by_one = torch.stack([task(clips[:, i]) for i in range(5)])
    torch.testing.assert_close(logits, one_by_one.mean(0))
    torch.testing.assert_close(task(clips[:, 0]), task.model(normalize(clips[:, 0], task.config)))


def test_loss_and_metrics():
    task = task_of(label_smoothing=0.2).eval()
    clips = torch.randint(0, 256, (4, 1, 3, 16, 16), dtype=torch.uint8)
    logits = task(clips).detach()
    labels = logits.argsort(1)[torch.arange(4), torch.tensor([3, 3, 2, 0])]  # two of four are right
    expected = F.cross_entropy(logits, labels, label_smoothing=0.2)
    torch.testing.assert_close(task.loss(clips, labels), expected)
    task.validation_step((clips, labels), 0)
    found = task.eval_metrics.compute()
    assert (found["top1"], found["top5"]) == (0.5, 1.0)
    torch.testing.assert_close(found["loss"], F.cross_entropy(logits, labels))  # not smoothed
    assert task.confusion.update_count == 0
    task.trainer = trainer = Mock(num_test_batches=[1])
    task.test_step((clips, labels), 0)
    assert trainer and len(task.samples) == 4 and (task.samples[3][0] == clips[3]).all()
    assert task.samples[3][1] == labels[3] and task.samples[3][2].sum().round() == 1
    assert task.confusion.compute().sum() == 4 and task.confusion.compute().trace() == 2
    task.on_test_epoch_start()  # another test starts afresh
    assert task.confusion.update_count == task.eval_metrics["loss"].weight == len(task.finite) == 0


def test_a_batch_of_which_nothing_could_be_read_counts_for_nothing():
    task = task_of()
    batch = torch.zeros(1, 1, 3, 16, 16, dtype=torch.uint8), torch.tensor([UNREAD])
    loss = task.loss(*batch)
    loss.backward()
    assert loss == 0 and all((p.grad == 0).all() for p in task.parameters() if p.grad is not None)
    task.test_step(batch, 0)
    assert task.eval_metrics["loss"].weight == 0 and task.confusion.update_count == 0
    assert task.loss(batch[0], torch.tensor([0])) > 0  # the label of a class


@pytest.mark.parametrize("schedule", ["cosine", "constant", "multistep"])
def test_the_schedule(schedule):
    """Warm-up of a tenth of 40 steps."""
    task = task_of(40, warmup=0.1, schedule=schedule, milestones=[0.5, 0.75])
    after = {
        "cosine": [0.5 * (1 + math.cos(math.pi * step / 40)) for step in range(41)],
        "constant": [1.0] * 41,
        "multistep": [1.0] * 20 + [0.1] * 10 + [0.01] * 11,
    }[schedule]
    rates = [task._rate(step) for step in range(41)]
    assert rates[:4] == pytest.approx([after[i] * (i + 1) / 4 for i in range(4)])
    assert rates[4:] == pytest.approx(after[4:])
    assert task._rate(50) == pytest.approx(after[40])
    assert task_of(40, warmup=0.0)._rate(0) == 1.0


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_optimizer_decays_matrices_only(optimizer):
    task = task_of(
        optimizer=optimizer, lr=0.02, base_batch=32, weight_decay=0.3, momentum=0.8, beta2=0.7
    )
    task.model.lin.weight.requires_grad_(False)
    made = task.configure_optimizers()
    matrices, vectors = made["optimizer"].param_groups
    assert all(p.dim() > 1 for p in matrices["params"]) and len(vectors["params"]) > 3
    assert all(p.dim() <= 1 for p in vectors["params"])
    trained = [p for p in task.parameters() if p.requires_grad]
    assert len(matrices["params"]) + len(vectors["params"]) == len(trained)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    assert matrices["initial_lr"] == pytest.approx(0.01)
    assert made["lr_scheduler"]["interval"] == "step"
    if optimizer == "adamw":
        assert matrices["betas"] == (0.8, 0.7)
    else:
        assert (matrices["momentum"], matrices["nesterov"]) == (0.8, True)


def test_stacked_biases_do_not_decay():
    """TRN's last layer has a row of them per scale, a window of Swin a row per offset."""
    task = task_of(weight_decay=0.3)
    stacked = RelationClassifier(task.model.lin.in_features, 4, [3, 1])
    stacked.relative_position_bias_table = torch.nn.Parameter(torch.ones(5, 2))
    task.model.lin = stacked
    matrices, vectors = task.configure_optimizers()["optimizer"].param_groups
    of = {p: group["weight_decay"] for group in (matrices, vectors) for p in group["params"]}
    assert stacked.bias.dim() == 2 and of[stacked.bias] == 0 and of[stacked.weight] == 0.3
    assert of[stacked.relative_position_bias_table] == 0
    assert len(of) == len([*task.parameters()])


def test_what_a_checkpoint_has_beside_the_weights():
    task, checkpoint = task_of(), {}
    task.on_save_checkpoint(checkpoint)
    assert (checkpoint["origin"], checkpoint["label_names"]) == ("origin", list("abcd"))
    assert checkpoint["config"]["train"]["batch_size"] == 16
