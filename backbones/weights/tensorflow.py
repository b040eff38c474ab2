"""Reads variables of TensorFlow from files."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from rstg_pyg.backbones.weights.report import WeightsError


def read_variables(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads named arrays, see :func:`rstg_pyg.official.load_variables`.

    Raises:
        WeightsError: If the file is missing, damaged, or contains anything other than arrays, or if
            tensorflow is needed but not installed.
    """
    path = Path(path)
    if path.suffix == ".npz":
        if not path.is_file():
            raise WeightsError(f"{path}: no such file")
        return _load_npz(path)
    return _load_checkpoint(_checkpoint_prefix(path))


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise ValueError("it is a single array without a name")
        with file:
            found = {name: file[name] for name in file.files}
        for name, value in found.items():
            if not isinstance(value, np.ndarray):
                raise ValueError(f"{name} in it is not an array")
        return found
    except (
        *(ValueError, OSError, EOFError, KeyError, RuntimeError, MemoryError),
        *(zipfile.BadZipFile, zlib.error),
    ) as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        if "pickle" in reason:
            reason = "it contains pickled objects, which could run code; only arrays are read"
        raise WeightsError(f"{path}: not a readable .npz file ({reason})") from None


def _checkpoint_prefix(path: Path) -> Path:
    """The path of a checkpoint as TensorFlow expects it, without ``.index`` or ``.data-...``."""
    if path.is_dir():
        found = sorted(path.glob("*.index"))
        if len(found) != 1:
            names = ", ".join(file.stem for file in found) or "none"
            raise WeightsError(
                f"{path}: expected one TensorFlow checkpoint (*.index) in the folder (got {names}); "
                "give its path without '.index'"
            )
        path = found[0]
    name = path.name
    if name.endswith(".index"):
        path = path.with_name(name.removesuffix(".index"))
    elif ".data-" in name:
        path = path.with_name(name[: name.index(".data-")])
    if not path.with_name(path.name + ".index").is_file():
        raise WeightsError(
            f"{path}: expected an .npz file or a TensorFlow V2 checkpoint (no {path.name}.index there)"
        )
    if not list(path.parent.glob(f"{path.name}.data-*-of-*")):
        raise WeightsError(f"{path}: the checkpoint's data file {path.name}.data-... is missing")
    return path


def _load_checkpoint(prefix: Path) -> dict[str, np.ndarray]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow as tf
    except ImportError:
        raise WeightsError(
            "reading a TensorFlow checkpoint needs tensorflow, which is not installed: "
            'pip install "rstg_pyg[convert]"'
        ) from None
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        return {
            name: np.asarray(reader.get_tensor(name)) for name in reader.get_variable_to_shape_map()
        }
    except (tf.errors.OpError, ValueError, RuntimeError, LookupError) as e:
        raise WeightsError(
            f"{prefix}: not a readable TensorFlow checkpoint ({str(e).splitlines()[0]})"
        ) from None
