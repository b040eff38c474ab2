import signal
import types

import pytest
import torch
from helpers.results import rows_of

from rstg_pyg.train.run_folder.metrics import MetricsFile
from rstg_pyg.train.training import callbacks
from rstg_pyg.train.training.callbacks import Interrupted, Meter, StopOnSignal


class Metrics:
    """Mean loss and accuracy since the last reset."""

    def __init__(self):
        self.losses = []

    def compute(self):
        mean = sum(self.losses) / len(self.losses)
        return {"loss": torch.tensor(mean), "top1": torch.tensor(0.5), "top5": torch.tensor(1.0)}

    def reset(self):
        self.losses = []


class Run:
    """A training without a network: each step waits for data and computes for so many seconds."""

    def __init__(self, path, monkeypatch, parts=1, step=0, rank=0):
        self.clock, self.shown, self.logged = 100.0, [], []
        monkeypatch.setattr(callbacks.time, "perf_counter", lambda: self.clock)
        self.loader = types.SimpleNamespace(waits=[9.0])  # of before
        self.meter = Meter(path, log_every=2, batch_size=16, loader=self.loader)
        logger = types.SimpleNamespace(log_metrics=lambda *row: self.logged.append(row))
        self.optimizer = types.SimpleNamespace(param_groups=[{"lr": 0.5}])
        self.trainer = types.SimpleNamespace(
            accumulate_grad_batches=parts, global_step=step, is_global_zero=rank == 0,
            loggers=[logger],
        )  # fmt: skip
        self.task = types.SimpleNamespace(
            train_metrics=Metrics(), log_dict=lambda values, **_: self.shown.append(values),
            total_steps=1_200,
        )  # fmt: skip
        self.batch = 0

    def start(self):
        self.meter.on_train_start(self.trainer, self.task)
        return self

    def step(self, wait, compute, loss=1.0):
        parts = self.trainer.accumulate_grad_batches
        for part in range(parts):
            self.loader.waits.append(wait / parts)
            self.clock += (wait + compute) / parts
            self.task.train_metrics.losses.append(loss)
            if part == parts - 1:
                self.meter.on_before_optimizer_step(self.trainer, self.task, self.optimizer)
                self.trainer.global_step += 1
                self.optimizer.param_groups[0]["lr"] /= 2  # the schedule
            self.meter.on_train_batch_end(self.trainer, self.task, None, None, self.batch)
            self.batch += 1

    def validate(self, loss, seconds=50.0):
        self.clock += seconds
        self.trainer.callback_metrics = {"val/loss": loss, "val/top1": 0.25, "val/top5": 0.75}
        self.meter.on_validation_end(self.trainer, self.task)


@pytest.mark.parametrize("parts", [1, 4])
def test_rows_are_means_since_the_row_before(tmp_path, monkeypatch, capsys, parts):
    path = tmp_path / "metrics.csv"
    run = Run(path, monkeypatch, parts).start()
    run.step(1.0, 3.0, loss=2.0)
    assert rows_of(path) == []
    run.step(0.0, 4.0, loss=1.0)
    run.validate(0.75)
    run.step(2.0, 2.0, loss=0.5)
    run.step(2.0, 6.0, loss=0.25)
    first, validation, second = rows_of(path)
    assert first == {
        "step": "2", "split": "train", "loss": "1.5", "top1": "0.5", "top5": "1", "lr": "0.25",
        "videos_per_second": "4", "data_share": "0.125", "mAP": "",
    }  # fmt: skip
    assert (validation["step"], validation["split"], validation["lr"]) == ("2", "val", "")
    assert [validation[key] for key in ("loss", "top1", "top5")] == ["0.75", "0.25", "0.75"]
    assert (second["step"], second["loss"], second["data_share"]) == ("4", "0.375", "0.333333")
    assert second["videos_per_second"] == "2.66667"  # the validation's seconds are not in it
    line = "step     2/1,200  train loss 1.5000  val loss 0.7500  top-1  25.00%\n"
    assert capsys.readouterr().out == line
    assert run.shown[0] == {"loss": 1.5, "acc": 0.5, "videos/s": 4.0}
    assert [(step, sorted(values)[0]) for values, step in run.logged] == [
        (2, "train/data_share"), (2, "val/loss"), (4, "train/data_share"),
    ]  # fmt: skip

    found = run.meter.summary()
    expected = {
        "train_seconds": 20.0, "videos_per_second": 3.2, "step_ms": 4000.0, "data_ms": 1500.0,
        "data_share": 0.25, "worst_data_share": 0.5, "slow_data_steps": 0.75,
    }  # fmt: skip
    assert found == pytest.approx(expected)


