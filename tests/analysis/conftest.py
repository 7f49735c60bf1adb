"""What the tests of looking into networks share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    """Small tensors on a loaded machine: torch's threads would wait for one another at each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
