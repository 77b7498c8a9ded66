"""Numbers and tags in the form that a tracking store takes."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)

_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_./: -]")
_MAX_TAG = 5000


def loggable(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Keep what a tracking store can hold: finite numbers under names that MLflow accepts.

    Args:
        metrics: name -> number, 0-d tensor or anything else (left out).

    Returns:
        Finite floats. Names that would become the same one after replacing forbidden characters by ``_`` are
        all left out with a warning: a curve that mixes two groups is worse than none.
    """
    clean: dict[str, float] = {}
    source: dict[str, str] = {}
    clashes: set[str] = set()
    for name, value in metrics.items():
        number = _finite(value)
        if number is None:
            continue
        key = _NOT_ALLOWED.sub("_", str(name))
        if key in source:
            logger.warning("metrics %r and %r have the same MLflow name %r: neither is logged", source[key], name, key)
            clashes.add(key)
        clean[key], source[key] = number, str(name)
    return {key: value for key, value in clean.items() if key not in clashes}


def _finite(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor with more than one element
        return None
    return number if math.isfinite(number) else None


def clean_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    """Tags as texts: lists joined by ``; ``, None and empty values left out, cut to MLflow's length."""
    texts = {
        key: "; ".join(map(str, value)) if isinstance(value, (list, tuple)) else value for key, value in tags.items()
    }
    return {str(key): str(value)[:_MAX_TAG] for key, value in texts.items() if value not in (None, "")}
