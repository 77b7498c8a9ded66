"""One cell of a study: a dataset, an FM, a usage, a mitigation method and a seed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from fairmedfm_monai.catalog import find_row

_NOT_SLUG = re.compile(r"[^A-Za-z0-9_.]+")
UNTRAINED = ("zero_shot", "prompted")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one cell runs: a bundle with its overrides.

    Attributes:
        dataset: key of the study's datasets.
        task: ``classification`` or ``segmentation``.
        fm: name of the FM in the catalog.
        usage: usage of the FM.
        variant: variant of the FM.
        mitigation: name of a method during or after training.
        attributes: attributes whose groups the method knows, crossed; none for ``erm``.
        seed: seed of the training, and of the data where the study makes them per seed.
        label: tells apart cells that differ in settings only.
        base: key of the cell that this one builds on: methods after training take its predictions, others go on from
            its model.
        options: options of the mitigation method.
        train: further overrides of train.json.
        evaluate: further overrides of evaluate.json.
    """

    dataset: str
    task: str
    fm: str
    usage: str
    variant: str = "default"
    mitigation: str = "erm"
    attributes: tuple[str, ...] = ()
    seed: int = 0
    label: str = ""
    base: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    evaluate: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """``<dataset>/<fm>[-<variant>]/<usage>[-<label>]/<mitigation>[-<attributes>]/seed<k>``: its name and folder."""
        model = self.fm if self.variant == "default" else f"{self.fm}-{self.variant}"
        usage = f"{self.usage}-{self.label}" if self.label else self.usage
        method = "-".join([self.mitigation, *(["+".join(self.attributes)] if self.attributes else [])])
        return "/".join([*(_slug(part) for part in (self.dataset, model, usage, method)), f"seed{self.seed}"])

    @property
    def bundle(self) -> str:
        """Name of the bundle that the cell runs."""
        return f"{self.fm}_{self.task}_{self.usage}"

    @property
    def catalog_variant(self) -> str:
        """Name of the variant in the catalog, which ``default`` stands for."""
        return find_row(self.fm).default_variant if self.variant == "default" else self.variant

    @property
    def trained(self) -> bool:
        """Whether the usage has a training."""
        return self.usage not in UNTRAINED

    def to_json(self) -> dict[str, Any]:
        """Every field, as JSON values."""
        return {**asdict(self), "attributes": list(self.attributes)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Cell:
        """The cell that `to_json` wrote.

        Raises:
            ValueError: for keys that a cell does not have.
        """
        stray = sorted(set(values) - {known.name for known in fields(cls)})
        if stray:
            msg = f"a cell has no {', '.join(stray)}; it has {', '.join(known.name for known in fields(cls))}"
            raise ValueError(msg)
        return cls(**{**values, "attributes": tuple(values.get("attributes", ()))})


def _slug(text: str) -> str:
    return _NOT_SLUG.sub("-", text.replace("+", ".")).strip("-")
