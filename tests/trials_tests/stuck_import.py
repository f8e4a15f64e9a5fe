"""A module whose import never ends, as on a file system that hangs."""

import threading

threading.Event().wait()
