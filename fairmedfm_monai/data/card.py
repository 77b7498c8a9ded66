"""The dataset card `dataset.json`: what a dataset is, which classes, labels and patient groups it has."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairmedfm_monai.data.card_checks import check_card
from fairmedfm_monai.data.problems import DatasetError, Problem, raise_errors

CARD_FILE = "dataset.json"
UNKNOWN = "unknown"


def raw_text(value: object) -> str:
    """Text of a raw value as both card and manifest compare it: stripped, ``1.0`` is ``1``, missing is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


@dataclass(frozen=True)
class Attribute:
    """One patient attribute and its groups.

    Attributes:
        name: slug of the attribute, e.g. ``age``.
        column: column of the manifest that holds the raw value.
        groups: group slugs in the card's order.
        mapping: raw text -> group slug; empty when `bins` is set.
        bins: ascending edges, group i is ``[bins[i], bins[i + 1])``; empty when `mapping` is set.
        missing: raw texts that mean "not known".
        title: what people read, the slug where the card says nothing.
    """

    name: str
    column: str
    groups: tuple[str, ...]
    mapping: Mapping[str, str] = field(default_factory=dict)
    bins: tuple[float, ...] = ()
    missing: frozenset[str] = frozenset()
    title: str = ""

    @classmethod
    def from_dict(cls, name: str, entry: Mapping[str, Any]) -> Attribute:
        """Build from a checked entry of the card's ``attributes``."""
        bins = tuple(float(edge) for edge in entry.get("bins") or ())
        groups = entry["groups"]
        mapping = {} if bins else {raw_text(raw): group for group, raws in groups.items() for raw in raws}
        for group in groups if not bins else ():
            mapping.setdefault(group, group)  # a manifest may hold the group name itself
        missing = frozenset(raw_text(raw) for raw in entry.get("missing") or ())
        return cls(name, entry.get("column", name), tuple(groups), mapping, bins, missing, entry.get("title") or name)


@dataclass(frozen=True)
class Card:
    """A checked dataset card.

    Attributes:
        name: slug; also names the MLflow experiment.
        task: ``classification`` or ``segmentation``.
        modality: xray, fundus, slo, oct, dermoscopy, ultrasound, ct, mri or pathology.
        spatial_dims: 2 for images, 3 for volumes.
        unit: ``patient`` or ``image``: what is resampled for intervals.
        classes: class slug -> prompts; the order is the class index. Empty for segmentation.
        labels: label slug -> mask value. Empty for classification.
        positive_class: the class whose score is reported in binary tasks.
        multi_label: whether each class has its own 0/1 column in the manifest.
        attributes: attribute slug -> `Attribute`.
        intersections: attribute names whose groups are also crossed.
        window: CT window by name or as ``[centre, width]`` in HU; None elsewhere.
        notice: sentence that every report prints as a banner.
        release: slug of the public release that the images come from; None for other data.
        extra_columns: further columns of the manifest, e.g. a published test subset; nothing here reads them.
        warnings: findings that do not stop a run, e.g. unknown keys.
        source: the card as it was read.
    """

    name: str
    task: str
    modality: str
    spatial_dims: int
    unit: str
    licence: str
    title: str
    citation: str | None
    notice: str | None
    classes: Mapping[str, list[str]]
    labels: Mapping[str, int]
    positive_class: str | None
    multi_label: bool
    attributes: Mapping[str, Attribute]
    intersections: tuple[tuple[str, ...], ...]
    window: str | list[float] | None
    warnings: tuple[Problem, ...]
    release: str | None
    extra_columns: tuple[str, ...]
    source: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], *, where: object = CARD_FILE) -> Card:
        """Check and build a card.

        Raises:
            DatasetError: with every problem of the card.
        """
        problems = check_card(content)
        raise_errors(where, problems)
        get = content.get
        return cls(
            name=content["name"],
            task=content["task"],
            modality=content["modality"],
            spatial_dims=content["spatial_dims"],
            unit=get("unit") or "patient",
            licence=get("licence") or "unstated",
            title=get("title") or content["name"],
            citation=get("citation"),
            notice=get("notice"),
            classes={name: list(prompts) for name, prompts in (get("classes") or {}).items()},
            labels=dict(get("labels") or {}),
            positive_class=get("positive_class"),
            multi_label=bool(get("multi_label", False)),
            attributes={name: Attribute.from_dict(name, entry) for name, entry in (get("attributes") or {}).items()},
            intersections=tuple(tuple(names) for names in get("intersections") or ()),
            window=get("window"),
            warnings=tuple(problems),
            release=get("release"),
            extra_columns=tuple(get("extra_columns") or ()),
            source=dict(content),
        )

    @classmethod
    def read(cls, path: str | Path) -> Card:
        """Read ``dataset.json`` (the file, or the folder that holds it).

        Raises:
            DatasetError: no such file, no JSON, or any problem of the content.
        """
        file = Path(path)
        if file.is_dir():
            file = file / CARD_FILE
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            raise DatasetError(
                file, [Problem("card_unreadable", f"the card cannot be read as JSON: {error}")]
            ) from error
        return cls.from_dict(content, where=file)

    def to_dict(self) -> dict[str, Any]:
        """The card as JSON holds it."""
        return dict(self.source)

    def write(self, path: str | Path) -> Path:
        """Write the card into a folder (or to a file name) and return the file."""
        file = Path(path)
        if file.is_dir():
            file = file / CARD_FILE
        file.write_text(json.dumps(self.to_dict(), indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
        return file
