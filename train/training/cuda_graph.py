"""The network's part of a training step as a CUDA graph."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from rstg_pyg.train.build import normalize
from rstg_pyg.train.errors import UserError


class RecordStep(pl.Callback):
    """Records the network's forward and backward pass as a CUDA graph at the first batch and replays it
    in every training step: the GPU does not wait for Python to start its kernels one by one.

    Batches of another shape, evaluation and a search for non-finite values take the usual way. The
    recording changes neither buffers (running statistics) nor the state of random generators.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks the settings.

        Raises:
            UserError: If gradients are not those of one pass, or the network is compiled.
        """
        if trainer.world_size > 1 or trainer.accumulate_grad_batches > 1:
            raise UserError(
                f"trainer.cuda_graph: expected one process and train.accumulate=1 (got "
                f"{trainer.world_size} and {trainer.accumulate_grad_batches}); leave it out"
            )
        if pl_module.config.trainer.compile:
            raise UserError(
                "trainer.cuda_graph: expected a network that is not compiled (got "
                "trainer.compile=true); use one of them"
            )

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """Records, if it is the first batch.

        Raises:
            UserError: If the network cannot be recorded.
        """
        model, clips = pl_module.model, batch[0]
        if "forward" not in vars(model):
            if not isinstance(clips, Tensor):
                raise UserError(
                    "trainer.cuda_graph: expected clips alone (got clips with boxes); leave it out"
                )
            x = normalize(clips, pl_module.config)
            try:
                replay_step(model, x, trainer.precision_plugin)
            except RuntimeError as e:
                reason = str(e).strip().splitlines()[0]
                raise UserError(
                    f"trainer.cuda_graph: this network cannot be recorded ({reason}); leave it out"
                ) from e

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Frees the recording."""
        vars(pl_module.model).pop("forward", None)


def replay_step(model: torch.nn.Module, x: Tensor, precision: Any) -> None:
    """Makes ``model`` replay its training pass for inputs like ``x``."""
    plain = model.forward
    buffers = [buffer.clone() for buffer in model.buffers()]
    with torch.random.fork_rng([x.device]), precision.forward_context():
        half, on = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
        # The weights that autocast keeps in half precision would be kept from before the recording.
        with torch.autocast("cuda", half, enabled=on, cache_enabled=False):
            torch.cuda.make_graphed_callables(model, (x,), allow_unused_input=True)
    for buffer, value in zip(model.buffers(), buffers):
        buffer.copy_(value)
    replay = model.forward

    def forward(clips: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        alike = clips.shape == x.shape and clips.dtype == x.dtype and not args and not kwargs
        if alike and model.training and torch.is_grad_enabled():
            return replay(clips)
        return plain(clips, *args, **kwargs)

    model.forward = forward
