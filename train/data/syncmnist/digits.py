"""Handwritten digits: MNIST from its IDX files, or scikit-learn's built-in ones."""

from __future__ import annotations

import gzip
import socket
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rstg_pyg.train.data.paths import cache_folder, home
from rstg_pyg.train.errors import UserError

SIDE = 28
SOURCES = ("auto", "mnist", "builtin")
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_BUILTIN_TRAIN = 1437  # of 1,797; the rest is for testing
_DOWNLOAD_TIMEOUT = 10.0
_MOST_BYTES = 1 << 27  # of an unpacked IDX file; the largest has 47 MB


@dataclass(frozen=True)
class Digits:
    """Images of digits and where they are from.

    Attributes:
        images: Gray images 0..255, ``[n, 28, 28]`` uint8.
        labels: Classes 0..9, ``[n]`` int64.
        source: ``"mnist"`` or ``"builtin"``.
        detail: One line for people: which files, how many images.
    """

    images: Tensor
    labels: Tensor
    source: str
    detail: str


def load_digits(split: str, source: str = "auto", root: str | Path | None = None) -> Digits:
    """Loads the digits of one split.

    Args:
        split: ``"train"`` or ``"test"``; the two share no image.
        source: ``"mnist"``; ``"builtin"`` (scikit-learn's 1,797 digits of 8 x 8 cells enlarged to
            28 x 28, which need no download); or ``"auto"``: MNIST where it is there or can be
            downloaded, else the built-in ones.
        root: Folder with the MNIST IDX files, raw or ``.gz``. If not given, they are looked for, and
            downloaded to, the user's cache folder.

    Raises:
        UserError: If the files asked for are missing or damaged, or a folder is named and the built-in
            digits are. A folder that was named is never replaced by another source.
    """
    if source not in SOURCES:
        raise UserError(f"data.digits: expected one of {', '.join(SOURCES)} (got {source!r})")
    if source == "builtin":
        if root is not None:
            raise UserError(
                f"data.digits=builtin: needs no files, but data.root names {root}; leave one out"
            )
        return _builtin(split)
    if root is not None:
        return _mnist(split, home(root))
    folder = cache_folder() / "mnist"
    if _find(folder, _FILES["train"][0]) is None:
        problem = _download(folder)
        if problem is not None:
            if source == "auto":
                return _builtin(split)
            raise UserError(
                f"data.digits=mnist: the download failed ({problem}). Put the four IDX files into a "
                f"folder and name it with data.root=FOLDER, or use data.digits=builtin"
            )
    return _mnist(split, folder)


def _mnist(split: str, root: Path) -> Digits:
    if not root.is_dir():
        raise UserError(f"data.root: the folder {root} does not exist")
    found = []
    for name in _FILES[split]:
        path = _find(root, name)
        if path is None:
            raise UserError(
                f"data.root: {root} has no {name} (nor {name}.gz). It must hold the four MNIST IDX "
                f"files; or choose data.digits=builtin"
            )
        found.append(path)
    images, labels = read_idx(found[0], 3), read_idx(found[1], 1)
    if images.shape[1:] != (SIDE, SIDE) or len(images) != len(labels) or len(images) == 0:
        raise UserError(
            f"{found[0]}: expected n images of 28 x 28 and as many labels "
            f"(got {images.shape} and {labels.shape[0]} labels)"
        )
    if labels.max() > 9:
        raise UserError(f"{found[1]}: expected labels 0..9 (got {labels.max()})")
    return Digits(
        torch.from_numpy(images),
        torch.from_numpy(labels.astype(np.int64)),
        "mnist",
        f"MNIST, {len(images)} {split} images from {found[0].parent}",
    )


def _find(root: Path, name: str) -> Path | None:
    """The IDX file under ``root``, also where torchvision puts it and in the other spelling."""
    for folder in (root, root / "MNIST" / "raw", root / "raw"):
        for stem in (name, name.replace("-idx", ".idx")):
            for path in (folder / stem, folder / f"{stem}.gz"):
                if path.is_file():
                    return path
    return None


def read_idx(path: Path, num_dims: int) -> np.ndarray:
    """Reads an IDX file of unsigned bytes, raw or gzipped.

    Raises:
        UserError: If the file cannot be read, is not IDX, or is truncated.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)  # a small .gz may hold any number of zeros
        if len(data) > _MOST_BYTES:
            raise UserError(f"{path}: holds more than {_MOST_BYTES >> 20} MiB; download it again")
    except (OSError, EOFError, zlib.error) as e:
        raise UserError(f"{path}: cannot be read, it seems damaged ({e}); download it again") from e
    header = 4 + 4 * num_dims
    if len(data) < header or data[:4] != bytes([0, 0, 8, num_dims]):
        raise UserError(
            f"{path}: not an IDX file of {num_dims}-dimensional unsigned bytes "
            f"(first bytes {data[:4].hex() or 'none'}); download it again"
        )
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", num_dims, 4))
    wanted = header + int(np.prod(shape, dtype=np.int64))
    if len(data) != wanted:
        raise UserError(
            f"{path}: expected {wanted} bytes for shape {shape} (got {len(data)}); it is "
            f"{'truncated' if len(data) < wanted else 'too long'}, download it again"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape).copy()


def _download(folder: Path) -> str | None:
    """Downloads MNIST with torchvision; returns what went wrong, or nothing."""
    from torchvision.datasets import MNIST  # here, because it is needed for the download alone

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT)
    try:
        MNIST(str(folder), download=True)
    except (OSError, RuntimeError) as e:  # URLError is an OSError
        return str(e).splitlines()[0] if str(e) else type(e).__name__
    finally:
        socket.setdefaulttimeout(before)
    return None


def _builtin(split: str) -> Digits:
    from PIL import Image
    from sklearn.datasets import load_digits as sklearn_digits

    data = sklearn_digits()
    part = slice(None, _BUILTIN_TRAIN) if split == "train" else slice(_BUILTIN_TRAIN, None)
    small = np.round(data.images[part] * (255 / 16)).astype(np.uint8)
    images = np.stack(
        [np.asarray(Image.fromarray(im).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for im in small]
    )
    return Digits(
        torch.from_numpy(images),
        torch.from_numpy(data.target[part].astype(np.int64)),
        "builtin",
        f"scikit-learn's built-in digits (8 x 8, enlarged to 28 x 28), {len(images)} {split} images",
    )
