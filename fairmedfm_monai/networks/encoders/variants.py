"""Choosing one of the variants that a family of encoders has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Option = TypeVar("Option")


def pick_variant(variant: str, options: Mapping[str, Option], family: str) -> Option:
    """What ``options`` holds for ``variant``.

    Raises:
        ValueError: listing the variants there are.
    """
    if variant not in options:
        msg = f"`variant` must be one of {family}'s, {', '.join(options)}, but got {variant!r}"
        raise ValueError(msg)
    return options[variant]
