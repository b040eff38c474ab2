"""Reads weight files without running code that may be in them."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rstg_pyg.backbones.weights.report import WeightsError
from rstg_pyg.backbones.weights.tensorflow import read_variables

#: Keys of checkpoints that hold the weights.
CONTAINERS = ("model_state", "state_dict", "model", "blobs")
#: Prefixes that wrappers add to every name.
PREFIXES = ("module.", "model.")


def read_tensors(path: str | Path) -> dict[str, Any]:
    """The content of a weight file, by name.

    ``.safetensors`` files are read with safetensors. From ``.pkl`` and ``.pickle`` files (including
    those of Python 2) only numeric arrays, strings, numbers, dictionaries, lists and tuples are read.
    ``.npz`` files and TensorFlow checkpoints (``model.ckpt`` or ``model.ckpt.index``, which need
    tensorflow) are read as arrays. All other files are read with :func:`torch.load` and
    ``weights_only=True``. No code is run.

    Args:
        path: The file.

    Raises:
        WeightsError: If there is no such file, if it is truncated or of another type, or if reading it
            would run code.
    """
    path = Path(path)
    if path.suffix in (".npz", ".index") or path.with_name(f"{path.name}.index").is_file():
        return dict(read_variables(path))
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"  # then torch.save wrote it, whatever its name
        if path.suffix == ".safetensors":
            content = _read_safetensors(path)
        elif path.suffix in (".pkl", ".pickle") and not zipped:
            content = _read_arrays(path)
        else:
            content = _read_torch(path)
    except WeightsError:
        raise
    except Exception as error:  # a broken file makes pickle raise nearly anything
        what = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise WeightsError(
            f"{path}: expected a weight file, but it is truncated or of another type ({what}); "
            "download it again"
        ) from error
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path}: expected a dictionary of tensors (got {type(content).__name__}); save the "
            "model's state_dict()"
        )
    return {str(name): value for name, value in content.items()}


def unwrap(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The tensors of a checkpoint by name without prefixes, and the names of its other entries."""
    other: list[str] = []
    for _ in CONTAINERS:
        inner = next((c for c in CONTAINERS if isinstance(content.get(c), Mapping)), None)
        if inner is None:
            break
        other += [name for name in content if name != inner]
        content = content[inner]
    state = {str(name): value for name, value in content.items()}
    for prefix in PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state, other


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise WeightsError(f"{path}: reading it needs safetensors (pip install safetensors)") from error
    return load_file(path)


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        if name:
            raise _unsafe(path, name[1]) from None  # torch's own message says how to run it
        raise ValueError("torch.load cannot read it") from None


def _read_arrays(path: Path) -> Any:
    with path.open("rb") as file:
        unpickler = _ArrayUnpickler(file)
        try:
            content = unpickler.load()
        except _Refused as error:
            raise _unsafe(path, str(error)) from None
    return _plain(content)


def _unsafe(path: Path, name: str) -> WeightsError:
    return WeightsError(
        f"{path}: refused, because loading it would call '{name}', which could run code (nothing was "
        "run); expected tensors or numeric arrays: save the weights again in this form"
    )


class _Refused(Exception):
    """A pickle refers to a name that numeric arrays do not need."""


class _DType:
    """Replaces :class:`numpy.dtype` in a pickle: a numeric type and a byte order."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype

    def __setstate__(self, state: tuple):
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Replaces :class:`numpy.ndarray` in a pickle."""

    __slots__ = ("value",)

    def __setstate__(self, state: tuple):
        _, shape, kind, fortran, data = state
        self.value = _numbers(data, kind, shape, "F" if fortran else "C")


def _numbers(data: bytes | str, kind: _DType, shape: tuple, order: Any) -> np.ndarray:
    if isinstance(data, str):
        data = data.encode("latin1")  # a string of Python 2
    elif isinstance(data, bytearray):
        data = bytes(data)  # the rest of the pickle could change a bytearray
    return np.frombuffer(data, kind.dtype).reshape(shape, order=order)


class _ArrayUnpickler(pickle.Unpickler):
    """Reads numeric arrays and raises an error for every other name.

    No function or class that is named in the file is imported, not even numpy's: the names that numpy
    writes for an array are mapped to the methods below. (They are bound methods, which a pickle cannot
    modify; a pickle could modify functions of a module.)
    """

    def __init__(self, file):
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """The method for a name in the pickle."""
        module = module.replace("numpy._core.", "numpy.core.")
        known = {
            ("numpy", "ndarray"): "ndarray",
            ("numpy", "dtype"): self._dtype,
            ("numpy.core.multiarray", "_reconstruct"): self._array,
            ("numpy.core.multiarray", "scalar"): self._scalar,
            ("numpy.core.numeric", "_frombuffer"): self._frombuffer,
            ("_codecs", "encode"): self._encode,
            ("__builtin__", "bytes"): self._no_bytes,
            ("collections", "OrderedDict"): self._dictionary,
        }
        if (module, name) not in known:
            raise _Refused(f"{module}.{name}")
        return known[module, name]

    def _dtype(self, name: str, *_: Any) -> _DType:
        if not re.fullmatch(r"[<>|=]?([fiu][1-9]|b1)", name):
            raise _Refused(f"numpy.dtype({name!r})")
        return _DType(np.dtype(name))

    def _array(self, *_: Any) -> _Array:
        return _Array()

    def _scalar(self, kind: _DType, data: bytes | str) -> Any:
        return _numbers(data, kind, (), "C")[()]

    def _frombuffer(self, data: bytes, kind: _DType, shape: tuple, order: str) -> np.ndarray:
        return _numbers(data, kind, shape, order)

    def _encode(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise _Refused(f"_codecs.encode(..., {encoding!r})")
        return text.encode("latin1")

    def _no_bytes(self) -> bytes:
        return b""  # the data of an empty array

    def _dictionary(self, *items: Any) -> dict:
        return dict(*items)


def _plain(content: Any) -> Any:
    """The content, with arrays instead of :class:`_Array`."""
    if isinstance(content, _Array):
        return content.value
    if isinstance(content, dict):
        return {name: _plain(value) for name, value in content.items()}
    return content
