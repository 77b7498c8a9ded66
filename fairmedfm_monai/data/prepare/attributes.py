"""Attributes as the cards of public datasets state them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

OLDEST = 120  # ages from here on are impossible, and counted as unknown


def sex(column: str, *, female: Sequence[str], male: Sequence[str], missing: Sequence[str] = ()) -> dict[str, Any]:
    """The entry ``sex``, with the raw values of one release."""
    groups = {"female": list(female), "male": list(male)}
    return {"sex": {"column": column, "groups": groups, "missing": list(missing), "title": "Sex"}}


def ages(column: str, *, missing: Sequence[str] = (), cut: float = 60) -> dict[str, Any]:
    """The entries ``age`` (two bands, the cut itself counts as old) and ``age_bands`` (four bands), in years.

    Args:
        column: column with ages in years, or DICOM ages such as ``063Y``.
        missing: raw texts that mean "not known".
        cut: between the two bands; 60 is that of FairMedFM.
    """
    return {
        "age": {
            "column": column,
            "bins": [0, cut, OLDEST],
            "groups": [f"lt{cut:g}", f"ge{cut:g}"],
            "missing": list(missing),
            "title": "Age",
        },
        "age_bands": age_bands("age_bands", column, (40, 60, 75), missing=missing)["age_bands"],
    }


def age_bands(name: str, column: str, cuts: Sequence[float], *, missing: Sequence[str] = ()) -> dict[str, Any]:
    """One entry with the bands between the cuts, each ``[low, high)``: ``lt40``, ``40-59``, ``60-74``, ``ge75``."""
    between = [f"{low:g}-{high - 1:g}" for low, high in itertools.pairwise(cuts)]
    groups = [f"lt{cuts[0]:g}", *between, f"ge{cuts[-1]:g}"]
    title = f"Age in {len(groups)} bands"
    bins = [0, *cuts, OLDEST]
    return {name: {"column": column, "bins": bins, "groups": groups, "missing": list(missing), "title": title}}


def grouped(
    name: str, column: str, groups: Mapping[str, Sequence[str]], *, missing: Sequence[str] = (), title: str = ""
) -> dict[str, Any]:
    """An entry with named groups of raw values."""
    raws = {group: list(values) for group, values in groups.items()}
    return {name: {"column": column, "groups": raws, "missing": list(missing), **({"title": title} if title else {})}}
