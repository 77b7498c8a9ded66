"""DICOM folders: what is taken, skipped and hidden; prepared, validated and evaluated."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest

from fairmedfm_monai.cli.prepare_own import prepare_own
from fairmedfm_monai.data import DatasetError, load_dataset, validate_folder
from tests.data.public.checks import evaluate
from tests.miniatures import own_dicom as own

CT = {"table": "labels.csv", "key": "StudyInstanceUID", "columns": "label=finding,site=site", "workers": 1}
XRAY = {"table": "labels.csv", "key": "file", "columns": "label=finding", "positive": "effusion", "workers": 1}


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own.make_ct(tmp_path_factory.mktemp("pacs") / "ct")


@pytest.fixture(scope="module")
def prepared_ct(ct: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder, summary = prepare_own("dicom", str(ct), str(tmp_path_factory.mktemp("out") / "ct"), **CT)
    return folder, "\n".join(summary)


@pytest.fixture(scope="module")
def xray(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own.make_xray(tmp_path_factory.mktemp("pacs") / "xray")


def own_bytes(folder: Path) -> dict[str, bytes]:
    """Content of every file of a dataset folder itself, unpacked; what the link leads to is not in it."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and "source" not in path.relative_to(folder).parts:
            content = path.read_bytes()
            found[str(path.relative_to(folder))] = gzip.decompress(content) if path.suffix == ".gz" else content
    return found


def test_series_become_volumes_with_every_value(prepared_ct: tuple[Path, str]) -> None:
    report = validate_folder(prepared_ct[0], deep=True, workers=1)
    assert report.ok, str(report)
    table = pd.read_csv(prepared_ct[0] / "manifest.csv", dtype=str, keep_default_na=False)
    volumes = {image: np.asanyarray(nibabel.load(prepared_ct[0] / image).dataobj) for image in table["image"]}
    for patient in range(own.PATIENTS):
        wanted = own.volume(patient).transpose(2, 1, 0)
        match = [image for image, found in volumes.items() if np.array_equal(found, wanted)]
        row = table[table["image"].isin(match)]
        assert row["label"].tolist() == [("negative", "positive")[patient % 2]]
        assert row["sex"].tolist() == [own.patient_tags(patient)["PatientSex"]]
        # Born on 15 June, examined on 14 June 2020: the birthday of that year is still to come.
        age = str(2020 - (1950 + patient) - 1) if patient % 3 == 2 else f"{40 + 3 * patient:03d}Y"
        assert row["age"].tolist() == [age]


def test_what_else_is_in_the_folder_is_skipped_and_counted(prepared_ct: tuple[Path, str]) -> None:
    for told in (
        "1 files skipped: secondary capture",
        "1 files skipped: no pixels (Grayscale Softcopy Presentation State Storage)",
        "1 files skipped: localizer",
        "2 files skipped: no DICOM",
        "4 ages are study date minus birth date",
        "1 of 13 rows of the table have no image",
        "ethnic_group: (0010,2160) EthnicGroup: a is 'A' (4)",
    ):
        assert told in prepared_ct[1]


def test_no_other_header_reaches_the_folder(ct: Path, prepared_ct: tuple[Path, str]) -> None:
    texts = {text for text in own.header_texts(ct) if len(text) > 3}
    assert {own.HIDDEN.encode(), b"MRN00003", b"ACC3", b"20200614", own.uid("study", 3).encode()} <= texts
    declared = {own.patient_tags(patient)["PatientAge"].encode() for patient in range(own.PATIENTS)}
    files = own_bytes(prepared_ct[0])
    assert sum(name.endswith(".nii.gz") for name in files) == own.PATIENTS
    leaks = {(name, text) for name, content in files.items() for text in texts - declared if text in content}
    assert not leaks
    for patient in range(own.PATIENTS):
        image = nibabel.load(prepared_ct[0] / load_dataset(prepared_ct[0]).table["image"][patient])
        assert not any(image.header[field].item() for field in ("descrip", "aux_file", "intent_name", "db_name"))
        assert not list(image.header.extensions)


