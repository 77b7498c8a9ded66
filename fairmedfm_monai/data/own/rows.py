"""Rows of users' data, before there is a card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pandas as pd


@dataclass(frozen=True, kw_only=True)
class OwnRows:
    """Rows of users' data, before there is a card.

    Attributes:
        kind: ``table``, ``dicom`` or ``bids``.
        table: one row per case, raw values as text: ``case_id``, ``patient_id``, ``image`` (path inside the source, or
            `Made`), perhaps ``split`` and ``mask``, the label columns and the attributes under their own names.
        labels: names of the label columns in the table -> column they come from; several for multi-label.
        attributes: attribute -> where its values come from, in words.
        origins: other column of the table -> where it comes from, in words.
        unused: columns of the source's table that are not taken over.
        meanings: attribute or ``label`` -> raw value -> what it means, where the source says so.
        patient_is: what counts as a patient: ``patient``; ``image`` or ``study`` where the source does not say, or not
            everywhere, which images are of one patient.
        pseudonym: how patient ids are hidden; None leaves them as they are.
        notes: what was left out, joined or derived, one sentence each, with counts.
    """

    kind: str
    table: pd.DataFrame
    labels: Mapping[str, str]
    attributes: Mapping[str, str]
    origins: Mapping[str, str]
    unused: tuple[str, ...] = ()
    meanings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    patient_is: str = "patient"
    pseudonym: Callable[[str], str] | None = None
    notes: tuple[str, ...] = ()
