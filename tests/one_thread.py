"""A fixture that the conftest.py of some folders takes in, for all of their tests."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Results repeat bit for bit, in any process, and small tensors wait for no other thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
