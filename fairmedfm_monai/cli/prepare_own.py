"""What ``prepare table``, ``prepare dicom`` and ``prepare bids`` do with users' own data."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from fairmedfm_monai.data.card_checks import MODALITIES, did_you_mean
from fairmedfm_monai.data.problems import DatasetError, Problem

KINDS: Mapping[str, str] = {
    "table": "a table (CSV, TSV, Excel, Parquet) with one row per picture or volume",
    "dicom": "a folder of DICOM files, with a table of labels",
    "bids": "a BIDS folder: participants.tsv and sub-*/[ses-*/]anat/*_T1w.nii.gz",
}
_NEEDED = {"table": ("table", "columns", "modality"), "dicom": ("table", "columns"), "bids": ("columns",)}
_EXAMPLES = {
    "table": (
        "--source FOLDER --table meta.csv --output OUT --modality fundus --columns "
        '"image=filename,patient_id=pid,label=dx,sex=Sex,age=Age"'
    ),
    "dicom": '--source FOLDER --table labels.csv --key StudyInstanceUID --output OUT --columns "label=dx"',
    "bids": '--source FOLDER --output OUT --suffix T1w --columns "label=group,sex=sex,age=age"',
}
_OWN_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "table": {
        "table": "file in the source, or a path",
        "images": "subfolder that the image paths are relative to",
        "masks": "the same for the paths of column mask; by default that of the images",
        "extension": "what the cells of the image column lack, e.g. .png",
    },
    "dicom": {
        "table": "table with the labels: file in the source, or a path",
        "key": "what its column of this name (or the one named as key=... in --columns) holds: PatientID (default), "
        "StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID, AccessionNumber, or file",
        "attributes": "of the headers: sex,age,ethnic_group; by default those that any header has",
        "secondary_captures": "take screenshots and converted images too",
    },
    "bids": {
        "suffix": "of the images, by default T1w",
        "masks": 'where the masks are, e.g. "derivatives/manual/{subject}/{session}/anat/{name}_mask.nii.gz"',
    },
}
_SHARED_OPTIONS: Mapping[str, str] = {
    "columns": "what is in which column: image, patient_id, case_id, split, label (label=A|B: a 0/1 column per class) "
    "or mask; any other name is an attribute",
    "modality": ", ".join(MODALITIES) + "; DICOM headers mostly tell",
    "spatial_dims": "2 for pictures, 3 for volumes; by default told by the files",
    "classes": 'names for the values of the label, e.g. "healthy=0,sick=1|2"',
    "positive": "of two classes, the one that scores are for; not needed for 0/1, no/yes and the like",
    "labels": 'values of the masks, e.g. "kidney=1,tumour=2"',
    "groups": 'names for the values of an attribute, e.g. "sex:female=1,male=2;site:north=A|B,south=C"',
    "bins": 'numbers that part the groups of an attribute, e.g. "bmi=18.5,25,30"',
    "missing": 'values that mean not known, e.g. "NA,?,bmi=999"; empty cells do anyway',
    "window": "CT window, e.g. lung or 40,400",
    "seed": "of the split, where no column says it",
    "incomplete": "leave out cases whose files are missing or damaged",
    "workers": "processes that convert",
}
_FLAGS = ("incomplete", "secondary_captures")
_NUMBERS = ("spatial_dims", "seed", "workers")
# Taken as typed: python-fire would make numbers, tuples and worse of some.
TEXT_OPTIONS = (
    "source",
    "output",
    *(
        name
        for options in (*_OWN_OPTIONS.values(), _SHARED_OPTIONS)
        for name in options
        if name not in (*_FLAGS, *_NUMBERS)
    ),
)


def usage_lines(kind: str) -> Iterator[str]:
    """How one kind of data is prepared."""
    yield f"{kind}: {KINDS[kind]}"
    yield f"  python -m fairmedfm_monai prepare {kind} {_EXAMPLES[kind]}"
    yield "options"
    for name, meaning in {**_OWN_OPTIONS[kind], **_SHARED_OPTIONS}.items():
        yield f"  --{name}: {meaning}"
    yield "values are never guessed: what cannot be told from them is asked for, all at once"


def prepare_own(kind: str, source: str | None, output: str | None, **options: Any) -> tuple[Path, tuple[str, ...]]:
    """Prepare users' own data; the folder and the lines of its summary.

    Args:
        kind: one of `KINDS`.
        source: folder with the data; linked, not copied.
        output: dataset folder to make.
        **options: those of `usage_lines`, texts as typed.

    Raises:
        DatasetError: an argument is missing (then how it is done is told), or the data cannot be used as they are.
        ValueError: an option that there is not, or of another form.
        OSError: the output cannot be written, or holds something else.
    """
    _check_options(kind, {"source": source, "output": output, **options})
    from fairmedfm_monai.data.own import prepare_rows
    from fairmedfm_monai.data.own.columns import Columns
    from fairmedfm_monai.data.prepare.folders import check_release

    root = check_release(str(source), (), {})
    run: dict[str, Any] = {name: options.pop(name) for name in ("incomplete", "workers") if name in options}
    readers = {"table": _read_table, "dicom": _read_dicom, "bids": _read_bids}
    rows, modality, dims = readers[kind](root, Columns, {**options, **run})
    wishes = _wishes(options, modality=modality, spatial_dims=int(options.get("spatial_dims", dims)))
    settings = {"dataset": f"own/{kind}", **options}
    made = prepare_rows(rows, wishes, root, str(output), settings=settings, **run)
    return made.folder, made.summary


def _check_options(kind: str, options: Mapping[str, Any]) -> None:
    known = ("source", "output", *_OWN_OPTIONS[kind], *_SHARED_OPTIONS)
    wrong = [f"--{name}{did_you_mean(name, known)}" for name in options if name not in known]
    if wrong:
        msg = f"prepare {kind} has no option {', '.join(wrong)}; there are {', '.join(f'--{name}' for name in known)}"
        raise ValueError(msg)
    missing = [f"`--{name}`" for name in ("source", "output", *_NEEDED[kind]) if options.get(name) is None]
    if missing:
        told = "\n    ".join(usage_lines(kind))
        verb = "is" if len(missing) == 1 else "are"
        raise DatasetError(kind, [Problem("argument", f"{', '.join(missing)} {verb} needed\n    {told}")])
    for name, value in options.items():
        if name in _FLAGS and not isinstance(value, bool):
            msg = f"`--{name}` stands alone, but got {value!r}"
            raise ValueError(msg)
        if name in _NUMBERS and (isinstance(value, bool) or not isinstance(value, int)):
            msg = f"`--{name}` must be a whole number, but got {value!r}"
            raise ValueError(msg)
        if name in TEXT_OPTIONS and str(value) == "True":
            msg = f"`--{name}` needs a text; one that begins with '-' is written --{name}=-..."
            raise ValueError(msg)
    modality = options.get("modality")
    if modality is not None and modality not in MODALITIES:
        msg = f"`--modality` must be one of {', '.join(MODALITIES)}, but got {modality!r}"
        raise ValueError(msg)


def _read_table(root: Path, columns: Any, options: Mapping[str, Any]) -> tuple[Any, str, int]:
    from fairmedfm_monai.data.own.table import CONTRACT, dims_of, read_own_table

    found = read_own_table(
        root,
        options["table"],
        columns.parse(options["columns"], contract=CONTRACT),
        images=options.get("images", ""),
        masks=options.get("masks"),
        extension=options.get("extension", ""),
    )
    return found, options["modality"], dims_of(root, found.table["image"])


def _read_dicom(root: Path, columns: Any, options: Mapping[str, Any]) -> tuple[Any, str, int]:
    from fairmedfm_monai.data.home import home
    from fairmedfm_monai.data.own.dicom import CONTRACT, HEADER_ATTRIBUTES, read_dicom
    from fairmedfm_monai.data.own.dicom_files import modality_of, scan_folder
    from fairmedfm_monai.data.own.dicom_labels import KEYS
    from fairmedfm_monai.handlers.privacy import hash_id, private_salt

    key = options.get("key", KEYS[0])
    stated = options.get("attributes")
    wanted = None if stated is None else [name.strip() for name in stated.split(",") if name.strip()]
    _check_names("key", [key], KEYS)
    _check_names("attributes", wanted or [], HEADER_ATTRIBUTES)
    parsed = columns.parse(options["columns"], contract=CONTRACT)
    scan = scan_folder(root, secondary_captures=options.get("secondary_captures", False))
    modality = options.get("modality") or modality_of(scan, root)
    dims = int(options.get("spatial_dims", 3 if modality in {"ct", "mri"} else 2))
    salt = private_salt(home())
    found = read_dicom(
        root,
        parsed,
        scan=scan,
        table=options["table"],
        key=key,
        modality=modality,
        spatial_dims=dims,
        pseudonym=lambda value: hash_id(value, salt),
        attributes=wanted,
        incomplete=options.get("incomplete", False),
    )
    return found, modality, dims


def _check_names(option: str, names: Collection[str], known: Collection[str]) -> None:
    wrong = [name for name in names if name not in known]
    if wrong:
        msg = f"`--{option}` must be of {', '.join(known)}, but got {wrong[0]!r}"
        raise ValueError(msg)


def _read_bids(root: Path, columns: Any, options: Mapping[str, Any]) -> tuple[Any, str, int]:
    from fairmedfm_monai.data.own.bids import CONTRACT, read_bids

    found = read_bids(
        root,
        columns.parse(options["columns"], contract=CONTRACT),
        suffix=options.get("suffix", "T1w"),
        masks=options.get("masks", ""),
        incomplete=options.get("incomplete", False),
    )
    return found, options.get("modality", "mri"), 3


def _wishes(options: Mapping[str, Any], *, modality: str, spatial_dims: int) -> Any:
    from fairmedfm_monai.data.own import arguments
    from fairmedfm_monai.data.own.wishes import Wishes

    def lists(name: str, example: str) -> dict[str, list[str]]:
        return arguments.value_lists(options.get(name, ""), option=name, example=example)

    return Wishes(
        modality=modality,
        spatial_dims=spatial_dims,
        classes=lists("classes", "healthy=0,sick=1|2"),
        positive=options.get("positive"),
        labels=_mask_labels(options.get("labels", "")),
        groups=arguments.group_lists(options.get("groups", "")),
        bins=arguments.number_lists(options.get("bins", "")),
        missing=arguments.missing_lists(options.get("missing", "")),
        window=_window(options.get("window")),
    )


def _mask_labels(text: str) -> dict[str, int]:
    from fairmedfm_monai.data.own.arguments import assignments

    example = "kidney=1,tumour=2"
    found = assignments(text, option="labels", example=example)
    wrong = [value for value in found.values() if not value.isdecimal()]
    if wrong:
        msg = f"`--labels` must be names and values such as {example!r}, but got {wrong[0]!r}"
        raise ValueError(msg)
    return {name: int(value) for name, value in found.items()}


def _window(text: str | None) -> str | list[float] | None:
    """A name is checked by the run that uses it: the list of names would cost seconds here, as it loads MONAI."""
    if text is None or text.replace("_", "").isalpha():
        return text
    try:
        return [float(part) for part in text.strip("[]()").split(",")]
    except ValueError:
        msg = f"`--window` must be a name such as lung, or centre and width such as 40,400, but got {text!r}"
        raise ValueError(msg) from None
