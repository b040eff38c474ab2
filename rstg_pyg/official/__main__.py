"""Converts published weights: ``python -m rstg_pyg.official CHECKPOINT --cfg smt.yaml --out FILE``.

Writes a safetensors file for ``train/run.py --cfg smt.yaml --evaluate FILE``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rstg_pyg.official import ConversionError, convert, load_variables


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rstg_pyg.official",
        description="Converts weights of the published TensorFlow code.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a TensorFlow checkpoint or an .npz")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="config values")
    parser.add_argument("--cfg", required=True, metavar="NAME", help="the config of the network")
    parser.add_argument("--out", required=True, metavar="FILE", help="the .safetensors file to write")
    parser.add_argument("--allow-unused", action="store_true", help="skip tensors that are not needed")
    parser.add_argument("--report", action="store_true", help="print what happened to every tensor")
    arguments = parser.parse_intermixed_args(argv)
    try:
        # Configs belong to rstg_pyg.train, which the rest of this package does not import.
        from rstg_pyg.train.command import command

        return command(_convert)(arguments)
    except ImportError as e:
        print(f'error: {e}; this command needs pip install "rstg_pyg[train]"', file=sys.stderr)
        return 2


def _convert(arguments: argparse.Namespace) -> int:
    from rstg_pyg.train.build import build_model
    from rstg_pyg.train.config import load_config
    from rstg_pyg.train.files import output_file
    from rstg_pyg.train.run_folder.weights import write_weights

    try:
        config = load_config(arguments.cfg, arguments.overrides, demo=False)
        out = output_file("--out", arguments.out, (".safetensors",))
        variables = load_variables(arguments.checkpoint)
        classes = [value.size for name, value in variables.items() if name.endswith("/pred/bias")]
        if len(classes) != 1:
            raise ConversionError(
                f"{arguments.checkpoint}: expected weights of a complete network of the published code "
                f"(got {len(variables)} tensors, {len(classes)} of them named .../pred/bias)"
            )
        model = build_model(config, classes[0])
        model, report = convert(model, variables, allow_unused=arguments.allow_unused)
        write_weights(out, model, config, Path(arguments.checkpoint).name)
    except ValueError as e:
        tensors = getattr(e, "report", None)  # of a ConversionError
        if arguments.report and tensors is not None:
            print(tensors.table())
        print(f"error: {e}", file=sys.stderr)
        return 2
    if arguments.report:
        print(report.table())
    print(f"{report}: {'; '.join(sorted(set(report.skipped.values()))) or 'nothing skipped'}")
    print(f"{classes[0]} classes; written to {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
