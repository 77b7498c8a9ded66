"""What a prepared dataset holds, beside what its release should hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from fairmedfm_monai.data.card import Card
from fairmedfm_monai.data.manifest import classify_value, group_column, label_codes


def counts(table: pd.DataFrame, card: Card) -> dict[str, int]:
    """Numbers of a manifest.

    Returns:
        ``cases``, ``patients``, ``split/<split>``, ``class/<class>`` (classification), and per attribute
        ``<attribute>/<group>`` and ``<attribute>/unknown``.
    """
    found = {"cases": len(table), "patients": int(table["patient_id"].nunique())}
    if "split" in table:
        found |= {f"split/{name}": int((table["split"] == name).sum()) for name in ("train", "val", "test")}
    if card.multi_label:
        found |= {f"class/{name}": int((table[name] == "1").sum()) for name in card.classes}
    elif card.classes:
        codes = label_codes(card)
        indices = table["label"].map(codes)
        found |= {f"class/{name}": int((indices == index).sum()) for index, name in enumerate(card.classes)}
    for attribute in card.attributes.values():
        groups = group_column(attribute, table)
        found |= {f"{attribute.name}/{group}": int((groups == group).sum()) for group in attribute.groups}
        found[f"{attribute.name}/unknown"] = int((groups == "unknown").sum())
    return found


def unknown_reasons(table: pd.DataFrame, card: Card) -> dict[str, dict[str, int]]:
    """Attribute -> reason (``missing`` or ``impossible``) and raw value -> cases, of all that became ``unknown``."""
    found: dict[str, dict[str, int]] = {}
    for attribute in card.attributes.values():
        for raw, number in table[attribute.column].value_counts().items():
            reason = classify_value(attribute, raw)[1]
            if reason != "mapped":
                found.setdefault(attribute.name, {})[f"{reason} {str(raw)!r}"] = int(number)
    return found


def count_lines(found: Mapping[str, int], expected: Mapping[str, int]) -> list[str]:
    """The counts as lines of text, with the expected number and the difference where one is known."""
    lines = []
    for name in [*found, *(name for name in expected if name not in found)]:
        number = found.get(name, 0)
        if name not in expected:
            lines.append(f"  {name:32} {number:>9,}")
            continue
        difference = number - expected[name]
        verdict = "as expected" if difference == 0 else f"expected {expected[name]:,}, difference {difference:+,}"
        lines.append(f"  {name:32} {number:>9,}   {verdict}")
    return lines


def version_line(found: Mapping[str, int], expected: Mapping[str, int], version: str, notes: Sequence[str]) -> str:
    """Which release this is, and whether its counts are the known ones."""
    named = f"release: {version}" if version else "release: version not stated in the files"
    off = [name for name, number in expected.items() if found.get(name, 0) != number]
    if not expected:
        return f"{named}; no published counts to compare with"
    if not off:
        return f"{named}; all {len(expected)} known counts agree"
    reason = "an excerpt, another version, or rows left out" + (" (see the notes)" if notes else "")
    return f"{named}; {len(off)} of {len(expected)} known counts differ: {reason}"
