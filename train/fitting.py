"""Trains and evaluates: :func:`fit` and :func:`evaluate`, of which ``run.py`` is the command line."""

from __future__ import annotations

import functools
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from rstg_pyg import VideoClassifier
from rstg_pyg.train.build import build_dataset, build_model, check_model, has_split
from rstg_pyg.train.config import (
    Config,
    change_config,
    config_hash,
    load_config,
    to_dict,
    to_yaml,
)
from rstg_pyg.train.data.loaders import video_ids
from rstg_pyg.train.data.skipped import Skipped
from rstg_pyg.train.data.syncmnist import SyncMNIST
from rstg_pyg.train.errors import UserError, counted, nearest
from rstg_pyg.train.files import from_here, write_json, write_text
from rstg_pyg.train.predictor import Predictor
from rstg_pyg.train.pretrained import find_weights
from rstg_pyg.train.run_folder.confusion import write_confusion, write_curves, write_precisions
from rstg_pyg.train.run_folder.environment import device_name, environment, peak_memory, versions
from rstg_pyg.train.run_folder.folder import check_writable, new_run_folder, only_one, run_to_resume
from rstg_pyg.train.run_folder.predictions import draw_predictions, write_table
from rstg_pyg.train.run_folder.printed import print_head, print_tail
from rstg_pyg.train.run_folder.weights import (
    check_classes,
    check_data,
    check_resumable,
    load_weights,
    open_weights,
    read_weights,
    saved_config,
    training_videos,
)
from rstg_pyg.train.schema import (
    FolderConfig,
    SkeletonConfig,
    SomethingConfig,
    SyncMNISTConfig,
    TrainConfig,
    TrainerConfig,
)
from rstg_pyg.train.training.callbacks import Meter, StopEarly, StopOnNonFinite, StopOnSignal
from rstg_pyg.train.training.checkpoints import Checkpoints
from rstg_pyg.train.training.cuda_graph import RecordStep
from rstg_pyg.train.training.initial import load_pretrained
from rstg_pyg.train.training.loggers import (
    log_results,
    log_setting,
    logging_to,
    make_loggers,
)
from rstg_pyg.train.training.pretrain import pretrain
from rstg_pyg.train.training.task import VideoTask
from rstg_pyg.train.training.trainer import (
    choose_precision,
    eval_loader,
    make_trainer,
    on_cpu,
    prepare_model,
    prepare_torch,
    share_batches,
    train_loader,
    with_precision,
)


@dataclass(frozen=True)
class Run:
    """What :func:`fit` leaves.

    Attributes:
        folder (Path): The run folder.
        results (dict): What ``results.json`` holds.
    """

    folder: Path
    results: dict[str, Any]

    @property
    def checkpoint(self) -> Path:
        """The best checkpoint, or the last where nothing was validated."""
        return find_weights(self.folder)

    @functools.cached_property
    def predictor(self) -> Predictor:
        """The network of :attr:`checkpoint`, with which videos are predicted."""
        return Predictor.load(self.folder)

    @property
    def model(self) -> VideoClassifier:
        """The network of :attr:`checkpoint`, in evaluation mode."""
        return self.predictor.model


