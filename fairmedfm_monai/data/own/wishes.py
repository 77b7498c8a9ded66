"""What users say about the card of their data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fairmedfm_monai.data.own.arguments import EVERYWHERE
from fairmedfm_monai.data.own.spellings import UNKNOWN_WORDS


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What users say about the card of their data; what they leave out is made from the values, or asked for.

    Attributes:
        modality: as in the card.
        spatial_dims: 2 or 3.
        classes: class -> raw values of the label column.
        positive: the class (or its raw value) whose score is reported, of two classes.
        labels: segmentation: label -> value in the masks.
        groups: attribute -> group -> raw values.
        bins: attribute -> numbers that part its groups; a number itself belongs to the group above it.
        missing: attribute, ``label`` or `EVERYWHERE` -> raw values that mean "not known".
        window: as in the card.
    """

    modality: str
    spatial_dims: int
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    positive: str | None = None
    labels: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    bins: Mapping[str, Sequence[float]] = field(default_factory=dict)
    missing: Mapping[str, Sequence[str]] = field(default_factory=dict)
    window: str | list[float] | None = None

    def missing_values(self, name: str, values: Sequence[str], meanings: Mapping[str, str]) -> list[str]:
        """Of some raw values of an attribute (or of ``label``), those that mean "not known", beside empty ones.

        Args:
            name: attribute, or ``label``.
            values: raw values.
            meanings: raw value -> what it means, as far as the source says so.
        """
        stated = {*self.missing.get(EVERYWHERE, ()), *self.missing.get(name, ())}
        return [
            value
            for value in values
            if value in stated or meanings.get(value, value).strip().casefold() in UNKNOWN_WORDS
        ]
