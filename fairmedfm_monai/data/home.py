"""Where caches live: weights, features, demo data."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Folder of all caches: the environment's ``FAIRMEDFM_HOME``, else the platform's user cache folder.

    The folder is not created here; whoever writes into it does that.
    """
    chosen = os.environ.get("FAIRMEDFM_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("fairmedfm", appauthor=False))
