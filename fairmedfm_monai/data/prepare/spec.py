"""What is said of a public dataset, what a user may choose, and what reading its release gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

DEFAULT_PROTOCOL = "default"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the user chose.

    Attributes:
        rule: name of a label rule, one of `PublicDataset.rules`.
        protocol: ``default`` or a published protocol, one of `PublicDataset.protocols`.
        seed: of splits and drawn subsets.
    """

    rule: str
    protocol: str = DEFAULT_PROTOCOL
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Release:
    """A raw release, read.

    Attributes:
        table: one row per case, raw values as text: ``case_id``, ``patient_id``, ``image`` (path inside the release, or
            `Made` where the file must be made), ``label`` (or 0/1 columns named as the classes) or ``mask`` (like
            ``image``), the attribute columns that the card names, and, where the owner or the protocol says so,
            ``split``. Without ``split``, patients are split by seed.
        version: which version of the release this is, as far as it can be told.
        expected: counts that the owner or a publication states, with the keys of `fairmedfm_monai.data.prepare.counts`.
        notes: what was left out, joined or derived, one sentence each, with counts.
        notice: the card's ``notice``, where it depends on the rows; replaces that of the card.
        labels: the card's ``labels``, where the release names them; replaces those of the card.
    """

    table: pd.DataFrame
    version: str = ""
    expected: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    notice: str = ""
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PublicDataset:
    """One public dataset.

    Attributes:
        name: slug, as users type it.
        title: name that people read.
        summary: one paragraph: what it shows, where from.
        size: cases and patients of the release, in words.
        access: address, and the conditions under which the owner gives it out.
        licence: SPDX name or the owner's words.
        citation: of the dataset.
        hazards: what a reader of results must know, one sentence each.
        layout: files and folders of the release that are read, relative to its top, with a word on each.
        needs: of these, what must be there; ``a|b`` means either. Tells the right folder level.
        read: reads the metadata of a release folder; raises `DatasetError` with every problem.
        card: the dataset card for a choice, without ``name``, ``title``, ``licence``, ``citation`` and ``release``.
        rules: label rule -> what it means; the first is the default.
        protocols: published protocol -> what it changes.
        protocol_rules: published protocol -> the label rule that belongs to it; the protocol then takes no other.
        aliases: other names that users may type.
    """

    name: str
    title: str
    summary: str
    size: str
    access: str
    licence: str
    citation: str
    layout: Mapping[str, str]
    needs: tuple[str, ...]
    read: Callable[[Path, Choice], Release]
    card: Callable[[Choice], dict[str, Any]]
    rules: Mapping[str, str]
    hazards: tuple[str, ...] = ()
    protocols: Mapping[str, str] = field(default_factory=dict)
    protocol_rules: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    def choose(self, *, rule: str | None = None, protocol: str = DEFAULT_PROTOCOL, seed: int = 0) -> Choice:
        """A checked choice.

        Raises:
            ValueError: a rule or a protocol that this dataset does not have, or a rule that the protocol does not take.
        """
        fixed = self.protocol_rules.get(protocol)
        rule = rule or fixed or next(iter(self.rules))
        for key, value, known in (("rule", rule, self.rules), ("protocol", protocol, self._protocols())):
            if value not in known:
                listed = "; ".join(f"{name} ({meaning})" for name, meaning in known.items())
                msg = f"`{key}` of {self.name} must be one of: {listed}; but got {value!r}"
                raise ValueError(msg)
        if fixed and rule != fixed:
            msg = f"the protocol {protocol} of {self.name} has the `rule` {fixed!r}, but got {rule!r}; leave `rule` out"
            raise ValueError(msg)
        return Choice(rule=rule, protocol=protocol, seed=seed)

    def full_card(self, choice: Choice) -> dict[str, Any]:
        """The dataset card as it is written into the folder."""
        implied = (next(iter(self.rules)), self.protocol_rules.get(choice.protocol))
        parts = [self.name, *([choice.rule] if choice.rule not in implied else [])]
        parts += [choice.protocol] if choice.protocol != DEFAULT_PROTOCOL else []
        card = self.card(choice)
        known = {
            "schema": 1,
            "name": "-".join(parts),
            "title": self.title,
            "release": self.name,
            "licence": self.licence,
            "citation": self.citation,
            "unit": "patient",
        }
        return {**known, **card}

    def _protocols(self) -> dict[str, str]:
        return {DEFAULT_PROTOCOL: "this project's own rules", **self.protocols}
