"""NIH ChestX-ray14: the miniature release, and the real table at full size."""

from __future__ import annotations

import csv
import gzip
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from fairmedfm_monai.data.card import Card
from fairmedfm_monai.data.prepare import find_dataset, prepare_dataset
from fairmedfm_monai.data.prepare.counts import counts
from fairmedfm_monai.data.problems import DatasetError
from tests import real_data
from tests.data.public.checks import evaluate, prepared
from tests.miniatures.nih_chestxray14 import make

# As the owner and many papers state them for the whole release.
PUBLISHED = {"cases": 112_120, "patients": 30_805}
PUBLISHED_SEXES = {"female": 48_780, "male": 63_340, "unknown": 0}
PUBLISHED_VIEWS = {"ap": 44_810, "pa": 67_310, "unknown": 0}
PUBLISHED_FINDINGS = {
    "atelectasis": 11_559,
    "cardiomegaly": 2_776,
    "effusion": 13_317,
    "infiltration": 19_894,
    "mass": 5_782,
    "nodule": 6_331,
    "pneumonia": 1_431,
    "pneumothorax": 5_302,
    "consolidation": 4_667,
    "edema": 2_303,
    "emphysema": 2_516,
    "fibrosis": 1_686,
    "pleural_thickening": 3_385,
    "hernia": 227,
}
PUBLISHED_NO_FINDING = 60_361


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("nih") / "raw")


def test_prepares_validates_and_evaluates(raw: Path, tmp_path: Path, tracking_uri: str) -> None:
    info, result = prepared("nih", raw, tmp_path / "out")
    assert info.root == tmp_path / "out"
    assert (info.root / "source").is_symlink()
    assert set(info.table["split"]) == {"train", "val", "test"}
    assert any("155" in line and "impossible" in line for line in result.summary)
    subgroups = evaluate(info, tmp_path, tracking_uri)
    assert {"pa", "ap"} <= set(subgroups["group"])


def test_owner_s_lists_are_the_split(raw: Path, tmp_path: Path) -> None:
    info, _ = prepared("nih", raw, tmp_path / "out")
    listed = set((raw / "test_list.txt").read_text(encoding="utf-8").split())
    assert set(info.table.loc[info.table["split"] == "test", "case_id"]) == listed


def test_the_2017_table_is_named_and_its_empty_column_harmless(tmp_path: Path) -> None:
    make(tmp_path / "raw", year="2017")
    info, result = prepared("nih", tmp_path / "raw", tmp_path / "out")
    assert "2017 table" in result.summary[0]
    assert set(info.table["view"]) == {"pa", "ap"}


def test_fourteen_labels_and_six_diseases(raw: Path, tmp_path: Path) -> None:
    info, _ = prepared("nih", raw, tmp_path / "out", rule="fourteen_labels")
    truth = pd.read_csv(raw / "Data_Entry_2017_v2020.csv", index_col=False)
    assert info.multi_label
    assert info.table["label_infiltration"].sum() == truth["Finding Labels"].str.contains("Infiltration").sum()
    six, _ = prepared("nih", raw, tmp_path / "six", rule="six_diseases")
    assert six.table["patient_id"].is_unique
    assert {"infiltration", "effusion"} & set(six.classes)


def test_unknown_values_stop_with_the_list(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    file = tmp_path / "raw" / "Data_Entry_2017_v2020.csv"
    file.write_text(file.read_text(encoding="utf-8").replace(",F,PA,", ",X,PA,", 3).replace(",M,AP,", ",M,LL,", 2))
    dataset = find_dataset("nih")
    with pytest.raises(DatasetError, match=r"(?s)'X' \(3\).*'LL' \(2\)"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "dataset.json").exists()


@pytest.mark.network
def test_the_real_table_has_the_published_counts(tmp_path: Path) -> None:
    real = real_data.fetch_or_skip(real_data.XRAY_TABLES) / "nih_chestxray14.csv.gz"
    (tmp_path / "images").mkdir()
    shutil.copy(real, tmp_path / "Data_Entry_2017_v2020.csv.gz")
    dataset = find_dataset("nih")
    found = {}
    for rule in ("any_finding", "fourteen_labels"):
        choice = dataset.choose(rule=rule)
        release = dataset.read(tmp_path, choice)
        found[rule] = counts(release.table, Card.from_dict(dataset.full_card(choice)))
        assert {name: found[rule][name] for name in release.expected} == release.expected
        assert release.version == "2020 table (corrected ages)"
    binary = found["any_finding"]
    assert {name: binary[name] for name in PUBLISHED} == PUBLISHED
    assert {name: binary[f"sex/{name}"] for name in PUBLISHED_SEXES} == PUBLISHED_SEXES
    assert {name: binary[f"view/{name}"] for name in PUBLISHED_VIEWS} == PUBLISHED_VIEWS
    assert binary["class/no_finding"] == PUBLISHED_NO_FINDING
    assert binary["class/finding"] == PUBLISHED["cases"] - PUBLISHED_NO_FINDING
    assert {name: found["fourteen_labels"][f"class/{name}"] for name in PUBLISHED_FINDINGS} == PUBLISHED_FINDINGS
    ages = _ages(real)
    assert (min(ages), max(ages)) == (0, 95)
    edges = {"age/lt60": (0, 60), "age/ge60": (60, 96), "age_bands/lt40": (0, 40), "age_bands/40-59": (40, 60)}
    edges |= {"age_bands/60-74": (60, 75), "age_bands/ge75": (75, 96), "age/unknown": (96, 1000)}
    for name, (low, high) in edges.items():
        assert binary[name] == sum(number for age, number in ages.items() if low <= age < high), name


def _ages(file: Path) -> Counter[int]:
    """Images per age, read without this project; the header's brackets hold commas."""
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        rows = csv.reader(stream)
        column = next(rows).index("Patient Age")
        return Counter(int(row[column]) for row in rows)
