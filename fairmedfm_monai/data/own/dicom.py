"""A folder of DICOM files: pictures are referenced, series of slices become volumes, labels come from a table.

Of the headers nothing gets into the dataset folder but sex, age and ethnic group; patients get pseudonyms.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from fairmedfm_monai.data.manifest import years
from fairmedfm_monai.data.own.columns import Columns
from fairmedfm_monai.data.own.dicom_files import MODALITIES, SECONDARY_CAPTURE, DicomCase, DicomFile, Scan
from fairmedfm_monai.data.own.dicom_labels import join_rows
from fairmedfm_monai.data.own.rows import OwnRows
from fairmedfm_monai.data.own.table import find_table
from fairmedfm_monai.data.prepare.made import Made
from fairmedfm_monai.data.prepare.makers.dicom import find_series, series_to_nifti
from fairmedfm_monai.data.problems import DatasetError, Problem, examples

CONTRACT = ("key", "patient_id", "mask", "split")
HEADER_ATTRIBUTES: Mapping[str, str] = {
    "sex": "(0010,0040) PatientSex",
    "age": "(0010,1010) PatientAge, or StudyDate minus PatientBirthDate",
    "ethnic_group": "(0010,2160) EthnicGroup",
}
_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")


def one_series(inputs: Sequence[Path], target: Path, *, series: str) -> None:
    """Maker: the series of a folder whose UID has this hash, as NIfTI. See `series_to_nifti`."""
    uid = next((found.uid for found in find_series(inputs[0]) if uid_hash(found.uid) == series), None)
    if uid is None:
        msg = f"{inputs[0].name}: the series is no longer in the folder"
        raise ValueError(msg)
    series_to_nifti(inputs, target, uid=uid)


def uid_hash(uid: str) -> str:
    """First 16 hex digits of a UID's SHA-256: names a series where its UID must not stand."""
    return hashlib.sha256(uid.encode()).hexdigest()[:16]


def read_dicom(
    root: Path,
    columns: Columns,
    *,
    scan: Scan,
    table: str,
    key: str,
    modality: str,
    spatial_dims: int,
    pseudonym: Callable[[str], str],
    attributes: Sequence[str] | None = None,
    incomplete: bool = False,
) -> OwnRows:
    """Rows of a DICOM folder.

    Args:
        root: absolute folder.
        columns: of the table; its attributes are added to those of the headers, its ``patient_id`` replaces theirs.
        scan: what the folder holds, by `scan_folder`.
        table: table with the labels, in the folder or a path.
        key: what its column `key` (or the one that is named like it) holds, one of `KEYS`; ``file`` is a path relative
            to the folder or a file name, for volumes also the path of the series' folder.
        modality: as in the card; images that the headers call another known modality are left out.
        spatial_dims: 2: each file is a case; 3: each series of slices is.
        pseudonym: of patient and case ids.
        attributes: of `HEADER_ATTRIBUTES`; by default those that any header has.
        incomplete: go on without files that cannot be read.

    Raises:
        DatasetError: no image, damaged files, a table that does not fit.
        ValueError: an attribute both in headers and table, or a key that names slices of volumes.
    """
    if spatial_dims == 3 and key == "SOPInstanceUID":
        msg = "`--key SOPInstanceUID` names single slices; volumes have a SeriesInstanceUID, or `--spatial_dims 2`"
        raise ValueError(msg)
    _check_damaged(scan, root, incomplete=incomplete)
    cases, skipped = _cases(scan, modality, spatial_dims)
    if not cases:
        hint = "; --secondary_captures takes those" if scan.skipped[SECONDARY_CAPTURE] else ""
        message = f"there is no DICOM image of {modality} to use; {'; '.join(skipped) or 'no file'}{hint}"
        raise DatasetError(root, [Problem("empty", message)])
    header, header_notes = _from_headers(cases, attributes, taken=columns.attributes)
    ids = [pseudonym(_own_id(case, spatial_dims)) for case in cases]
    images = [
        _volume(case, name) if spatial_dims == 3 else case.first.path for case, name in zip(cases, ids, strict=True)
    ]
    people = [_patient(case) for case in cases]
    found = pd.DataFrame({"case_id": ids, "patient_id": people, "image": images, **header})
    joined = join_rows(cases, found, find_table(root, table), columns, key=key)
    all_known = "patient_id" in columns.contract or all(case.first.ids["PatientID"] for case in cases)
    return OwnRows(
        kind="dicom",
        table=joined.table,
        labels=columns.label_keys(),
        attributes={name: HEADER_ATTRIBUTES[name] for name in header} | columns.attribute_origins(),
        origins=_origins(columns),
        unused=joined.unused,
        patient_is="patient" if all_known else "study",
        pseudonym=pseudonym,
        notes=(*skipped, *header_notes, *joined.notes, *_patient_notes(cases, columns)),
    )


def _origins(columns: Columns) -> dict[str, str]:
    stated = columns.contract_origins()
    return {
        "case_id": "hash of the SOP or series instance UID",
        "patient_id": f"hash of {stated.get('patient_id', '(0010,0020) PatientID')}",
        **{name: origin for name, origin in stated.items() if name in ("mask", "split")},
    }


