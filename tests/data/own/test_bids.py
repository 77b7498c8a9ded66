"""BIDS folders: sessions, levels, masks, what was not fetched; prepared, validated and evaluated."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fairmedfm_monai.cli.prepare_own import prepare_own
from fairmedfm_monai.data import DatasetError, load_dataset, validate_folder
from tests.data.public.checks import evaluate
from tests.miniatures.own_bids import HIDDEN, SUBJECTS, make

COLUMNS = "label=group,sex=sex,age=age"
MASKS = "derivatives/manual/{subject}/{session}/anat/{name}_mask.nii.gz"


@pytest.fixture(scope="module")
def bids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("bids") / "study")


def test_prepares_validates_and_evaluates(bids: Path, tmp_path: Path, tracking_uri: str) -> None:
    folder, summary = prepare_own("bids", str(bids), str(tmp_path / "out"), columns=COLUMNS)
    report = validate_folder(folder, deep=True, workers=1)
    assert report.ok, str(report)
    info = load_dataset(folder)
    assert (info.modality, info.spatial_dims, info.classes) == ("mri", 3, ["control", "patient"])
    numbers = info.table["patient_id"].str.removeprefix("sub-").astype(int)
    assert (info.table["label"] == numbers % 2).all()
    assert (info.table["sex"] == (numbers // 2 % 2).map({0: "male", 1: "female"})).all()
    assert info.table.loc[numbers == 3, "age"].tolist() == ["unknown"]
    assert any("1 participants have no such image: sub-99" in line for line in summary)
    assert any("not taken over: handedness" in line for line in summary)
    subgroups = evaluate(info, tmp_path, tracking_uri)
    assert {"female", "male"} <= set(subgroups["group"])


def test_no_text_of_nifti_headers_is_in_the_folder(bids: Path, tmp_path: Path) -> None:
    folder, _ = prepare_own("bids", str(bids), str(tmp_path / "out"), columns=COLUMNS)
    files = [path for path in folder.rglob("*") if path.is_file() and "source" not in path.relative_to(folder).parts]
    assert {path.name for path in files} >= {"manifest.csv", "dataset.json", "provenance.json"}
    assert not any(path.name.endswith((".nii", ".nii.gz")) for path in files)
    assert not [path.name for path in files if HIDDEN.encode() in path.read_bytes()]


def test_sessions_and_masks(tmp_path: Path) -> None:
    source = make(tmp_path / "study", sessions=True)
    options = {"columns": "sex=sex", "masks": MASKS, "labels": "lesion=1"}
    folder, summary = prepare_own("bids", str(source), str(tmp_path / "out"), **options)
    report = validate_folder(folder, deep=True, workers=1)
    assert report.ok, str(report)
    info = load_dataset(folder)
    assert (info.task, len(info.table)) == ("segmentation", 2 * SUBJECTS)
    assert info.table["patient_id"].nunique() == SUBJECTS
    for row in info.table.to_dict("records"):
        assert row["case_id"].removesuffix("_T1w") == Path(row["mask"]).name.removesuffix("_mask.nii.gz")
    assert any("2 sessions" in line for line in summary)


def test_masks_must_be_one_each(bids: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(bids, tmp_path / "study"))
    options = {"columns": "sex=sex", "masks": MASKS, "labels": "lesion=1"}
    (source / "derivatives/manual/sub-02/anat/sub-02_mask.nii.gz").unlink()
    with pytest.raises(DatasetError, match="1 of 12 images have no mask by `--masks`: sub-02/anat"):
        prepare_own("bids", str(source), str(tmp_path / "out"), **options)
    folder, _ = prepare_own("bids", str(source), str(tmp_path / "out"), incomplete=True, **options)
    assert len(load_dataset(folder).table) == SUBJECTS - 1
    with pytest.raises(DatasetError, match="images have several masks by `--masks`"):
        prepare_own("bids", str(bids), str(tmp_path / "no"), **{**options, "masks": "derivatives/*/*/anat/*"})
    with pytest.raises(ValueError, match=r"knows \{subject\}, \{session\} and \{name\}, but has \{sub\}"):
        prepare_own("bids", str(bids), str(tmp_path / "no"), **{**options, "masks": "{sub}/x"})


def test_content_that_was_not_fetched(bids: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(bids, tmp_path / "study"))
    image = source / "sub-04/anat/sub-04_T1w.nii.gz"
    image.unlink()
    image.symlink_to("../../.git/annex/objects/gone")
    with pytest.raises(DatasetError, match=r"1 images are links to content that is not there: sub-04.*datalad get"):
        prepare_own("bids", str(source), str(tmp_path / "out"), columns=COLUMNS)
    folder, _ = prepare_own("bids", str(source), str(tmp_path / "out"), columns=COLUMNS, incomplete=True)
    assert len(load_dataset(folder).table) == SUBJECTS - 1


def test_wrong_folder_suffix_and_levels(bids: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"participants\.tsv at its top"):
        prepare_own("bids", str(bids / "sub-01"), str(tmp_path / "out"), columns=COLUMNS)
    with pytest.raises(DatasetError, match=r"suffixes .* there are T1w"):
        prepare_own("bids", str(bids), str(tmp_path / "out"), columns=COLUMNS, suffix="FLAIR")
    source = Path(shutil.copytree(bids, tmp_path / "study"))
    (source / "participants.json").unlink()
    with pytest.raises(DatasetError, match="'1', '2', which may mean anything"):
        prepare_own("bids", str(source), str(tmp_path / "out"), columns=COLUMNS)
    (source / "participants.json").write_text("{")
    with pytest.raises(DatasetError, match="cannot be read as JSON"):
        prepare_own("bids", str(source), str(tmp_path / "out"), columns=COLUMNS)


def test_images_of_strangers_are_left_out(bids: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(bids, tmp_path / "study"))
    table = source / "participants.tsv"
    table.write_text("".join(line for line in table.open() if not line.startswith("sub-07")))
    _, summary = prepare_own("bids", str(source), str(tmp_path / "out"), columns=COLUMNS)
    assert any("1 images left out: not in participants.tsv: sub-07" in line for line in summary)
