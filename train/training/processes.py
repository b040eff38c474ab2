"""What the processes of a training know of each other: when one is gone, the others stop and say so."""

from __future__ import annotations

import os
import sys
import threading
import time
from datetime import timedelta
from subprocess import Popen

import pytorch_lightning as pl
from torch.distributed import TCPStore

from rstg_pyg.train.errors import Interrupted

_BEAT = 1.0  # seconds between two signs of life
_PATIENCE = 30  # so many in a row must fail to come until a process counts as gone


class Peers(pl.Callback):
    """Ends this process, with exit code 2 and a message that names the rank, when another one of the
    training is gone: killed, stopped for long, ended by an error, or its machine lost.

    The processes of a training wait for each other in every step. When one is gone, gloo fails without
    saying whom it misses, and NCCL waits for minutes. Here every process gives a sign of life each
    second, in a thread of its own, to a small store that the first process holds.
    """

    def __init__(self):
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begins, when the processes have found each other."""
        if self._thread is not None or trainer.world_size == 1:
            return
        self.rank, self.size = trainer.global_rank, trainer.world_size
        host = os.environ["MASTER_ADDR"]
        options = dict(timeout=timedelta(seconds=_PATIENCE * _BEAT), wait_for_workers=False)
        if self.rank == 0:
            self.store = TCPStore(host, 0, is_master=True, **options)
        port = trainer.strategy.broadcast(self.store.port if self.rank == 0 else 0)
        if self.rank > 0:
            self.store = TCPStore(host, port, is_master=False, **options)
        started = getattr(trainer.strategy.launcher, "procs", []) if self.rank == 0 else []
        self.children = [process for process in started if isinstance(process, Popen)]
        _stop_lightnings_observer()
        self._thread = threading.Thread(target=self._watch, name="peers", daemon=True)
        self._thread.start()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Waits for the reason, if this is what another one's end looks like from here; else tells the
        others the reason.
        """
        if self._thread is None:
            return
        if isinstance(exception, Interrupted):  # in all of them
            self._leave()
            return
        if isinstance(exception, RuntimeError):
            self._thread.join((_PATIENCE + 3) * _BEAT)
        reason = (str(exception).splitlines() or [type(exception).__name__])[0]
        self.store.set(f"end/{self.rank}", f"ended ({reason})")
        if self.rank == 0:
            time.sleep(3 * _BEAT)  # it holds the store, and the others ask for the reason

    def end(self, trainer: pl.Trainer) -> None:
        """Stops watching, in all processes at the same place."""
        if self._thread is None:
            return
        trainer.strategy.barrier()
        self._leave()

    def _leave(self) -> None:
        self._over.set()
        self._thread.join()
        self.store.set(f"over/{self.rank}", "")
        if self.rank == 0:  # it holds the store
            self.store.wait([f"over/{rank}" for rank in range(self.size)])

    def _watch(self) -> None:
        seen = {rank: ("", 0) for rank in range(self.size) if rank != self.rank}
        beat = 0
        while not self._over.wait(_BEAT):
            beat += 1
            try:
                self.store.set(f"beat/{self.rank}", str(beat))
                gone = self._gone(seen)
            except RuntimeError:  # the store does not answer any more
                gone = "rank 0 is gone" if self.rank > 0 else None
            if gone is not None and not self._over.is_set():
                self._stop(gone)

    def _gone(self, seen: dict[int, tuple[str, int]]) -> str | None:
        """Who is gone, if anybody is. The first process decides, so that all say the same.

        Args:
            seen: Of every process the last sign of life, and how often it was the same since then. Not
                the time since then: all of them may have been stopped together.
        """
        if self.store.check(["gone"]):
            return self.store.get("gone").decode()
        for rank in seen if self.rank == 0 else [0]:
            if self.store.check([f"end/{rank}"]):
                return f"rank {rank} {self.store.get(f'end/{rank}').decode()}"
            code = self.children[rank - 1].poll() if 0 < rank <= len(self.children) else None
            if code is not None:
                return f"rank {rank} ended with code {code}" + (" (killed)" if code < 0 else "")
            beat = self.store.get(f"beat/{rank}").decode() if self.store.check([f"beat/{rank}"]) else ""
            seen[rank] = beat, seen[rank][1] + 1 if beat == seen[rank][0] else 0
            if seen[rank][1] >= _PATIENCE:
                return f"rank {rank} has given no sign of life for {_PATIENCE * _BEAT:.0f} seconds"
        return None

    def _stop(self, gone: str) -> None:
        if self.rank == 0:
            self.store.set("gone", gone)
            time.sleep(3 * _BEAT)  # the others ask for it
        print(
            f"error: {gone}, so rank {self.rank} of {self.size} stops, too; go on from the last "
            f"checkpoint with --resume",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)  # the main thread may wait for the one that is gone


def _stop_lightnings_observer() -> None:
    """Lightning would kill this process without a word when one that it started is gone."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._child_processes = []
