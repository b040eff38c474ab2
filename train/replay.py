"""Repeats a step that a training stopped at: ``python train/replay.py RUN/nonfinite/step-N.pt``.

Says again where the first number comes from that is not finite. Ends with exit code 1 if there is one,
0 if all is finite here, 2 for a file that is no such step.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from rstg_pyg.train.build import build_backbone, build_model
from rstg_pyg.train.command import command, is_too_large
from rstg_pyg.train.config import parse_config
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.training.nonfinite import check_step, describe, read_step, repeat
from rstg_pyg.train.training.offender import Offender
from rstg_pyg.train.training.pretrain import Filters
from rstg_pyg.train.training.task import VideoTask


@command
def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="replay.py", description="Repeat a step that was not finite.", allow_abbrev=False
    )
    parser.add_argument("step", metavar="STEP.pt", help="a file of a run's folder 'nonfinite'")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    arguments = parser.parse_args(argv)
    if arguments.device == "gpu" and not torch.cuda.is_available():
        raise UserError("--device: there is no GPU here; use auto or cpu")
    record = read_step(Path(arguments.step))
    gpu = arguments.device != "cpu" and torch.cuda.is_available()
    found = replay(record, "cuda" if gpu else "cpu", arguments.step)
    print(describe(record, found))
    return 0 if found is None else 1


def replay(record: dict[str, Any], device: str, where: str) -> Offender | None:
    """Builds what was trained, with the weights from before the step, and repeats the step.

    Args:
        record: What :func:`read_step` returns.
        device: Where to repeat it.
        where: What the record is called in error messages.

    Raises:
        UserError: If its config or weights are not of this version.
    """
    config = parse_config(record["config"], where)
    check_step(record, where)
    weights = record["state_dict"]
    if record["kind"] == "filters":
        network = Filters(build_backbone(config), config)
        loss = network.loss
    else:
        network = build_model(config, weights["lin.weight"].size(0))
        loss = VideoTask(network, config, 1, "", []).loss
    try:
        network.load_state_dict(weights)
    except RuntimeError as e:
        reason = " ".join(str(e).split())[:300]
        raise UserError(f"{where}: its weights do not fit the config's model ({reason})") from e
    try:
        return repeat(network.to(device).train(), loss, record)
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as e:
        if is_too_large(e):
            raise
        reason = f"{type(e).__name__}: {e}".splitlines()[0][:200]
        raise UserError(
            f"{where}: the step cannot be repeated, its batch or generators do not fit ({reason}); "
            f"give the file as the training wrote it"
        ) from e


if __name__ == "__main__":
    sys.exit(main())
