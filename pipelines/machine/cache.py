"""Names the folder of everything that is fetched to this machine."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """The folder of everything that is fetched: LAKELOOP_CACHE, or one in the user's cache. It may not exist yet."""
    if chosen := os.environ.get("LAKELOOP_CACHE"):
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("lakeloop")).absolute()
