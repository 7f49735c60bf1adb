"""The files of tensors that a run leaves: the weights of its network, and its checkpoint.

They are read as data alone: nothing in such a file is executed. Torch itself does not compare the
checksums in them; here they are compared, so that a flipped bit is not trained on.
"""

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from brc_pytorch.experiments.files import DamagedFileError, write_file

_PREFIX = "network."
"""Before the names of the network's weights in a checkpoint."""


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write the weights of a network, all or nothing."""
    content = io.BytesIO()
    torch.save({key: value.cpu() for key, value in weights.items()}, content)
    write_file(path, lambda file: file.write_bytes(content.getvalue()))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a network.

    Raises:
        DamagedFileError: If the file cannot be read, or holds anything else.
    """
    weights = _load(path, "the weights of a network")
    _check_tensors(path, weights)
    return weights


def read_checkpoint(path: Path, network: nn.Module, state_key: str) -> dict[str, Any]:
    """Read a checkpoint of Lightning's.

    Args:
        path: The file.
        network: The network that was trained.
        state_key: The name of the recorder's state in it.

    Returns:
        "weights", those of the network, and "recorder", the recorder's state.

    Raises:
        DamagedFileError: If the file cannot be read, or is no checkpoint of such a network.
    """
    expected = "a checkpoint of this run"
    content = _load(path, expected)
    for key in ("state_dict", "callbacks", "loops", "optimizer_states"):
        if key not in content:
            raise DamagedFileError(path, expected, f"one without {key}")
    weights = {
        name.removeprefix(_PREFIX): value
        for name, value in content["state_dict"].items()
        if name.startswith(_PREFIX)
    }
    _check_tensors(path, weights)
    wanted = network.state_dict()
    if {name: value.shape for name, value in weights.items()} != {
        name: value.shape for name, value in wanted.items()
    }:
        raise DamagedFileError(path, expected, "weights of other names or shapes")
    recorder = content["callbacks"].get(state_key)
    kinds = {"losses": list, "epochs": list, "seconds": float}
    if not isinstance(recorder, dict) or not all(
        isinstance(recorder.get(key), kind) for key, kind in kinds.items()
    ):
        raise DamagedFileError(path, expected, "one without the losses of its epochs")
    return {"weights": weights, "recorder": recorder}


def _load(path: Path, expected: str) -> dict[Any, Any]:
    """Load a mapping that torch has saved, of checked bytes."""
    try:
        content = io.BytesIO(path.read_bytes())
        _check_sums(path, content, expected)
        loaded = torch.load(content, map_location="cpu", weights_only=True)
    except DamagedFileError:
        raise
    except OSError as error:
        raise DamagedFileError(path, expected, error.strerror or str(error)) from error
    except pickle.UnpicklingError as error:
        found = "objects that are no plain data, which are not loaded"
        raise DamagedFileError(path, expected, found) from error
    except Exception as error:  # whatever zipfile and torch make of bytes that are not theirs
        found = f"a file that cannot be loaded: {_first_line(error)}"
        raise DamagedFileError(path, expected, found) from error
    if not isinstance(loaded, dict):
        raise DamagedFileError(path, expected, f"a {type(loaded).__name__}")
    return loaded


def _check_sums(path: Path, content: io.BytesIO, expected: str) -> None:
    with zipfile.ZipFile(content) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise DamagedFileError(path, expected, f"another checksum of {damaged}")
    content.seek(0)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _check_tensors(path: Path, weights: Mapping[Any, Any]) -> None:
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise DamagedFileError(path, "the weights of a network", f"{name!r} among them")
