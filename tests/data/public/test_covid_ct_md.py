"""COVID-CT-MD: the miniature release."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest

from fairmedfm_monai.data.prepare import find_dataset, prepare_dataset
from fairmedfm_monai.data.problems import DatasetError
from tests.data.public.checks import evaluate, prepared
from tests.miniatures.covid_ct_md import make


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("covid") / "raw")


def test_prepares_validates_and_evaluates(raw: Path, tmp_path: Path, tracking_uri: str) -> None:
    info, _ = prepared("covid_ct_md", raw, tmp_path / "out")
    truth = pd.read_csv(raw / "Clinical-data.csv", header=1).set_index("Folder")
    table = info.table.set_index("case_id").loc[truth.index]
    assert list(info.classes) == ["normal", "pneumonia"]
    assert (table["label"] == (truth["Diagnosis"] != "Normal")).all()
    assert (table["sex"] == truth["Patient Gender"].map({"F": "female", "M": "male"})).all()
    years = truth["Patient Age"].map({"018M": 1.5}).fillna(truth["Patient Age"].str[:3].astype(int))
    assert (table["age"] == np.where(years >= 60, "ge60", "lt60")).all()
    assert (table.loc[truth["Patient Age"] == "100Y", "age_bands"] == "ge75").all()
    assert (info.window, info.spatial_dims, info.table["patient_id"].nunique()) == ("lung", 3, 30)
    subgroups = evaluate(info, tmp_path, tracking_uri, slices=2)
    assert {"female", "female__ge60"} <= set(subgroups["group"])


def test_scans_keep_values_place_and_order(raw: Path, tmp_path: Path) -> None:
    info, _ = prepared("covid_ct_md", raw, tmp_path / "out")
    for case in info.cases("test")[:3]:
        image = nibabel.load(case["image"])
        slices = [pydicom.dcmread(path) for path in raw.glob(f"*/{case['case_id']}/*.dcm")]
        slices.sort(key=lambda header: float(header.SliceLocation))  # the owner's advice
        assert [header.InstanceNumber for header in slices] == [5, 4, 3, 2, 1]
        stored = np.stack([header.pixel_array for header in slices]).astype(int)
        np.testing.assert_array_equal(np.asanyarray(image.dataobj).T, stored - 1024)
        np.testing.assert_allclose(image.header.get_zooms(), (0.5, 0.7, 2.5), atol=1e-6)
        np.testing.assert_allclose(image.affine[:3, 3], (10, -20, 5), atol=1e-5)


def test_covid_against_the_rest_splits_alike(raw: Path, tmp_path: Path) -> None:
    dataset = find_dataset("covid_ct_md")
    releases = {rule: dataset.read(raw, dataset.choose(rule=rule)) for rule in dataset.rules}
    covid, pneumonia = (releases[rule].table for rule in ("covid", "any_pneumonia"))
    assert ((covid["label"] == "covid") == (covid["Diagnosis"] == "COVID-19")).all()
    assert (covid["split"] == pneumonia["split"]).all()
    by_split = covid.groupby("split")["Diagnosis"].nunique()
    assert dict(by_split) == {"train": 3, "val": 3, "test": 3}
    assert releases["covid"].expected["class/no_covid"] == 136


def test_published_protocol(raw: Path, tmp_path: Path) -> None:
    from sklearn.model_selection import train_test_split

    dataset = find_dataset("covid_ct_md")
    release = dataset.read(raw, dataset.choose(protocol="fairmedfm"))
    table = release.table
    drawn: set[str] = set()
    for code in "MF":
        members = np.unique(table.loc[table["Patient Gender"] == code, "case_id"])
        drawn |= set(train_test_split(members, test_size=3, random_state=0)[1])
    assert set(table.loc[table["split"] == "test", "case_id"]) == drawn
    test = table[table["split"] == "test"]
    young = test["Patient Age"].isin(["039Y", "060Y", "015Y", "018M"])
    chosen = test["fairmedfm_test_age"] == "1"
    assert chosen[young].sum() == chosen[~young].sum() == min(young.sum(), (~young).sum())
    assert set(dataset.card(dataset.choose(protocol="fairmedfm"))["attributes"]) == {"sex", "age"}


def test_folder_names_and_header_of_other_copies(tmp_path: Path) -> None:
    make(tmp_path / "raw", patients=4, title=False, files="98C14734-ASSH_{}")
    (tmp_path / "raw" / "Cap Cases").rename(tmp_path / "raw" / "CAP subjects")
    shutil.copytree(tmp_path / "raw" / "Normal Cases" / "normal001", tmp_path / "raw" / "Normal Cases" / "normal099")
    info, result = prepared("covid_ct_md", tmp_path / "raw", tmp_path / "out")
    assert len(info.table) == 12
    assert any("1 folders have no row" in line and "normal099" in line for line in result.summary)


def test_damaged_and_missing_scans_stop_or_are_left_out(tmp_path: Path) -> None:
    make(tmp_path / "raw", patients=4)
    covid = tmp_path / "raw" / "COVID-19 Cases"
    shutil.rmtree(covid / "P001")
    (covid / "P002" / "IM0004.dcm").unlink()  # the second in place
    dataset = find_dataset("covid_ct_md")
    with pytest.raises(DatasetError, match="1 of 12 cases lack files of the release: COVID-19 Cases/P001"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", workers=1, progress=False)
    info, _ = prepared("covid_ct_md", tmp_path / "raw", tmp_path / "out", incomplete=True)
    left_out = pd.read_csv(info.root / "left_out.csv").set_index("case_id")["reason"]
    assert set(left_out.index) == {"P001", "P002"}
    assert "1 slices are missing" in left_out["P002"]


def test_unknown_values_columns_and_levels(raw: Path, tmp_path: Path) -> None:
    dataset = find_dataset("covid_ct_md")
    with pytest.raises(DatasetError, match=r"wrong level of the release: give .*raw"):
        prepare_dataset(dataset, raw / "Cap Cases", tmp_path / "out", progress=False)
    shutil.copytree(raw, tmp_path / "raw", symlinks=True)
    table = tmp_path / "raw" / "Clinical-data.csv"
    text = table.read_text(encoding="utf-8")
    table.write_text(text.replace(",Normal,normal001,F", ",Flu,normal001,O"))
    with pytest.raises(DatasetError, match=r"(?s)'Flu' \(1\).*'O' \(1\)"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)
    table.write_text(text.replace("Patient Age", "Age"))
    with pytest.raises(DatasetError, match="lacks the column 'Patient Age'"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)
