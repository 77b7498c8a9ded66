"""CANDI Share: the miniature release."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from fairmedfm_monai.data.prepare import find_dataset, prepare_dataset
from fairmedfm_monai.data.problems import DatasetError
from fairmedfm_monai.data.public.candi import labels
from tests.data.public.checks import evaluate, prepared
from tests.miniatures.candi import GROUPS, IDS, make

SLUGS = {
    "HC": "control",
    "SS": "schizophrenia",
    "BPDwithPsy": "bipolar_with_psychosis",
    "BPDwithoutPsy": "bipolar_without_psychosis",
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("candi") / "raw")


def test_prepares_validates_and_evaluates(raw: Path, tmp_path: Path, tracking_uri: str) -> None:
    info, _ = prepared("candi", raw, tmp_path / "out")
    tables = {name: pd.read_csv(raw / name / f"{name}_Basic_Demographics.csv") for name in GROUPS}
    truth = pd.concat([table.assign(diagnosis=SLUGS[name]) for name, table in tables.items()]).set_index("Subject")
    table = info.table.set_index("case_id").loc[truth.index]
    assert (table["sex"] == truth["Gender"]).all()
    assert (table["diagnosis"] == truth["diagnosis"]).all()
    assert (table["handedness"] == truth["Handedness"].map({"RH": "right", "LH": "left"}).fillna("unknown")).all()
    bands = pd.cut(truth["Age"], [0, 10, 13, 99], right=False, labels=["lt10", "10-12", "ge13"])
    assert (table["age"] == bands.astype(str)).all()
    subgroups = evaluate(info, tmp_path, tracking_uri, prompts=["box"], slice_axis=1, progress=False)
    assert {"control", "right", "female__control"} <= set(subgroups["group"])


def test_label_ids_and_targets() -> None:
    # The starred targets of FairMedFM and its 34 ids, with FreeSurfer's names of some.
    assert sorted(labels("all").values()) == sorted(IDS)
    assert len(IDS) == 34
    assert labels("targets") == {
        "left_cerebral_white_matter": 2,
        "left_cerebral_cortex": 3,
        "left_lateral_ventricle": 4,
        "brain_stem": 16,
        "right_cerebral_white_matter": 41,
        "right_cerebral_cortex": 42,
        "right_lateral_ventricle": 43,
    }
    named = {"left_hippocampus": 17, "right_hippocampus": 53, "third_ventricle": 14, "right_accumbens": 58}
    assert named.items() <= labels("all").items()


def test_all_structures_and_the_published_protocol(raw: Path, tmp_path: Path) -> None:
    make(tmp_path / "raw", flat=True)
    info, _ = prepared("candi", tmp_path / "raw", tmp_path / "out", rule="all")
    assert info.card.name == "candi-all"
    assert len(info.labels) == 34
    published, _ = prepared("candi", raw, tmp_path / "published", protocol="fairmedfm")
    assert set(published.table["split"]) == {"test"}
    assert list(published.attributes) == ["sex"]


def test_what_the_tables_must_not_hold(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    dataset = find_dataset("candi")
    file = tmp_path / "raw" / "SS" / "SS_Basic_Demographics.csv"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("SS_010", "HC_010"))
    with pytest.raises(DatasetError, match="'HC_010' in SS"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)
    file.write_text(text.replace(",male,", ",boy,"))
    with pytest.raises(DatasetError, match=r"'boy' \(2\)"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)
    file.write_text(text.replace("Handedness", "Hand"))
    with pytest.raises(DatasetError, match="lacks the column 'Handedness'"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)
    file.unlink()
    with pytest.raises(DatasetError, match=r"lacks SS_Basic_Demographics\.csv or"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)


def test_missing_and_cut_volumes(raw: Path, tmp_path: Path) -> None:
    from fairmedfm_monai.data import validate_folder

    shutil.copytree(raw, tmp_path / "raw")
    (tmp_path / "raw" / "HC" / "HC_001" / "HC_001_seg.nii.gz").unlink()
    dataset = find_dataset("candi")
    with pytest.raises(DatasetError, match=r"1 of 12 cases lack files of the release: HC_001/HC_001_seg\.nii\.gz"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)
    info, _ = prepared("candi", tmp_path / "raw", tmp_path / "out", incomplete=True)
    assert len(info.table) == 11
    file = tmp_path / "raw" / "HC" / "HC_002" / "HC_002_procimg.nii.gz"
    file.write_bytes(file.read_bytes()[:-100])
    report = validate_folder(info.root, deep=True)
    assert any("HC_002_procimg" in message and "cannot be read" in message for message in report.errors)
