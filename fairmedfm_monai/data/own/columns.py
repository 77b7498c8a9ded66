"""Which column of a user's table is what: ``--columns "image=filename,label=dx,sex=Sex"``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from fairmedfm_monai.data.card_checks import did_you_mean
from fairmedfm_monai.data.own.arguments import plain, several, split_assignments
from fairmedfm_monai.data.problems import Problem, examples

EXAMPLE = "image=filename,patient_id=pid,label=diagnosis,sex=Sex,age=Age"
LABEL = "label"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Columns by what they are.

    Attributes:
        contract: name that a manifest requires or knows (``image``, ``patient_id``, ``split``, ...) -> column.
        labels: columns with the label: one, or one per class (multi-label).
        attributes: attribute -> column.
    """

    contract: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, *, contract: Sequence[str]) -> Columns:
        """Read the option.

        Args:
            text: as typed; ``label=A|B`` names several label columns.
            contract: names that are no attribute here, besides ``label``.

        Raises:
            ValueError: a text of another form.
        """
        found = split_assignments(text, option="columns", example=EXAMPLE)
        label = found.pop(LABEL, "")
        return cls(
            contract={name: plain(column) for name, column in found.items() if name in contract},
            labels=tuple(several(label)),
            attributes={name: plain(column) for name, column in found.items() if name not in contract},
        )

    def used(self) -> list[str]:
        """All columns that are named, each once."""
        return list(dict.fromkeys([*self.contract.values(), *self.labels, *self.attributes.values()]))

    def missing_in(self, table: pd.DataFrame, *, where: str) -> list[Problem]:
        """A problem for each named column that the table lacks."""
        there = [str(name) for name in table]
        return [
            Problem(
                "missing_column",
                f"`--columns` names {name!r}, which {where} lacks"
                + (did_you_mean(name, there) or f"; it has {examples(there)}"),
            )
            for name in self.used()
            if name not in there
        ]

    def label_keys(self) -> dict[str, str]:
        """Key of a label column in the rows -> column; a key is never the name of an attribute."""
        return {f"{LABEL}:{column}": column for column in self.labels}

    def taken_from(self, table: pd.DataFrame) -> dict[str, pd.Series]:
        """Label and attribute columns, under the names that they have in the rows."""
        sources = {**self.label_keys(), **self.attributes}
        return {name: table[column] for name, column in sources.items()}

    def attribute_origins(self) -> dict[str, str]:
        """Attribute -> where it comes from, in words."""
        return {name: f"column {column!r}" for name, column in self.attributes.items()}

    def contract_origins(self) -> dict[str, str]:
        """The same of the other columns."""
        return {name: f"column {column!r}" for name, column in self.contract.items()}

    def unused(self, table: pd.DataFrame) -> list[str]:
        """Columns of the table that are not named."""
        return [str(name) for name in table if str(name) not in self.used()]
