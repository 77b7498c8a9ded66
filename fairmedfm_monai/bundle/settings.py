"""Values that configurations fill in: where runs are tracked, and what is stamped on their outputs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from fairmedfm_monai.catalog import Row, find_row
from fairmedfm_monai.catalog.prompt_kinds import base_of
from fairmedfm_monai.catalog.releases import RELEASES

logger = logging.getLogger(__name__)

WEIGHT_STAMPS = {
    "random": "random weights: the numbers say nothing about the model",
    "tiny": "tiny random weights: the numbers say nothing about the model",
}


def default_tracking_uri() -> str:
    """``MLFLOW_TRACKING_URI`` of the environment, else a SQLite file ``mlruns.db`` in the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlruns.db').absolute()}"


def stamps(
    weights: str, *, fm: str | None = None, release: str | None = None, prompts: Iterable[str] = ()
) -> list[str]:
    """What every output of a run must say.

    Args:
        weights: ``pretrained``, ``random``, ``tiny`` or a path (``file`` in a model.json).
        fm: name in the catalog; with it, training data that overlap and prompt kinds it was not trained for are
            stamped.
        release: slug of the public release that the dataset comes from (``release`` of its card).
        prompts: prompt kinds of the run.

    Raises:
        ValueError: for an unknown FM or prompt kind.
    """
    made_up = [WEIGHT_STAMPS[weights]] if weights in WEIGHT_STAMPS else []
    if fm is None:
        return made_up
    row = find_row(fm)
    overlap = _overlap(row, release) if release and not made_up else []
    untrained = [
        f"untrained prompt: {fm} was not trained for {kind!r}" for kind in prompts if base_of(kind) not in row.prompts
    ]
    return [*made_up, *overlap, *untrained]


def _overlap(row: Row, release: str) -> list[str]:
    seen = " and ".join(RELEASES[slug] for slug in row.saw(release))
    if not seen:
        return []
    same = "" if release in row.overlaps else f" (the images of {RELEASES[release]})"
    return [
        f"training data overlap: {row.title} was trained on images of {seen}{same}; results there may be optimistic"
    ]


def weights_licence(weights: str, *, fm: str) -> str:
    """The licence of an FM's weights and whether it allows commercial use; empty for weights made at random."""
    row = find_row(fm)
    return "" if weights in WEIGHT_STAMPS else f"{row.weights_licence}; commercial use: {row.commercial_use}"


def warn_of_licence(weights: str, *, fm: str) -> None:
    """Log one warning, on the first process, when the weights may not be used for everything.

    Args:
        weights: as for :func:`stamps`; those made at random have no licence to warn of.
        fm: name in the catalog.
    """
    row = find_row(fm)
    if row.is_restricted and weights not in WEIGHT_STAMPS and os.environ.get("RANK", "0") == "0":
        logger.warning("%s: weights licence: %s", row.title, weights_licence(weights, fm=fm))
