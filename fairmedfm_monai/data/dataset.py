"""Load a dataset folder: checked rows become MONAI data dicts, group names are fixed once, here."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairmedfm_monai.data.card import CARD_FILE, Card
from fairmedfm_monai.data.card_checks import check_prompts, did_you_mean
from fairmedfm_monai.data.files import check_paths
from fairmedfm_monai.data.manifest import (
    MANIFEST_FILES,
    SPLITS,
    check_manifest,
    find_manifest,
    group_column,
    label_codes,
    label_columns,
    read_manifest,
)
from fairmedfm_monai.data.problems import DatasetError, Problem, examples, raise_errors
from fairmedfm_monai.data.splits import split_patients

BUILT_IN = ("demo/xray", "demo/ct2d", "demo/ct3d", "demo/ct-nodules")
SPLIT_SEED = 0


@dataclass(frozen=True)
class DatasetInfo:
    """A loaded dataset.

    Attributes:
        root: absolute path of the folder.
        card: its card.
        table: one row per case, in the manifest's order: ``case_id``, ``patient_id``, ``split``, ``image`` (relative
            path), then ``label`` (class index), ``label_<class>`` (0/1, multi-label) or ``mask`` (relative path), then
            one column per selected attribute that holds the group slug or ``"unknown"``.
        attributes: selected attribute -> group slugs in the card's order, without ``"unknown"``.
        warnings: what was found and did not stop the load.
        fingerprint: SHA-256 over manifest and card.
    """

    root: Path
    card: Card
    table: pd.DataFrame
    attributes: dict[str, list[str]]
    warnings: tuple[Problem, ...] = ()
    fingerprint: str = ""

    @property
    def name(self) -> str:
        """Slug of the dataset."""
        return self.card.name

    @property
    def task(self) -> str:
        """``classification`` or ``segmentation``."""
        return self.card.task

    @property
    def modality(self) -> str:
        """Modality of the card, e.g. ``xray``."""
        return self.card.modality

    @property
    def spatial_dims(self) -> int:
        """2 for images, 3 for volumes."""
        return self.card.spatial_dims

    @property
    def unit(self) -> str:
        """``patient`` or ``image``: what is resampled for intervals."""
        return self.card.unit

    @property
    def classes(self) -> list[str]:
        """Class slugs; the position is the class index."""
        return list(self.card.classes)

    @property
    def prompts(self) -> dict[str, list[str]]:
        """Class slug -> its prompt ensemble, for usages that encode texts.

        Raises:
            DatasetError: a class has no prompt.
        """
        raise_errors(self.root / CARD_FILE, check_prompts(self.card.classes))
        return {name: list(prompts) for name, prompts in self.card.classes.items()}

    @property
    def positive_class(self) -> str | None:
        """The class whose score is reported in binary tasks."""
        return self.card.positive_class

    @property
    def multi_label(self) -> bool:
        """Whether a case may have several classes."""
        return self.card.multi_label

    @property
    def labels(self) -> dict[str, int]:
        """Segmentation: label slug -> mask value."""
        return dict(self.card.labels)

    @property
    def intersections(self) -> list[list[str]]:
        """Intersections of the card whose attributes are all selected."""
        return [list(names) for names in self.card.intersections if all(name in self.attributes for name in names)]

    @property
    def notice(self) -> str | None:
        """Sentence that every report prints as a banner."""
        return self.card.notice

    @property
    def window(self) -> str | list[float] | None:
        """CT window by name or ``[centre, width]`` in HU."""
        return self.card.window

    def cases(self, *splits: str) -> list[dict[str, Any]]:
        """The cases of some splits (of all, when none is named) as MONAI data dicts.

        Returns:
            Dicts with the keys ``image`` (absolute path), ``label`` (class index; float32 vector of shape (C,) for
            multi-label; absolute path of the mask for segmentation; left out where the dataset has no truth),
            ``case_id``, ``patient_id``, ``split``, ``attributes`` (attribute -> group slug) and ``failed`` (``""``).

        Raises:
            ValueError: a name that is no split.
            DatasetError: none of the splits has a case.
        """
        for name in splits:
            if name not in SPLITS:
                msg = f"split {name!r} is not known; choose from {', '.join(SPLITS)}"
                raise ValueError(msg)
        rows = self.table[self.table["split"].isin(splits)] if splits else self.table
        if rows.empty:
            there = ", ".join(f"{name} ({count})" for name, count in self.table["split"].value_counts().items())
            raise DatasetError(
                self.root, [Problem("split", f"no case in split {' or '.join(splits)}; there is {there}")]
            )
        return [self._case(record) for record in rows.to_dict("records")]

    def _case(self, record: dict[Any, Any]) -> dict[str, Any]:
        case: dict[str, Any] = {"image": str(self.root / record["image"])}
        if "mask" in record:
            case["label"] = str(self.root / record["mask"])
        elif "label" in record:
            case["label"] = int(record["label"])
        elif self.multi_label and f"label_{self.classes[0]}" in record:
            case["label"] = np.array([record[f"label_{name}"] for name in self.classes], dtype=np.float32)
        case.update({key: record[key] for key in ("case_id", "patient_id", "split")})
        case["attributes"] = {name: record[name] for name in self.attributes}
        case["failed"] = ""
        return case


def load_dataset(
    dataset_dir: str | Path, *, attributes: Sequence[str] | str | None = None, require_labels: bool = True
) -> DatasetInfo:
    """Load a dataset folder and check its table; files are only checked to be there.

    Args:
        dataset_dir: a folder with ``manifest.csv`` (or ``.parquet``) and ``dataset.json``, or a built-in demo dataset
            (``demo/xray``, ``demo/ct2d``, ``demo/ct3d``, ``demo/ct-nodules``), which is made on first use.
        attributes: names of the attributes to select (a list, or text with commas); None selects all.
        require_labels: False where only predictions are wanted. The truth is left out where any case lacks it.

    Raises:
        DatasetError: one message with every problem of folder, card, table and files.
    """
    root = resolve_folder(dataset_dir)
    card, raw, problems = inspect_folder(root, require_labels=require_labels)
    selected = select_attributes(card, attributes, problems) if card else []
    if card is None or raw is None or any(problem.level == "error" for problem in problems):
        raise DatasetError(root, problems)
    info = build_info(root, card, raw, selected, problems, require_labels=require_labels)
    for problem in info.warnings:
        warnings.warn(f"{root.name}: {problem.message}", stacklevel=2)
    return info


def inspect_folder(
    root: Path, *, require_labels: bool = True
) -> tuple[Card | None, pd.DataFrame | None, list[Problem]]:
    """Read card and manifest and collect the problems of both; what cannot be read at all is None."""
    card, raw = None, None
    problems: list[Problem] = []
    try:
        card = Card.read(root / CARD_FILE)
        problems += card.warnings
    except DatasetError as error:
        problems += error.problems
    try:
        raw = read_manifest(root)
    except DatasetError as error:
        problems += error.problems
    if raw is not None:
        problems += check_manifest(raw, card, require_labels=require_labels)
        problems += check_paths(raw, root)
    return card, raw, problems


def build_info(
    root: Path,
    card: Card,
    raw: pd.DataFrame,
    selected: Sequence[str],
    problems: Sequence[Problem],
    *,
    require_labels: bool = True,
) -> DatasetInfo:
    """Build a `DatasetInfo` from a card and a manifest without errors; a table without splits is split."""
    found = list(problems)
    table = canonical_table(raw, card, require_labels=require_labels)
    if "split" not in raw:
        # By all attributes of the card, not by the selected ones: a selection must not move patients.
        table = split_patients(table, seed=SPLIT_SEED, stratify=[*_label_names(table), *card.attributes])
        message = (
            "the manifest has no column 'split': patients were split 60/20/20 by seed "
            f"{SPLIT_SEED}; write a split into the manifest to fix it"
        )
        found.append(Problem("no_split", message, "warning"))
    truth = [str(name) for name in table if name in ("mask", *_label_names(table))]
    columns = ["case_id", "patient_id", "split", "image", *truth, *selected]
    groups = {name: list(card.attributes[name].groups) for name in selected}
    return DatasetInfo(root, card, table[columns], groups, tuple(found), _fingerprint(root))


def resolve_folder(dataset_dir: str | Path) -> Path:
    """Absolute path of a dataset folder; a built-in demo dataset is made when it is not there.

    Raises:
        DatasetError: neither a built-in name nor a folder with manifest and card.
    """
    root = Path(dataset_dir).expanduser().absolute()
    if str(dataset_dir) in BUILT_IN and not root.is_dir():
        from fairmedfm_monai.data.demo.build import ensure_demo

        return Path(ensure_demo(str(dataset_dir)))
    if root.is_dir() and (root / CARD_FILE).is_file() and any((root / name).is_file() for name in MANIFEST_FILES):
        return root
    there = "there is no such folder"
    if root.is_dir():
        there = f"it holds {examples(sorted(entry.name for entry in root.iterdir())) or 'nothing'}"
    elif root.exists():
        there = "it is a file"
    message = (
        f"dataset_dir={str(dataset_dir)!r} is no dataset folder ({there}); expected manifest.csv (or manifest.parquet) "
        f"with the columns case_id, patient_id, image, split and label or mask, and {CARD_FILE} beside it. "
        "Make them with `python -m fairmedfm_monai prepare` from a known release, or by hand as the README shows, and "
        f"check them with `python -m fairmedfm_monai validate`. Built-in datasets: {', '.join(BUILT_IN)}"
    )
    raise DatasetError(root, [Problem("no_dataset", message)])


def select_attributes(card: Card, attributes: Sequence[str] | str | None, problems: list[Problem]) -> list[str]:
    """Names of the selected attributes in the card's order; unknown ones are added to `problems`."""
    if attributes is None:
        return list(card.attributes)
    wanted = [name.strip() for name in attributes.split(",")] if isinstance(attributes, str) else list(attributes)
    for name in wanted:
        if name not in card.attributes:
            hint = did_you_mean(name, card.attributes)
            message = f"attributes: the card has no {name!r}{hint}; it has {', '.join(card.attributes) or 'none'}"
            problems.append(Problem("attributes", message))
    return [name for name in card.attributes if name in wanted]


def canonical_table(raw: pd.DataFrame, card: Card, *, require_labels: bool = True) -> pd.DataFrame:
    """Columns of `DatasetInfo.table` with every attribute of the card, from a checked manifest."""
    columns = {name: raw[name] for name in ("case_id", "patient_id", "split", "image") if name in raw}
    complete = all(name in raw and bool((raw[name] != "").all()) for name in label_columns(card))
    if require_labels or complete:
        for name in label_columns(card):
            codes = label_codes(card)
            target = f"label_{name}" if card.multi_label else name
            columns[target] = raw[name] if card.task == "segmentation" else raw[name].map(codes).astype(int)
    for attribute in card.attributes.values():
        columns[attribute.name] = group_column(attribute, raw)
    return pd.DataFrame(columns)


def _label_names(table: pd.DataFrame) -> list[str]:
    return [name for name in map(str, table) if name == "label" or name.startswith("label_")]


def _fingerprint(root: Path) -> str:
    digest = hashlib.sha256()
    for file in (find_manifest(root), root / CARD_FILE):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
