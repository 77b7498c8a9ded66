"""Names of the files of an evaluation, and how they are written: whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

PREDICTIONS_FILE = "predictions.parquet"
HASHED_FILE = "predictions_hashed.parquet"
"""Copy of the predictions that may be tracked with ``log_cases``: ids are salted hashes."""
PROMPTS_FILE = "prompts.json"
HASHED_PROMPTS_FILE = "prompts_hashed.json"
SLICES_FILE = "slices.csv"
AGGREGATE_FILES = ("subgroups.csv", "disparities.csv", "report.html", "model_card.md", "run.json", SLICES_FILE)
"""Files that hold no case: the only ones that go to a tracking server without ``log_cases``."""


def write_atomic(path: str | Path, write: Callable[[Path], Any]) -> Path:
    """Write a file so that readers see the old one or the whole new one, never a part.

    Args:
        path: the file to write; its folder is created.
        write: called with a temporary path in the same folder; must create the file there.

    Returns:
        ``path`` as a :class:`~pathlib.Path`.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner may read
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
