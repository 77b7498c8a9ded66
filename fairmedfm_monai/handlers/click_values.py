"""What correction clicks cost: columns of the predictions table."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

# Where the inferer leaves the Dice after every click.
META_KEY = "click_dice"
LEVELS = {"85": 0.85, "90": 0.90}
CLICK_COLUMNS = tuple(f"{name}{level}" for level in LEVELS for name in ("clicks", "reached"))


def click_values(pred: Any, channel: int) -> dict[str, float]:
    """Number of clicks to a Dice of 0.85 and of 0.90, mean over the objects of one channel.

    The first prompt counts as one. An object that never gets there counts as one more than was given, and
    ``reached85`` and ``reached90`` tell the share of those that did.

    Args:
        pred: decollated prediction whose meta data may hold ``click_dice``: JSON text of a list of
            ``{"channel": int, "dice": [[...], ...]}``, one inner list per object (slice or volume) with the Dice after
            the first prompt and after each correction.
        channel: kind x label.

    Returns:
        ``CLICK_COLUMNS``; empty where the channel had no correction clicks.
    """
    meta = getattr(pred, "meta", None) or {}
    text = meta.get(META_KEY)
    found = [
        dice for entry in (json.loads(text) if text else []) if entry["channel"] == channel for dice in entry["dice"]
    ]
    if not found:
        return {}
    values: dict[str, float] = {}
    for name, level in LEVELS.items():
        good = [np.flatnonzero(np.asarray(dice, dtype=float) >= level) for dice in found]
        needed = [int(where[0]) + 1 if where.size else len(dice) + 1 for where, dice in zip(good, found, strict=True)]
        values[f"clicks{name}"] = float(np.mean(needed))
        values[f"reached{name}"] = float(np.mean([where.size > 0 for where in good]))
    return values
