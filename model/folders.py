"""Where what was prepared once is kept for the next time: data sets and the kernel."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """``LARNN_CACHE_DIR``, or the user's cache folder."""
    chosen = os.environ.get("LARNN_CACHE_DIR")
    return Path(os.path.expanduser(chosen or platformdirs.user_cache_dir("larnn-search")))
