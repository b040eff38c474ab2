"""Batches of videos: generated on the model's device, or by worker processes."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from rstg_pyg.train.data.boxes import BoxedClip
from rstg_pyg.train.data.skipped import UNREAD, Unread
from rstg_pyg.train.data.syncmnist import SyncMNIST
from rstg_pyg.train.errors import UserError

#: Videos generated at once, by type of device: starting the kernels of a GPU takes as long for one.
AT_ONCE = {"cpu": 1, "cuda": 1024}


class VideoLoader:
    """Iterates over batches ``(clips, labels)`` for a given number of steps.

    Every epoch goes through the data set in an order that depends on nothing but the seed and the
    epoch's number (``shuffle``), so a run that is resumed at step ``n`` sees exactly the batches
    that the uninterrupted one would have seen. A video is asked for by its *visit*,
    ``epoch * len(dataset) + item``, from which a data set draws what is random in it. Of a data set
    with ``num_first`` so many of the first videos come before the others in every epoch. Time spent
    waiting for a batch is added up.

    Where the data set's ``skipped`` is a :class:`~rstg_pyg.train.data.skipped.Part`, videos that cannot
    be read are noted there and left out: their batch is smaller. Where nothing is left of a batch, or a
    process has no share of it, it is one blank clip with the label
    :data:`~rstg_pyg.train.data.skipped.UNREAD`, so all processes take as many steps.

    Args:
        dataset: The videos: ``dataset[visit]`` is ``(clip, label)``; or :class:`SyncMNIST`, which
            generates whole batches.
        batch_size: Videos in a batch.
        steps: Number of batches; more than an epoch's go on with the next epoch. By default one
            epoch.
        shuffle: Whether to mix the order; an incomplete last batch of an epoch is then left out.
        seed: Seed of the order.
        num_workers: Processes that read or generate videos; with 0, batches are made here (and
            those of :class:`SyncMNIST` at once, on its device; on a GPU several batches at once).
        timeout: Seconds after which a batch that does not come is an error.
        rank: The number of this process, from 0: of every batch it yields each ``num_ranks``-th video.
        num_ranks: How many processes train together.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        steps: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        num_workers: int = 0,
        timeout: float = 600.0,
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
        self.timeout = timeout
        self.rank = rank
        self.num_ranks = num_ranks
        self.start = 0  # the first step of the next iteration
        self.step = 0  # batches handed out
        self.waits: list[float] = []  # seconds per batch
        self.unread: set[int] = set()  # visits whose video could not be read
        self._order_epoch: int | None = None  # the epoch whose shuffled order is at hand

    def __len__(self) -> int:
        return self.steps

    def state_dict(self) -> dict[str, int]:
        """How many batches were handed out."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Makes the next iteration begin where the state was taken."""
        self.start = state["step"]

    def visits(self, step: int) -> Tensor:
        """The visits of a step's batch."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        if self.shuffle:
            if self._order_epoch != epoch:
                generator = torch.Generator().manual_seed((self.seed << 20) + epoch)
                order = torch.randperm(len(self.dataset), generator=generator)
                first = getattr(self.dataset, "num_first", 0)
                self._order = torch.cat([order[order < first], order[order >= first]])
                self._order_epoch = epoch
            order = self._order
        else:
            order = torch.arange(len(self.dataset))
        items = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        return items[self.rank :: self.num_ranks] + epoch * len(self.dataset)

    def items(self, step: int) -> list[int]:
        """The items that a step's batch has, without those that could not be read."""
        visits = self.visits(step).tolist()
        return [visit % len(self.dataset) for visit in visits if visit not in self.unread]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first, self.start = self.start, 0
        self.step = first
        batches = (self.visits(step) for step in range(first, self.steps))
        if isinstance(self.dataset, SyncMNIST) and self.num_workers == 0:
            source: Iterator[Any] = self._generate(batches)
        else:
            source = iter(self._workers([visits.tolist() for visits in batches]))
        while True:
            begin = time.perf_counter()
            batch = self._next(source)
            if batch is None:
                return
            self.waits.append(time.perf_counter() - begin)
            self.step += 1
            yield batch

    def _generate(self, batches: Iterator[Tensor]) -> Iterator[_Batch | UserError]:
        """Generates batches, several at once if they are smaller than :data:`AT_ONCE`."""
        videos = AT_ONCE.get(self.dataset.key.device.type, 1) * self.num_ranks
        while group := list(itertools.islice(batches, max(videos // self.batch_size, 1))):
            visits = torch.cat(group)
            made = self.dataset.videos(visits) if len(visits) else None
            begin = 0
            for size in map(len, group):
                part = slice(begin, begin + size)
                yield (made.clips[part], made.labels[part], []) if size and made else _stack([])
                begin += size

    def _workers(self, batches: list[list[int]]) -> DataLoader:
        self._reading = torch.full((max(self.num_workers, 1),), -1).share_memory_()
        return DataLoader(
            _Reader(self.dataset, self._reading),
            batch_sampler=batches,
            num_workers=self.num_workers,
            collate_fn=_stack,
            pin_memory=torch.cuda.is_available(),
            timeout=self.timeout if self.num_workers else 0,
            # One thread each: decoders and torch would otherwise start one per core in every worker.
            worker_init_fn=_begin,
            # Its own, or every pass would draw from the generator of dropout: neither a resumed run nor
            # another number of workers would give the same weights.
            generator=torch.Generator().manual_seed(self.seed),
        )

    def _next(self, source: Iterator) -> tuple[Tensor, Tensor] | None:
        try:
            batch = next(source, None)
        except RuntimeError as e:
            if "DataLoader" not in str(e):
                raise
            raise UserError(
                f"a data worker died or hung ({str(e).splitlines()[0]}); the workers were at "
                f"{self._names()}; if memory was short, use fewer data.num_workers"
            ) from e
        if isinstance(batch, UserError):
            raise batch
        return None if batch is None else self._noted(*batch)

    def _noted(
        self, clips: Tensor | BoxedClip | None, labels: Tensor, unread: list[Unread]
    ) -> tuple[Any, Tensor]:
        """The batch; videos that are not in it are noted."""
        self.unread.update(visit for visit, _ in unread)
        if getattr(self.dataset, "skipped", None) is not None:
            items = [(self.dataset.ids[visit % len(self.dataset)], why) for visit, why in unread]
            self.dataset.skipped.note(items, len(labels))
        if clips is None:
            blank: Any = _stack([(self.dataset.blank(), UNREAD)])
            return blank[:2]
        return clips, labels

    def _names(self) -> str:
        """The videos that workers are reading."""
        visits = [visit for visit in self._reading.tolist() if visit >= 0]
        return ", ".join(video_names(self.dataset, visits)) or "no video"


def video_ids(dataset: Any) -> Sequence[Any]:
    """The ids of a data set's videos, or their numbers."""
    return getattr(dataset, "ids", range(len(dataset)))


def video_names(dataset: Any, visits: Iterable[int]) -> list[str]:
    """What the videos of some visits are called: by their ids, or by their numbers."""
    ids = video_ids(dataset)
    return [f"video {ids[visit % len(dataset)]}" for visit in visits]


class _Reader(Dataset):
    """A data set whose user errors come back as values: raised in a worker, they would come with the
    worker's traceback. Every worker says in shared memory which visit it is at.
    """

    def __init__(self, dataset: Any, reading: Tensor):
        self.dataset = dataset
        self.reading = reading  # [workers], -1 for none

    def __getitems__(self, visits: list[int]) -> list[tuple[Tensor, int]] | UserError:
        worker = get_worker_info()
        place = 0 if worker is None else worker.id
        try:
            if visits and isinstance(self.dataset, SyncMNIST):  # generates many faster than one by one
                self.reading[place] = visits[0]
                return self.dataset.__getitems__(visits)
            out = []
            for visit in visits:
                self.reading[place] = visit
                try:
                    out.append(self.dataset[visit])
                except UserError as e:
                    if getattr(self.dataset, "skipped", None) is None:
                        return e
                    out.append(Unread(visit, str(e)))
        except UserError as e:
            return e
        self.reading[place] = -1
        return out


def _begin(worker: int) -> None:
    torch.set_num_threads(1)
    # A terminal sends Ctrl-C to workers, too; the training ends them when it is done with its step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


#: Clips (if any could be read), their labels, and what could not be read.
_Batch = tuple["Tensor | BoxedClip | None", Tensor, "list[Unread]"]


def _stack(videos: list[tuple[Tensor, int] | Unread] | UserError) -> _Batch | UserError:
    if isinstance(videos, UserError):
        return videos
    unread = [video for video in videos if isinstance(video, Unread)]
    read = [video for video in videos if not isinstance(video, Unread)]
    clips, labels = default_collate(read) if read else (None, torch.tensor([]))
    return clips, labels, unread
