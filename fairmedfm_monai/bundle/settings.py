"""Values that configurations fill in: where runs are tracked, and what is stamped on their outputs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

WEIGHT_STAMPS = {
    "random": "random weights: the numbers say nothing about the model",
    "tiny": "tiny random weights: the numbers say nothing about the model",
}


def default_tracking_uri() -> str:
    """``MLFLOW_TRACKING_URI`` of the environment, else a SQLite file ``mlruns.db`` in the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlruns.db').absolute()}"


def stamps(weights: str, *, fm: str | None = None, prompts: Iterable[str] = ()) -> list[str]:
    """What every output of a run must say.

    Args:
        weights: ``pretrained``, ``random``, ``tiny`` or a path.
        fm: name in the catalog; with it, prompt kinds it was not trained for are stamped.
        prompts: prompt kinds of the run.
    """
    from fairmedfm_monai.catalog import find_row
    from fairmedfm_monai.catalog.prompt_kinds import base_of

    found = [WEIGHT_STAMPS[weights]] if weights in WEIGHT_STAMPS else []
    if fm is not None:
        trained = find_row(fm).prompts
        found += [
            f"untrained prompt: {fm} was not trained for {kind!r}" for kind in prompts if base_of(kind) not in trained
        ]
    return found
