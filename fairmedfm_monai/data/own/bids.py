"""A BIDS folder: images by suffix, labels and attributes from participants.tsv, masks from derivatives."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from fairmedfm_monai.data.own.columns import Columns
from fairmedfm_monai.data.own.rows import OwnRows
from fairmedfm_monai.data.own.table import read_columns, split_names
from fairmedfm_monai.data.problems import DatasetError, Problem, examples, raise_errors

CONTRACT = ("split",)
MISSING = "n/a"  # what BIDS writes for a missing value
PARTICIPANTS = "participants.tsv"
_ENDS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class _Image:
    """One image: path inside the source, ``sub-...``, ``ses-...`` or empty, file name up to the suffix."""

    path: str
    subject: str
    session: str
    stem: str


def read_bids(
    root: Path, columns: Columns, *, suffix: str = "T1w", masks: str = "", incomplete: bool = False
) -> OwnRows:
    """Rows of a BIDS folder, one per image ``sub-*/[ses-*/]anat/*_<suffix>.nii.gz``.

    Args:
        root: absolute folder with ``participants.tsv``.
        columns: of ``participants.tsv``.
        suffix: of the images, e.g. ``T1w``.
        masks: path of the mask of an image, relative to the folder, with ``{subject}`` (``sub-01``), ``{session}``
            (``ses-1``, empty where there is none), ``{name}`` (file name up to the suffix) and ``*``.
        incomplete: leave out images that were not fetched or have no mask.

    Raises:
        DatasetError: no BIDS folder, no image, content that was not fetched, or not exactly one mask for an image.
    """
    notes: list[str] = []
    images = _images(root, suffix, notes, incomplete=incomplete)
    people = _participants(root, columns)
    known = _of_participants(images, people["participant_id"], root, notes)
    chosen = _one_mask_each(known, root, masks, notes, incomplete=incomplete) if masks else {}
    known = [image for image in known if not masks or image.path in chosen]
    origins = {"case_id": "file name", "patient_id": "column 'participant_id'", **columns.contract_origins()}
    levels = _levels(root)
    meanings = {name: levels[column] for name, column in columns.attributes.items() if column in levels}
    if len(columns.labels) == 1 and columns.labels[0] in levels:
        meanings["label"] = levels[columns.labels[0]]
    return OwnRows(
        kind="bids",
        table=_table(known, people, columns, root, chosen),
        labels=columns.label_keys(),
        attributes=columns.attribute_origins(),
        origins=origins | ({"mask": masks} if masks else {}),
        unused=tuple(name for name in columns.unused(people) if name != "participant_id"),
        meanings=meanings,
        notes=tuple(notes),
    )


def _participants(root: Path, columns: Columns) -> pd.DataFrame:
    """The table of participants, their ids with ``sub-``."""
    wanted = replace(columns, contract={"patient_id": "participant_id", **columns.contract})
    people = read_columns(root / PARTICIPANTS, wanted).replace(MISSING, "")
    subjects = people["participant_id"].map(lambda name: name if name.startswith("sub-") else f"sub-{name}")
    twice = subjects[subjects.duplicated()].unique()
    if len(twice):
        message = f"participants stand in more than one row: {examples(twice)}"
        raise DatasetError(root / PARTICIPANTS, [Problem("duplicate_key", message)])
    return people.assign(participant_id=subjects)


def _images(root: Path, suffix: str, notes: list[str], *, incomplete: bool) -> list[_Image]:
    if not (root / PARTICIPANTS).is_file():
        there = examples(sorted(entry.name for entry in root.iterdir())) or "nothing"
        message = f"a BIDS folder has {PARTICIPANTS} at its top, but this one holds {there}; is it the right level?"
        raise DatasetError(root, [Problem("no_release", message)])
    found = []
    for end in _ENDS:
        for pattern in (f"sub-*/anat/*_{suffix}{end}", f"sub-*/ses-*/anat/*_{suffix}{end}"):
            for path in root.glob(pattern):
                parts = path.relative_to(root).parts
                session = parts[1] if parts[1].startswith("ses-") else ""
                stem = path.name.removesuffix(f"_{suffix}{end}")
                found.append(_Image(posixpath.join(*parts), parts[0], session, stem))
    if not found:
        other = sorted({path.name.split(".")[0].rpartition("_")[2] for path in root.glob("sub-*/**/anat/*.nii*")})
        there = examples(other) or "none"
        message = f"there is no sub-*/[ses-*/]anat/*_{suffix}.nii.gz; suffixes (`--suffix`) there are {there}"
        raise DatasetError(root, [Problem("empty", message)])
    gone = [image.path for image in found if not (root / image.path).exists()]
    if gone and (not incomplete or len(gone) == len(found)):
        message = (
            f"{len(gone)} images are links to content that is not there: {examples(gone)}. Fetch it (`datalad get`), "
            "or leave them out with --incomplete"
        )
        raise DatasetError(root, [Problem("missing_file", message)])
    notes += [f"{len(gone)} images left out: their content was not fetched"] if gone else []
    return sorted((image for image in found if image.path not in gone), key=lambda image: image.path)


def _of_participants(images: list[_Image], subjects: pd.Series, root: Path, notes: list[str]) -> list[_Image]:
    """Images whose subject is in the table."""
    listed = set(subjects)
    known = [image for image in images if image.subject in listed]
    strangers = sorted({image.subject for image in images} - listed)
    if not known:
        message = f"no image is of a participant: images are of {examples(strangers)}"
        raise DatasetError(root / PARTICIPANTS, [Problem("key", message)])
    if strangers:
        notes.append(f"{len(images) - len(known)} images left out: not in {PARTICIPANTS}: {examples(strangers)}")
    lonely = sorted(listed - {image.subject for image in images})
    if lonely:
        notes.append(f"{len(lonely)} participants have no such image: {examples(lonely)}")
    sessions = {image.session for image in known}
    if len(sessions) > 1:
        notes.append(f"{len(sessions)} sessions: labels and attributes are those of the participant, the same in each")
    return known


def _table(
    images: list[_Image], people: pd.DataFrame, columns: Columns, root: Path, masks: Mapping[str, str]
) -> pd.DataFrame:
    position = {name: index for index, name in enumerate(people["participant_id"])}
    rows = people.iloc[[position[image.subject] for image in images]].reset_index(drop=True)
    problems: list[Problem] = []
    found: dict[str, Any] = {
        "case_id": [posixpath.basename(image.path).split(".")[0] for image in images],
        "patient_id": rows["participant_id"],
        "image": [image.path for image in images],
    }
    if masks:
        found["mask"] = [masks[image.path] for image in images]
    if "split" in columns.contract:
        found["split"] = split_names(rows[columns.contract["split"]], problems)
    raise_errors(root, problems)
    return pd.DataFrame({**found, **columns.taken_from(rows)})


def _masks(images: list[_Image], root: Path, pattern: str) -> dict[str, list[str]]:
    """Path of an image -> the masks that fit the pattern."""
    if pattern.startswith(("/", "~")) or ".." in pattern.split("/"):
        msg = (
            f"`--masks` must be a path inside the source, e.g. 'derivatives/*/{{subject}}/anat/*', but got {pattern!r}"
        )
        raise ValueError(msg)
    strange = sorted(set(re.findall(r"\{[^}]*\}", pattern)) - {"{subject}", "{session}", "{name}"})
    if strange:
        msg = f"`--masks` knows {{subject}}, {{session}} and {{name}}, but has {', '.join(strange)}"
        raise ValueError(msg)
    found = {}
    for image in images:
        filled = pattern.replace("{subject}", image.subject).replace("{session}", image.session)
        filled = posixpath.normpath(filled.replace("{name}", image.stem))
        found[image.path] = sorted(path.relative_to(root).as_posix() for path in root.glob(filled))
    return found


def _one_mask_each(
    images: list[_Image], root: Path, pattern: str, notes: list[str], *, incomplete: bool
) -> dict[str, str]:
    """Path of an image -> its mask; images without one are left out when `incomplete`."""
    found = _masks(images, root, pattern)
    none = [path for path, masks in found.items() if not masks]
    several = [f"{path} ({', '.join(masks)})" for path, masks in found.items() if len(masks) > 1]
    problems = []
    if none and (not incomplete or len(none) == len(found)):
        message = (
            f"{len(none)} of {len(images)} images have no mask by `--masks`: {examples(none)}; mend the pattern, or "
            "leave them out with --incomplete"
        )
        problems.append(Problem("missing_file", message))
    if several:
        message = f"{len(several)} images have several masks by `--masks`: {examples(several)}"
        problems.append(Problem("mask", message))
    raise_errors(root, problems)
    notes += [f"{len(none)} images left out: no mask"] if none else []
    return {path: masks[0] for path, masks in found.items() if masks}


def _levels(root: Path) -> Mapping[str, Mapping[str, str]]:
    """Column -> raw value -> meaning, from participants.json, where it is there."""
    file = root / "participants.json"
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        message = f"it cannot be read as JSON: {error}; mend it or move it away"
        raise DatasetError(file, [Problem("table_unreadable", message)]) from error
    entries = content if isinstance(content, Mapping) else {}
    return {
        column: {str(raw): _meaning(level) for raw, level in entry["Levels"].items() if str(raw) != MISSING}
        for column, entry in entries.items()
        if isinstance(entry, Mapping) and isinstance(entry.get("Levels"), Mapping)
    }


def _meaning(level: Any) -> str:
    """A level is a text, or an object with a ``Description``."""
    return str(level.get("Description", "") if isinstance(level, Mapping) else level)