def fit(
    config: Config | str | Path,
    *overrides: str,
    out: str | Path | None = None,
    resume: bool | str | Path = False,
    **settings: Any,
) -> Run:
    """Trains a network, evaluates it on the test split, and writes a run folder.

    Args:
        config: A config: a file, the name of one that comes with the package, or a :class:`Config`.
        *overrides: Values to change, as on the command line: ``"train.lr=0.01"``.
        out: The run folder. (default: the first free of ``runs/NAME``, ``runs/NAME-2``, ...)
        resume: Whether to go on with the run in ``out`` (by default the newest of this name), or the
            checkpoint or run folder to go on from. (default: ``False``)
        **settings: Values to change: keys of the config itself or of its sections ``data``, ``train``
            and ``trainer``. Keys of other sections are dotted.

    Raises:
        UserError: If a value, the data or a checkpoint cannot be used.
        NonFiniteError: If the loss is not finite.
        Interrupted: After Ctrl-C, when a checkpoint has been saved.

    Example:
        >>> run = fit("folder.yaml", root="clips", epochs=10)
        >>> run.results["top1"], run.predictor("clip.mp4", top=1)
    """
    config = _changed(config, overrides, settings)
    check_model(config)
    out = None if out is None else os.fspath(out)
    folder, checkpoint, step = None, None, 0
    stored: dict[str, Any] = {}
    if resume is not False:
        if resume == "":
            raise UserError("--resume: expected a run folder or a checkpoint (got an empty name)")
        newest = "" if resume is True else os.fspath(resume)
        folder, checkpoint = run_to_resume(config.name, out, newest)
        if checkpoint is not None:
            step, precision, stored = check_resumable(checkpoint, config)
            if config.trainer.precision == "auto":
                config = with_precision(config, precision)
        check_writable(folder)

    prepare_torch(config)
    splits = [split for split in ("train", "val", "test") if has_split(config, split)]
    datasets = {split: build_dataset(config, split) for split in splits}
    if config.train.early_stopping is not None and "val" not in datasets:
        raise UserError("train.early_stopping: expected validation videos (got none); leave it out")
    names = datasets["train"].label_names
    if checkpoint is not None:
        check_data(checkpoint, stored, datasets["train"], config.data.root)
    several = getattr(datasets["train"], "multi_label", False)
    model = build_model(config, len(names))
    config = choose_precision(config, model)
    if checkpoint is None:
        load_pretrained(model, config, names)
    folder = folder or new_run_folder(out, config.name)
    print_head(config, folder, datasets["train"], model)
    if "val" not in datasets:
        tested = "the test comes at the end" if "test" in datasets else "no accuracy is measured"
        print(f"no validation while training: {tested}", flush=True)
    prepare_model(model, config)

    loader = train_loader(config, datasets["train"])
    parts = config.train.accumulate
    task = VideoTask(model, config, loader.steps // parts, datasets["train"].origin, names, several)
    task.videos = training_videos(datasets["train"])
    save_every = 0 if "val" in datasets else 1_000
    checkpoints = Checkpoints(folder / "checkpoints", checkpoint, step, save_every)
    videos = parts * min(loader.batch_size, len(datasets["train"]))
    meter = Meter(folder / "metrics.csv", config.train.log_every, videos, loader)
    callbacks: list[pl.Callback] = [meter, checkpoints, StopOnNonFinite()]
    if config.train.early_stopping is not None:
        callbacks.append(StopEarly(config.train.early_stopping, task.score))
    if config.trainer.cuda_graph and not on_cpu(config):
        callbacks.append(RecordStep())
    callbacks.append(StopOnSignal(checkpoints))  # the last: what it saves has counted the validation
    validate_every = min((config.train.validate_every or loader.steps) * parts, loader.steps)
    loggers = make_loggers(config, folder, step)
    trainer = make_trainer(config, folder, callbacks, loggers, validate_every)
    share_batches(loader, trainer)
    with only_one(folder, trainer.is_global_zero):
        write_setting(folder, config, trainer)
        if trainer.is_global_zero:
            log_setting(loggers, config, folder)

        device = trainer.strategy.root_device
        if config.pretrain.steps and checkpoint is None:
            meter.pretraining = filters = pretrain(model, config, device)
            meter.seconds += filters["seconds"]
            print(
                f"pre-training of the backbone: {counted(filters['steps'], 'step')} in "
                f"{filters['seconds']:.0f} s, it recognizes {filters['accuracy']:.1%} of the digits in "
                f"single frames",
                flush=True,
            )
        for dataset in datasets.values():
            to_device(dataset, config, device)
        note_skipped(datasets, folder, trainer)
        with checkpoints.restoring(), logging_to(loggers, folder):
            val_loader = eval_loader(config, datasets["val"], trainer) if "val" in datasets else None
            trainer.fit(task, loader, val_loader, ckpt_path=checkpoint)

        speed = meter.summary()
        results = test(config, task, datasets.get("test"), datasets["train"], trainer)
        last = folder / "checkpoints" / "last.ckpt"
        results |= {"steps": trainer.global_step, "checkpoint": str(from_here(last))}
        results |= {"seconds": speed["train_seconds"]}
        results |= {"training": speed, "pretraining": meter.pretraining}
        if trainer.is_global_zero:
            if "test" in datasets:
                write_classes(folder, task, datasets["test"], results)
            write_curves(folder / "metrics.csv")
            with logging_to(loggers, folder):
                log_results(loggers, results, folder)
            write_json(folder / "results.json", results)  # the last file: a run that has it is complete
            print_tail(results, folder)
    return Run(folder, results)


def evaluate(
    checkpoint: Run | str | Path,
    config: Config | str | Path | None = None,
    *overrides: str,
    out: str | Path | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Evaluates a network on the test split; returns what ``results.json`` holds.

    Args:
        checkpoint: A run or its folder, of which the best checkpoint is used; a checkpoint; or
            safetensors weights.
        config: A config, as in :func:`fit`. (default: the one of the training)
        *overrides: Values to change, as in :func:`fit`.
        out: The folder for the results. (default: the first free of ``runs/NAME-evaluate``, ...)
        **settings: Values to change, as in :func:`fit`.

    Raises:
        UserError: If a value, the data or the checkpoint cannot be used.
        NonFiniteError: If the loss is not finite.

    Example:
        >>> evaluate("runs/folder", root="other_clips")["top1"]
    """
    checkpoint = find_weights(checkpoint.folder if isinstance(checkpoint, Run) else checkpoint)
    if config is None:
        config = saved_config(open_weights(checkpoint)["config"], checkpoint)
    config = _changed(config, overrides, settings)
    check_model(config)
    weights = read_weights(checkpoint, config)
    prepare_torch(config)
    config = choose_precision(config)
    if not has_split(config, "test"):
        raise UserError("data.root: there is no list of validation videos; nothing can be evaluated")
    dataset = build_dataset(config, "test")
    check_classes(checkpoint, weights.get("label_names"), dataset.label_names, config.data.root)
    model = build_model(config, len(dataset.label_names))
    load_weights(model, weights["state_dict"], checkpoint)
    folder = new_run_folder(None if out is None else os.fspath(out), f"{config.name}-evaluate")
    print_head(config, folder, dataset, model)
    prepare_model(model, config)
    several = getattr(dataset, "multi_label", False)
    task = VideoTask(model, config, 1, dataset.origin, dataset.label_names, several)
    trainer = make_trainer(config, folder, [])
    to_device(dataset, config, trainer.strategy.root_device)
    note_skipped({"test": dataset}, folder, trainer)
    results = test(config, task, dataset, dataset, trainer)
    results |= {"steps": weights["global_step"], "checkpoint": str(from_here(checkpoint))}
    results |= {"seconds": results["test_seconds"]}
    write_setting(folder, config, trainer)
    if trainer.is_global_zero:
        write_classes(folder, task, dataset, results)
        write_json(folder / "results.json", results)
        print_tail(results, folder)
    return results


def _changed(config: Config | str | Path, overrides: tuple[str, ...], settings: dict) -> Config:
    """The config with values changed."""
    changes = list(overrides)
    for key, value in settings.items():
        text = json.dumps(value, default=_plain, ensure_ascii=False)
        changes.append(f"{_dotted(key)}={text}")
    if isinstance(config, Config):
        return change_config(config, changes)
    return load_config(os.fspath(config), changes)


def _plain(value: Any) -> Any:
    """A number or an array of NumPy or torch, or a path, as JSON has it."""
    return value.tolist() if hasattr(value, "tolist") else os.fspath(value)


def _dotted(key: str) -> str:
    """The complete key of a setting.

    Raises:
        UserError: If there is none of this name.
    """
    if "." in key or key in Config.model_fields:
        return key
    sections: list[tuple[str, Any]] = [("train", TrainConfig), ("trainer", TrainerConfig)]
    kinds = (SyncMNISTConfig, SomethingConfig, FolderConfig, SkeletonConfig)
    sections += [("data", section) for section in kinds]
    for name, section in sections:
        if key in section.model_fields:
            return f"{name}.{key}"
    known = [*Config.model_fields, *(key for _, section in sections for key in section.model_fields)]
    raise UserError(f"unknown setting '{key}'{nearest(key, known) or '; give it as SECTION.KEY=VALUE'}")


def write_setting(folder: Path, config: Config, trainer: pl.Trainer) -> None:
    """Writes ``config.yaml`` (the complete config) and ``environment.json`` (machine and versions)."""
    if trainer.is_global_zero:
        write_text(folder / "config.yaml", to_yaml(config))
        write_json(folder / "environment.json", environment(trainer.strategy.root_device))


def to_device(dataset, config: Config, device: torch.device) -> None:
    """Generates SyncMNIST on the model's device, unless worker processes do it."""
    if isinstance(dataset, SyncMNIST):
        dataset.to("cpu" if config.data.num_workers else device)


def note_skipped(datasets: dict[str, Any], folder: Path, trainer: pl.Trainer) -> None:
    """With ``data.on_error=skip``, gives the data sets a list for the videos that they skip."""
    if getattr(next(iter(datasets.values())), "on_error", "raise") == "skip":
        skipped = Skipped(folder, trainer.global_rank)
        for part, dataset in datasets.items():
            dataset.skipped = skipped.part(part, len(dataset))


def test(config: Config, task: VideoTask, dataset, known, trainer: pl.Trainer) -> dict[str, Any]:
    """Evaluates on the test split, if there is one; returns what every ``results.json`` has.

    Args:
        config: The experiment.
        task: The network.
        dataset: The test split. With ``None`` no accuracy is measured, and there are nulls.
        known: A split that is there.
        trainer: Lightning's.
    """
    part = getattr(known if dataset is None else dataset, "skipped", None)
    scores: dict[str, Any] = dict.fromkeys(("loss", "top1", "top5"))
    count = unread = 0
    begin = time.perf_counter()
    if dataset is not None:
        if part is not None:
            part.begin()
        trainer.test(task, eval_loader(config, dataset, trainer), verbose=False)
        scores |= task.test_results
        unread = 0 if part is None else part.end()
        count = len(dataset) - unread
    elif part is not None:
        part.skipped.gather()
    seconds = time.perf_counter() - begin
    device = trainer.strategy.root_device
    return {
        **scores,
        "num_videos": count,
        "num_unread": unread,
        "skipped": None if part is None else part.skipped.results(),
        "protocol": "none, no videos to evaluate" if dataset is None else dataset.protocol_text,
        "data": known.origin,
        "data_detail": (known if dataset is None else dataset).describe(),
        "test_seconds": seconds,
        "videos_per_second": count / seconds,
        "seed": config.seed,
        "config": to_dict(config),
        "config_hash": config_hash(config),
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "peak_memory_gib": peak_memory(),
        "versions": versions(),
    }


def write_classes(folder: Path, task: VideoTask, dataset: Any, results: dict[str, Any]) -> None:
    """Writes the predictions, and accuracy and confusion per class, as tables and pictures; with
    several labels per video, the average precision per class.
    """
    write_table(folder, task.test_predictions, video_ids(dataset), task.label_names, task.multi_label)
    draw_predictions(folder, task.samples, task.label_names)
    if task.multi_label:
        write_precisions(folder, task.class_precision.tolist(), task.label_names)
        return
    videos = counted(results["num_videos"], "video")
    title = f"{task.config.name}: top-1 {results['top1']:.2%} of {videos}"
    write_confusion(folder, task.test_confusion, task.label_names, title)
