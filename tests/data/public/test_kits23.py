"""KiTS23: both layouts, joined with the owner's JSON by case id."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from fairmedfm_monai.data.prepare import find_dataset, prepare_dataset
from fairmedfm_monai.data.problems import DatasetError
from tests.data.public.checks import evaluate, prepared
from tests.miniatures.kits23 import make


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("kits") / "raw")


def _entries(raw: Path) -> dict[str, dict[str, Any]]:
    return {entry["case_id"]: entry for entry in json.loads((raw / "kits23.json").read_text(encoding="utf-8"))}


def _values(file: Path) -> np.ndarray:
    return np.asanyarray(nibabel.load(file).dataobj)


def _weight_class(bmi: float | None) -> str:
    """The WHO's classes."""
    if bmi is None:
        return "unknown"
    return "underweight" if bmi < 18.5 else "normal" if bmi < 25 else "overweight" if bmi < 30 else "obese"


def test_prepares_validates_and_evaluates(raw: Path, tmp_path: Path, tracking_uri: str) -> None:
    info, result = prepared("kits23", raw, tmp_path / "out")
    truth = _entries(raw)
    assert set(info.table["case_id"]) == set(truth)
    for row in info.table.to_dict("records"):
        known = truth[row["case_id"]]
        assert row["sex"] == {"male": "male", "female": "female"}.get(known["gender"], "unknown")
        old = known["age_at_nephrectomy"] == ">=90" or known["age_at_nephrectomy"] >= 60
        assert row["age"] == ("ge60" if old else "lt60")
        assert row["bmi"] == _weight_class(known["bmi"])
        assert row["malignant"] == {True: "yes", False: "no", None: "unknown"}[known["malignant"]]
    told = "\n".join(result.summary)
    assert "1 ages are given as a bound such as '>=90'" in told
    assert "transgender_male_to_female" in told
    assert info.labels == {"kidney": 1, "tumour": 2, "cyst": 3}
    subgroups = evaluate(info, tmp_path, tracking_uri, prompts=["box"])
    assert {"kidney", "tumour", "cyst"} <= set(subgroups["label"])
    assert {"obese", "female__ge60", "never"} <= set(subgroups["group"])


def test_the_layout_of_nnunet_gives_the_same(raw: Path, tmp_path: Path) -> None:
    make(tmp_path / "raw", layout="nnunet")
    by_folder, _ = prepared("kits", raw, tmp_path / "folder")
    by_nnunet, result = prepared("kits23", tmp_path / "raw", tmp_path / "nnunet")
    assert "nnU-Net folders" in result.summary[0]
    paths = ["image", "mask"]
    assert by_nnunet.table.drop(columns=paths).equals(by_folder.table.drop(columns=paths))
    for one, other in zip(by_folder.table["mask"], by_nnunet.table["mask"], strict=True):
        assert np.array_equal(_values(by_folder.root / one), _values(by_nnunet.root / other))


@pytest.mark.parametrize(("rule", "members"), [("kidney_and_masses", (1, 2, 3)), ("masses", (2, 3))])
def test_labels_that_overlap_are_rules_of_their_own(
    raw: Path, tmp_path: Path, rule: str, members: tuple[int, ...]
) -> None:
    info, _ = prepared("kits23", raw, tmp_path / "out", rule=rule)
    assert info.labels == {rule: 1}
    for row in info.table.head(4).to_dict("records"):
        original = nibabel.load(raw / row["case_id"] / "segmentation.nii.gz")
        made = nibabel.load(info.root / row["mask"])
        assert np.array_equal(np.asanyarray(made.dataobj), np.isin(np.asanyarray(original.dataobj), members))
        assert np.array_equal(made.affine, original.affine)


def test_the_published_cases_end_before_the_last(raw: Path, tmp_path: Path) -> None:
    info, result = prepared("kits23", raw, tmp_path / "out", protocol="fairmedfm")
    assert max(info.table["case_id"]) == "case_00587"
    assert len(info.table) == 11  # 577 to 587
    assert set(info.table["split"]) == {"test"}
    assert list(info.attributes) == ["sex"]
    sexes = {case: entry["gender"] for case, entry in _entries(raw).items()}
    assert all((row.sex == "female") == (sexes[row.case_id] == "female") for row in info.table.itertuples())
    assert any("4 cases after case_00587 are left out" in line for line in result.summary)


def test_what_is_wrong_is_told(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    dataset = find_dataset("kits23")
    with pytest.raises(DatasetError, match=r"wrong level of the release: give .*raw"):
        prepare_dataset(dataset, tmp_path / "raw" / "case_00577", tmp_path / "out", progress=False)
    file = tmp_path / "raw" / "kits23.json"
    text = file.read_text(encoding="utf-8")
    for content, message in (
        (text[:-30], "damaged or partly downloaded"),
        (text.replace('"bmi"', '"weight"'), "lacks bmi"),
        (text.replace('"female"', '"w"', 1), r"'sex'.*'w' \(1\)"),
        (text.replace("case_00578", "case_00577"), r"1 case ids stand in more than one row: case_00577"),
    ):
        file.write_text(content)
        with pytest.raises(DatasetError, match=message):
            prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)


def test_volumes_without_entry_and_entries_without_volume(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    (tmp_path / "raw" / "case_00577").rename(tmp_path / "raw" / "case_00999")
    damaged = tmp_path / "raw" / "case_00580" / "segmentation.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    dataset = find_dataset("kits23")
    with pytest.raises(DatasetError, match=r"lack files of the release: case_00577/imaging\.nii\.gz"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)
    info, result = prepared("kits23", tmp_path / "raw", tmp_path / "out", rule="masses", incomplete=True)
    assert not {"case_00577", "case_00580", "case_00999"} & set(info.table["case_id"])
    assert any("1 volumes have no entry in kits23.json and are left out: case_00999" in line for line in result.summary)
    assert "case_00580/segmentation.nii.gz" in (info.root / "left_out.csv").read_text(encoding="utf-8")
