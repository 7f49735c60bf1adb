"""What all tests share."""

import pytest
import torch
from hypothesis import register_random, settings

# A loaded machine is slow now and then; behaviour is tested here, not speed.
settings.register_profile("brc_pytorch", deadline=None)
settings.load_profile("brc_pytorch")


class TorchRandom:
    """Torch's random numbers for Hypothesis, so that a failing example fails again."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


torch_random = TorchRandom()  # Hypothesis itself keeps no reference
register_random(torch_random)


@pytest.fixture(autouse=True)
def _seed():
    """The same random numbers whichever tests run before."""
    torch.manual_seed(0)
