"""NIH ChestX-ray14: the miniature release, and the real table at full size."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from fairmedfm_monai.data.prepare import find_dataset, prepare_dataset
from fairmedfm_monai.data.problems import DatasetError
from tests.data.public.checks import evaluate, prepared
from tests.miniatures.nih_chestxray14 import make


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
    listed = set((raw / "test_list.txt").read_text().split())
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
    file.write_text(file.read_text().replace(",F,PA,", ",X,PA,", 3).replace(",M,AP,", ",M,LL,", 2))
    dataset = find_dataset("nih")
    with pytest.raises(DatasetError, match=r"(?s)'X' \(3\).*'LL' \(2\)"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "dataset.json").exists()
