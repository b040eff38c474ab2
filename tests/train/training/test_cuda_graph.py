import types

import pytest
import torch

from rstg_pyg.train.errors import UserError
from rstg_pyg.train.training.cuda_graph import RecordStep


def task(**trainer):
    return types.SimpleNamespace(
        config=types.SimpleNamespace(trainer=types.SimpleNamespace(compile=False, **trainer)),
        model=torch.nn.Linear(1, 1),
    )


@pytest.mark.parametrize("world_size, accumulate", [(2, 1), (1, 4)])
def test_only_one_pass_of_one_process_is_recorded(world_size, accumulate):
    trainer = types.SimpleNamespace(world_size=world_size, accumulate_grad_batches=accumulate)
    with pytest.raises(UserError, match=f"got {world_size} and {accumulate}"):
        RecordStep().on_train_start(trainer, task())


def test_no_compiled_network_is_recorded():
    trainer, of = types.SimpleNamespace(world_size=1, accumulate_grad_batches=1), task()
    of.config.trainer.compile = True
    with pytest.raises(UserError, match="trainer.compile"):
        RecordStep().on_train_start(trainer, of)


def test_boxes_are_not_recorded():
    with pytest.raises(UserError, match="boxes"):
        RecordStep().on_train_batch_start(None, task(), ("clips with boxes", None), 0)