def test_a_step_that_waits_for_a_tenth_is_not_slow(tmp_path, monkeypatch):
    run = Run(tmp_path / "metrics.csv", monkeypatch).start()
    run.step(1.0, 9.0)
    run.step(2.0, 8.0)
    assert run.meter.summary()["slow_data_steps"] == 0.5


def test_only_the_first_process_writes(tmp_path, monkeypatch, capsys):
    run = Run(tmp_path / "metrics.csv", monkeypatch, rank=1).start()
    run.step(1.0, 1.0)
    run.step(1.0, 1.0)
    run.validate(1.0)
    assert not list(tmp_path.iterdir()) and run.logged == [] and capsys.readouterr().out == ""
    assert run.meter.summary()["train_seconds"] == 4.0


def test_a_run_goes_on_with_its_rows_and_seconds(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    first = Run(path, monkeypatch).start()
    assert Meter(path, 1, 1, None).summary() == {"train_seconds": 0.0}
    first.meter.pretraining = {"loss": 1.0}
    for _ in range(6):
        first.step(0.0, 2.0)
    state = first.meter.state_dict()
    assert state == {"seconds": 12.0, "pretraining": {"loss": 1.0}}

    again = Run(path, monkeypatch, step=4)  # its last checkpoint was there
    again.meter.load_state_dict(state)
    again.start()
    assert [row["step"] for row in rows_of(path)] == ["2", "4"]
    again.step(0.0, 1.0)
    again.step(0.0, 1.0)
    assert [row["step"] for row in rows_of(path)] == ["2", "4", "6"]
    assert again.meter.summary()["train_seconds"] == 14.0
    assert again.meter.state_dict() == {"seconds": 14.0, "pretraining": {"loss": 1.0}}

    Run(path, monkeypatch).start()  # from the beginning
    assert rows_of(path) == []


def test_a_row_of_which_only_a_part_was_written_is_none(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"step,split\r\n1,val\r\n2")  # the process was killed in the middle of 20
    assert [row["step"] for row in MetricsFile(path).rows()] == ["1"]


class Stopped:
    """A training of which a signal came; a validation every four batches."""

    def __init__(self, parts=1, processes=1, asked=True):
        self.saved = []
        save = lambda trainer, task: self.saved.append(trainer)  # noqa: E731
        self.stop = StopOnSignal(types.SimpleNamespace(save=save, on_validation_end=save))
        self.stop.asked = asked
        decide = types.SimpleNamespace(reduce_boolean_decision=lambda asked, all: not all)
        self.trainer = types.SimpleNamespace(
            accumulate_grad_batches=parts, world_size=processes, global_step=0, log_every_n_steps=2,
            val_check_batch=4, strategy=decide,
        )  # fmt: skip

    def batch(self, number):
        """Whether the training stops after this batch, from 0."""
        self.trainer.global_step = (number + 1) // self.trainer.accumulate_grad_batches
        return self._stops(lambda: self.stop.on_train_batch_end(self.trainer, None, None, None, number))

    def validation(self):
        return self._stops(lambda: self.stop.on_validation_end(self.trainer, None))

    def _stops(self, call):
        try:
            call()
        except Interrupted:
            return True
        return False


def test_a_signal_stops_after_the_step_or_the_validation_that_is_next():
    run = Stopped()
    assert [run.batch(i) for i in range(8)] == [True, True, True, False] * 2
    assert len(run.saved) == 6
    assert run.validation() and len(run.saved) == 7
    run = Stopped(asked=False)
    assert not any(run.batch(i) for i in range(8)) and not run.validation() and not run.saved


def test_a_signal_stops_after_whole_steps():
    assert [Stopped(parts=3).batch(i) for i in range(6)] == [False, False, True] * 2


def test_processes_ask_each_other_after_steps_that_are_logged():
    run = Stopped(processes=2, asked=False)  # but the other one was
    run.trainer.val_check_batch = 5
    assert [run.batch(i) for i in range(6)] == [False, True] * 3
    assert run.validation()


def test_a_second_signal_is_not_caught(capsys):
    before = signal.getsignal(signal.SIGTERM)
    run = Stopped(asked=False)
    run.stop.on_train_start(run.trainer, None)
    assert signal.getsignal(signal.SIGTERM) == run.stop._ask == signal.getsignal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)
    assert run.stop.asked and "press Ctrl-C again to stop at once" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == before
    run.stop.on_train_start(run.trainer, None)
    run.stop.teardown(run.trainer, None, "fit")
    assert signal.getsignal(signal.SIGTERM) == before
