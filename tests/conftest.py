"""What all tests need."""

import signal

from hypothesis import settings

# Two processes share two cores: a single slow example tells nothing.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")


def pytest_configure():
    """Hear Ctrl-C: a shell that starts the tests in the background has them ignore it.

    The processes that they start would ignore it as well.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