def _cases(scan: Scan, modality: str, spatial_dims: int) -> tuple[list[DicomCase], list[str]]:
    """Pictures or series, and what was skipped."""
    skipped = Counter(scan.skipped)
    kept = []
    for file in scan.files:
        other = MODALITIES.get(file.modality, modality) != modality
        reason = (
            f"modality {file.modality}" if other else "localizer" if spatial_dims == 3 and file.is_localizer else ""
        )
        if reason:
            skipped[reason] += 1
        else:
            kept.append(file)
    cases = [DicomCase((file,)) for file in kept] if spatial_dims == 2 else _series(kept, skipped)
    notes = [f"{number:,} files skipped: {reason}" for reason, number in skipped.most_common()]
    notes += [f"{len(scan.damaged)} files left out: damaged"] if scan.damaged else []
    return cases, notes


def _check_damaged(scan: Scan, root: Path, *, incomplete: bool) -> None:
    if scan.damaged and not incomplete:
        message = (
            f"{len(scan.damaged)} files cannot be read as DICOM: {examples(scan.damaged)}. Fetch them again, or leave "
            "them out with --incomplete"
        )
        raise DatasetError(root, [Problem("damaged", message)])


def _series(files: Sequence[DicomFile], skipped: Counter[str]) -> list[DicomCase]:
    """Files by series; lone slices, files without a place in space and scattered series are skipped."""
    series: dict[str, list[DicomFile]] = {}
    for file in files:
        if file.is_placed:
            series.setdefault(file.ids["SeriesInstanceUID"], []).append(file)
        else:
            skipped["no position in space"] += 1
    cases = []
    for members in series.values():
        if len({file.folder for file in members}) > 1:
            skipped["series spread over several folders (put each into one)"] += len(members)
        elif len(members) < 2:
            skipped["a series of one slice (`--spatial_dims 2` takes slices as pictures)"] += 1
        else:
            cases.append(DicomCase(tuple(members)))
    return cases


def _volume(case: DicomCase, case_id: str) -> Made:
    series = uid_hash(case.first.ids["SeriesInstanceUID"])
    return Made(f"images/{case_id}.nii.gz", (case.first.folder or ".",), one_series, (("series", series),))


def _own_id(case: DicomCase, spatial_dims: int) -> str:
    """Identifier of a case, from which its pseudonym is made."""
    if spatial_dims == 3:
        return case.first.ids["SeriesInstanceUID"]
    return case.first.ids["SOPInstanceUID"] or case.first.path


def _patient(case: DicomCase) -> str:
    """Patient id; without one, the study is its own patient."""
    ids = case.first.ids
    return ids["PatientID"] or ids["StudyInstanceUID"] or case.first.path


def _from_headers(
    cases: Sequence[DicomCase], wanted: Sequence[str] | None, *, taken: Mapping[str, str]
) -> tuple[dict[str, list[str]], list[str]]:
    """Attribute -> raw value of each case."""
    derived = [_age(case.first) for case in cases]
    found = {
        "sex": [case.first.patient["PatientSex"] for case in cases],
        "age": [age for age, _ in derived],
        "ethnic_group": [case.first.patient["EthnicGroup"] for case in cases],
    }
    twice = [name for name in wanted or () if name in taken]
    if twice:
        msg = f"`--attributes` and `--columns` both name {', '.join(twice)}; say it once"
        raise ValueError(msg)
    names = [name for name in found if any(found[name]) and name not in taken] if wanted is None else list(wanted)
    notes = [
        f"no header says the {name.replace('_', ' ')}" for name in found if wanted is None and not any(found[name])
    ]
    count = sum(is_derived for _, is_derived in derived)
    if count and "age" in names:
        notes.append(f"{count} ages are study date minus birth date: no header field holds them")
    return {name: found[name] for name in names}, notes


def _age(file: DicomFile) -> tuple[str, bool]:
    """Age as in the header, or else full years from birth to study; and whether it was derived."""
    stated = file.patient["PatientAge"]
    if stated and years(stated) is not None:
        return stated, False
    dates = [_DATE.fullmatch(file.patient[tag]) for tag in ("PatientBirthDate", "StudyDate")]
    if not all(dates):
        return "", False
    born, studied = ([int(part) for part in date.groups()] for date in dates if date)
    return str(studied[0] - born[0] - (studied[1:] < born[1:])), True


def _patient_notes(cases: Sequence[DicomCase], columns: Columns) -> list[str]:
    notes = []
    without = sum(not case.first.ids["PatientID"] for case in cases)
    if without and "patient_id" not in columns.contract:
        notes.append(f"warning: {without} images have no PatientID: each study counts as a patient of its own")
    named = sum(_names_patient(case.first) for case in cases)
    if named:
        notes.append(
            f"warning: the paths of {named} images hold their patient's id or name, and `source` in the dataset folder "
            "leads to them: rename the files where the dataset folder is shared"
        )
    return notes


def _names_patient(file: DicomFile) -> bool:
    """Whether a path holds the patient's id or a part of the name; shorter ones stand in paths by chance."""
    parts = [file.ids["PatientID"], *re.split(r"[\^ =]", file.patient["PatientName"])]
    return any(len(part) > 3 and part.casefold() in file.path.casefold() for part in parts)
