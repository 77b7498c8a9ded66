"""SPIDER: the miniature release."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from fairmedfm_monai.data.prepare import find_dataset, prepare_dataset
from fairmedfm_monai.data.problems import DatasetError
from fairmedfm_monai.data.public.spider import labels
from tests.data.public.checks import evaluate, prepared
from tests.miniatures.spider import make


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("spider") / "raw")


def test_prepares_validates_and_evaluates(raw: Path, tmp_path: Path, tracking_uri: str) -> None:
    info, result = prepared("spider", raw, tmp_path / "out")
    truth = pd.read_csv(raw / "overview.csv").set_index("new_file_name")
    table = info.table.set_index("case_id").loc[truth.index]
    assert len(info.table) == 18
    # Each series has the sex of its own row, not of the first.
    assert (table["sex"] == truth["sex"].str.strip().map({"F": "female", "M": "male"}).fillna("unknown")).all()
    assert (table["patient_id"] == truth.index.str.split("_").str[0]).all()
    assert set(table["sequence"]) == {"t1", "t2", "t2_space"}
    assert set(table["manufacturer"]) == {"philips", "siemens"}
    assert ((table["split"] == "test") == (truth["subset"] == "validation")).all()
    assert table.groupby("patient_id")["split"].nunique().eq(1).all()
    assert any("train 6, val 1, test 2" in line for line in result.summary)
    assert any("1 series have more than 7 vertebrae" in line for line in result.summary)
    subgroups = evaluate(info, tmp_path, tracking_uri, prompts=["box"], slice_axis=0, progress=False)
    assert {"female", "t2_space", "lt2t"} <= set(subgroups["group"])


def test_label_ids() -> None:
    seven = labels("seven_levels")
    assert sorted(seven.values()) == [*range(1, 8), 100, *range(201, 208)]
    assert {"vertebra_1": 1, "spinal_canal": 100, "disc_7": 207}.items() <= seven.items()
    assert set(labels("nine_levels").values()) - set(seven.values()) == {8, 9, 208, 209}


def test_nine_levels_without_the_owner_s_split(tmp_path: Path) -> None:
    make(tmp_path / "raw", split=False)
    info, result = prepared("spider", tmp_path / "raw", tmp_path / "out", rule="nine_levels")
    assert set(info.table["split"]) == {"train", "val", "test"}
    assert info.table.groupby("patient_id")["split"].nunique().eq(1).all()
    assert any("split by seed" in line for line in result.summary)
    assert any("lacks subset: unknown" in line for line in result.summary)
    assert not any("count as background" in line for line in result.summary)


def test_published_protocol(raw: Path, tmp_path: Path) -> None:
    info, _ = prepared("spider", raw, tmp_path / "out", protocol="fairmedfm")
    assert set(info.table["split"]) == {"test"}
    assert list(info.attributes) == ["sex"]
    assert info.table["sex"].nunique() == 3


def test_what_the_table_must_not_hold(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    dataset = find_dataset("spider")
    file = tmp_path / "raw" / "overview.csv"
    text = file.read_text(encoding="utf-8")
    for old, new, told in (
        ("\n1_t2,training", "\none,training", "1 names are not <patient>_<sequence>.*'one'"),
        ("\n4_t1,training,7,7,M", "\n4_t1,training,7,7,F", "differs between series of 1 patients: 4"),
        (",validation,", ",hidden,", r"must hold training or validation, but got 'hidden' \(3\)"),
        ("\n1_t2,training,7,7,F ", "\n1_t2,training,7,7,X", r"'X' \(1\)"),
        ("SIEMENS", "Canon", r"'Canon' \("),
        ("\n1_t2,", "\n1_flair,", r"'flair' \(1\)"),
        ("new_file_name", "name", "lacks the column 'new_file_name'"),
    ):
        assert old in text or old in f"\n{text}"
        file.write_text(text.replace(old, new))
        with pytest.raises(DatasetError, match=told):
            prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)
    file.write_text(text)
    with pytest.raises(DatasetError, match=r"wrong level of the release: give .*raw"):
        prepare_dataset(dataset, tmp_path / "raw" / "masks", tmp_path / "out", progress=False)


def test_missing_and_cut_volumes(raw: Path, tmp_path: Path) -> None:
    from fairmedfm_monai.data import validate_folder

    shutil.copytree(raw, tmp_path / "raw")
    (tmp_path / "raw" / "masks" / "4_t1.mha").unlink()
    dataset = find_dataset("spider")
    with pytest.raises(DatasetError, match=r"1 of 18 cases lack files of the release: masks/4_t1\.mha"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)
    info, _ = prepared("spider", tmp_path / "raw", tmp_path / "out", incomplete=True)
    assert len(info.table) == 17
    file = tmp_path / "raw" / "images" / "4_t2.mha"
    file.write_bytes(file.read_bytes()[:-500])
    report = validate_folder(info.root, deep=True)
    assert any("4_t2.mha" in message and "cannot be read" in message for message in report.errors)
