"""Batches of videos: generated on the model's device, or by worker processes."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rstg_pyg.train.data.syncmnist import SyncMNIST


class VideoLoader:
    """Iterates over batches ``(clips, labels)`` for a given number of steps.

    Every epoch goes through the data set in an order that depends on nothing but the seed and the
    epoch's number (``shuffle``), so a run that is resumed at step ``n`` sees exactly the batches
    that the uninterrupted one would have seen. Time spent waiting for a batch is added up.

    Args:
        dataset: The videos.
        batch_size: Videos in a batch.
        steps: Number of batches; more than an epoch's go on with the next epoch. By default one
            epoch.
        shuffle: Whether to mix the order; an incomplete last batch of an epoch is then left out.
        seed: Seed of the order.
        num_workers: 0: each batch is generated at once, on the data set's device. Otherwise so many
            processes generate single videos.
        rank: Which share of every batch to yield, of
        num_ranks: so many processes that train together.
    """

    def __init__(
        self,
        dataset: SyncMNIST,
        batch_size: int,
        steps: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        num_workers: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
    ):
        whole = len(dataset) // batch_size
        self.steps_per_epoch = max(whole, 1) if shuffle else -(-len(dataset) // batch_size)
        self.dataset = dataset
        self.batch_size = batch_size
        self.steps = self.steps_per_epoch if steps is None else steps
        self.shuffle = shuffle
        self.seed = seed
        self.num_workers = num_workers
        self.rank = rank
        self.num_ranks = num_ranks
        self.start = 0  # the first step of the next iteration
        self.step = 0  # batches handed out
        self.waits: list[float] = []  # seconds per batch
        self._order_epoch: int | None = None  # the epoch whose shuffled order is at hand

    def __len__(self) -> int:
        return self.steps

    def state_dict(self) -> dict[str, int]:
        """How many batches were handed out."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Makes the next iteration begin where the state was taken."""
        self.start = state["step"]

    def items(self, step: int) -> Tensor:
        """The items of a step's batch."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        if self.shuffle:
            if self._order_epoch != epoch:
                generator = torch.Generator().manual_seed((self.seed << 20) + epoch)
                self._order = torch.randperm(len(self.dataset), generator=generator)
                self._order_epoch = epoch
            order = self._order
        else:
            order = torch.arange(len(self.dataset))
        items = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        return items[self.rank :: self.num_ranks]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first, self.start = self.start, 0
        self.step = first
        batches = (self.items(step) for step in range(first, self.steps))
        if self.num_workers:
            source = iter(
                DataLoader(
                    self.dataset,
                    batch_sampler=[items.tolist() for items in batches],
                    num_workers=self.num_workers,
                    collate_fn=_stack,
                    pin_memory=torch.cuda.is_available(),
                )
            )
        else:
            source = (self._generate(items) for items in batches)
        while True:
            begin = time.perf_counter()
            batch = next(source, None)
            if batch is None:
                return
            self.waits.append(time.perf_counter() - begin)
            self.step += 1
            yield batch

    def _generate(self, items: Tensor) -> tuple[Tensor, Tensor]:
        videos = self.dataset.videos(items)
        return videos.clips, videos.labels


def _stack(videos: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    clips, labels = zip(*videos)
    return torch.stack(clips), torch.tensor(labels)
