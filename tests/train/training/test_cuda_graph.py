import contextlib
import types

import pytest
import torch

from rstg_pyg.train.errors import UserError
from rstg_pyg.train.training.cuda_graph import RecordStep, replay_step


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


@contextlib.contextmanager
def bfloat16_on_a_gpu():
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    yield
    torch.set_autocast_dtype("cuda", before)


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_it_is_recorded_in_the_type_of_the_training(monkeypatch):
    """Not in float16, autocast's own choice: without a gradient scaler, small gradients vanish."""
    found = []
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: contextlib.nullcontext())
    monkeypatch.setattr(
        torch.cuda,
        "make_graphed_callables",
        lambda *_, **__: found.append(torch.get_autocast_dtype("cuda")),
    )
    precision = types.SimpleNamespace(forward_context=bfloat16_on_a_gpu)
    replay_step(torch.nn.Linear(2, 2), torch.ones(1, 2), precision)
    assert found == [torch.bfloat16]
