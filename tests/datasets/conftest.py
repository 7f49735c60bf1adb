import pytest
from torch.utils._python_dispatch import TorchDispatchMode


class CountCalls(TorchDispatchMode):
    """Counts the calls of torch's operators."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def operator_calls():
    """A function that says how many of torch's operators a call runs."""

    def count(call):
        with CountCalls() as calls:
            call()
        return calls.count

    return count
