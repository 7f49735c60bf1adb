"""What the tests of looking into networks share."""

from tests.one_thread import one_thread  # noqa: F401 - for all of them