def test_volumes_are_evaluated(prepared_ct: tuple[Path, str], tmp_path: Path, tracking_uri: str) -> None:
    subgroups = evaluate(load_dataset(prepared_ct[0]), tmp_path, tracking_uri)
    assert {"female", "lt60", "a"} <= set(subgroups["group"])


def test_pictures_are_referenced_and_named_by_file(xray: Path, tmp_path: Path) -> None:
    folder, summary = prepare_own("dicom", str(xray), str(tmp_path / "out"), **XRAY)
    report = validate_folder(folder, deep=True, workers=1)
    assert report.ok, str(report)
    info = load_dataset(folder)
    assert (info.modality, info.spatial_dims) == ("xray", 2)
    assert not (folder / "images").exists()
    assert info.table["patient_id"].nunique() == own.PATIENTS
    assert info.table.groupby("patient_id")["split"].nunique().max() == 1
    for row in info.table.to_dict("records"):
        header = pydicom.dcmread(folder / row["image"], stop_before_pixels=True)
        assert row["label"] == int(header.PatientID.removeprefix("MRN")) % 2
    assert not any("warning" in line for line in summary)
    assert own.HIDDEN.encode() not in b"".join(own_bytes(folder).values())


def test_pseudonyms_depend_on_the_salt_and_splits_do_not(
    xray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = []
    for name in ("one", "two"):
        monkeypatch.setenv("FAIRMEDFM_HOME", str(tmp_path / f"home-{name}"))
        folder, _ = prepare_own("dicom", str(xray), str(tmp_path / name), **XRAY)
        tables.append(pd.read_csv(folder / "manifest.csv", dtype=str))
    one, two = tables
    assert not set(one["patient_id"]) & set(two["patient_id"])
    assert not set(one["case_id"]) & set(two["case_id"])
    assert one["split"].tolist() == two["split"].tolist()


def test_paths_with_names_are_warned_of(tmp_path: Path) -> None:
    source = own.make_xray(tmp_path / "pacs")
    (source / "files" / "p00v0").rename(source / "files" / "p00v0.MRN00000")
    table = source / "labels.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("p00v0", "files/p00v0.MRN00000"))
    _, summary = prepare_own("dicom", str(source), str(tmp_path / "out"), **XRAY)
    assert any("paths of 1 images hold their patient's id or name" in line for line in summary)


def test_damaged_and_lone_files(ct: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(ct, tmp_path / "pacs"))
    (source / "case01" / "im1.dcm").write_bytes(b"cut off")
    (source / "case02" / "im3.dcm").unlink()
    with pytest.raises(DatasetError, match=r"1 files cannot be read as DICOM: case01/im1.dcm"):
        prepare_own("dicom", str(source), str(tmp_path / "out"), **CT)
    folder, _ = prepare_own("dicom", str(source), str(tmp_path / "out"), incomplete=True, **CT)
    assert len(load_dataset(folder).table) == own.PATIENTS - 2
    reasons = (folder / "left_out.csv").read_text(encoding="utf-8")
    assert "case01: ValueError: im1.dcm cannot be read as DICOM" in reasons
    assert "case02: ValueError: the slices are unevenly spaced" in reasons


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": "AccessionNumber"}, "`--columns` names 'AccessionNumber', which the table lacks"),
        ({"key": "PatientID", "columns": "key=StudyInstanceUID,label=finding"}, r"no image has a row.*is it PatientID"),
        ({"key": "SOPInstanceUID"}, "names single slices"),
        ({"key": "nonsense"}, "`--key` must be of PatientID"),
        ({"modality": "mri"}, "no DICOM image of mri to use; 49 files skipped: modality CT"),
        ({"attributes": "sex,site"}, "`--attributes` must be of sex, age, ethnic_group"),
        ({"attributes": "sex", "columns": "label=finding,sex=site"}, "both name sex"),
    ],
)
def test_what_does_not_fit(ct: Path, tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare_own("dicom", str(ct), str(tmp_path / "out"), **{**CT, **options})


def test_one_name_in_two_folders_is_no_key(tmp_path: Path) -> None:
    source = own.make_xray(tmp_path / "pacs")
    for folder in ("x", "y"):
        (source / folder).mkdir()
        (source / "files" / f"p00v{'xy'.index(folder)}").rename(source / folder / "image.dcm")
    table = source / "labels.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("p00v0", "image").replace("p00v1", "y/image.dcm"))
    _, summary = prepare_own("dicom", str(source), str(tmp_path / "out"), **XRAY)
    assert any("1 of 24 images left out: no row in the table" in line for line in summary)


def test_series_may_share_the_top_folder(tmp_path: Path) -> None:
    for patient in range(3):
        own.write_ct(tmp_path, patient)
        for path in (tmp_path / f"case{patient:02d}").iterdir():
            path.rename(tmp_path / f"{patient}{path.name}")
    rows = [f"{own.uid('series', patient)},{patient % 2}\n" for patient in range(3)]
    (tmp_path / "labels.csv").write_text("".join(["SeriesInstanceUID,y\n", *rows]))
    # An output inside the source: a second run must not take its own files for new ones.
    options = {"table": "labels.csv", "key": "SeriesInstanceUID", "columns": "label=y", "workers": 1}
    for _ in range(2):
        folder, _ = prepare_own("dicom", str(tmp_path), str(tmp_path / "out"), **options)
    shapes = [nibabel.load(folder / image).shape for image in load_dataset(folder).table["image"]]
    assert shapes == [(16, 16, own.SLICES)] * 3


def test_patients_without_id_and_patients_of_the_table(tmp_path: Path) -> None:
    lines = ["AccessionNumber,y,person"]
    for image in range(8):
        tags = own.patient_tags(image // 2) | {"PatientID": "", "Modality": "CR", "SeriesInstanceUID": own.uid(image)}
        own.write(tmp_path / "pacs" / f"{image}.dcm", own.XRAY, np.zeros((8, 8)), **tags)
        lines += [f"ACC{image // 2},{image // 2 % 2},Smith{image // 4}{image // 2}"] if image % 2 else []
    (tmp_path / "pacs" / "labels.csv").write_text("\n".join(lines) + "\n")
    options = {"table": "labels.csv", "key": "AccessionNumber", "columns": "label=y", "attributes": ""}
    folder, summary = prepare_own("dicom", str(tmp_path / "pacs"), str(tmp_path / "studies"), **options)
    info = load_dataset(folder)
    assert (info.table["patient_id"].nunique(), info.attributes) == (4, {})
    assert any("8 images have no PatientID: each study counts" in line for line in summary)
    assert "each study counts as a patient of its own" in str(info.notice)
    options["columns"] += ",patient_id=person"
    folder, summary = prepare_own("dicom", str(tmp_path / "pacs"), str(tmp_path / "people"), **options)
    assert load_dataset(folder).table["patient_id"].nunique() == 4
    assert "Smith" not in (folder / "manifest.csv").read_text(encoding="utf-8")
    assert not any("PatientID" in line for line in summary)


def test_screenshots_only_say_how_to_take_them(tmp_path: Path) -> None:
    for patient in range(4):
        tags = own.patient_tags(patient) | {"Modality": "CR", "SeriesInstanceUID": own.uid(patient)}
        own.write(tmp_path / "pacs" / f"{patient}.dcm", own.CAPTURE, np.zeros((8, 8)), **tags)
    (tmp_path / "pacs" / "labels.csv").write_text("PatientID,y\n" + "".join(f"MRN{n:05d},{n % 2}\n" for n in range(4)))
    options = {"table": "labels.csv", "columns": "label=y", "modality": "xray"}
    with pytest.raises(DatasetError, match=r"4 files skipped: secondary capture.*--secondary_captures"):
        prepare_own("dicom", str(tmp_path / "pacs"), str(tmp_path / "out"), **options)
    prepare_own("dicom", str(tmp_path / "pacs"), str(tmp_path / "out"), secondary_captures=True, **options)
    assert len(load_dataset(tmp_path / "out").table) == 4
