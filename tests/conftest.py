"""What all tests share."""

from hypothesis import settings

# A loaded machine is slow now and then; behaviour is tested here, not speed.
settings.register_profile("brc_pytorch", deadline=None)
settings.load_profile("brc_pytorch")
