"""Montgomery County: two masks become one label map; readings are parsed by pattern."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fairmedfm_monai.data.prepare import find_dataset, prepare_dataset
from fairmedfm_monai.data.problems import DatasetError
from tests.data.public.checks import evaluate, prepared
from tests.miniatures.montgomery import make


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("montgomery") / "raw")


@pytest.fixture
def copied(raw: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(raw, tmp_path / "raw"))


def _picture(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture)


def test_prepares_validates_and_evaluates(raw: Path, tmp_path: Path, tracking_uri: str) -> None:
    info, result = prepared("montgomery", raw, tmp_path / "out")
    assert info.labels == {"left_lung": 1, "right_lung": 2}
    for row in info.table.to_dict("records"):
        name = row["case_id"]
        left, right = (_picture(raw / "ManualMask" / f"{side}Mask" / f"{name}.png") > 0 for side in ("left", "right"))
        assert np.array_equal(_picture(info.root / row["mask"]), left + 2 * right)
        words = (
            (raw / "ClinicalReadings" / f"{name}.txt").read_text(encoding="utf-8").split()
        )  # Patient's Sex: F Patient's Age: 027Y
        assert row["sex"] == {"F": "female", "M": "male", "O": "unknown"}[words[2]]
        known = words[3:5] == ["Patient's", "Age:"]
        years = int(words[5][:3]) / (12 if words[5].endswith("M") else 1) if known else None
        assert row["age"] == ("unknown" if years is None else "ge60" if years >= 60 else "lt60")
        assert row["finding"] == ("tuberculosis" if name.endswith("_1") else "normal")
    assert any("1 readings do not tell the age" in line for line in result.summary)
    subgroups = evaluate(info, tmp_path, tracking_uri, prompts=["box"])
    assert {"left_lung", "right_lung"} <= set(subgroups["label"])
    assert {"tuberculosis", "female__lt60"} <= set(subgroups["group"])


def test_both_lungs_as_one_label_and_the_published_test_set(raw: Path, tmp_path: Path) -> None:
    info, _ = prepared("montgomery", raw, tmp_path / "lung", rule="lung", protocol="fairmedfm")
    assert info.labels == {"lung": 1}
    assert set(info.table["split"]) == {"test"}
    assert list(info.attributes) == ["sex"]
    for row in info.table.head(3).to_dict("records"):
        masks = [_picture(raw / "ManualMask" / f"{side}Mask" / f"{row['case_id']}.png") for side in ("left", "right")]
        assert np.array_equal(_picture(info.root / row["mask"]), (masks[0] > 0) | (masks[1] > 0))


def test_masks_that_do_not_fit_stop_or_are_left_out(copied: Path, tmp_path: Path) -> None:
    places = sorted((copied / "ManualMask" / "leftMask").glob("*.png"))[:4]
    rights = [copied / "ManualMask" / "rightMask" / path.name for path in places]
    Image.fromarray(_picture(rights[0])).save(places[0])  # the same lung twice
    places[1].write_bytes(places[1].read_bytes()[:60])
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(places[2])
    dataset = find_dataset("montgomery")
    with pytest.raises(DatasetError, match="3 of 36 cases cannot be converted"):
        prepare_dataset(dataset, copied, tmp_path / "out", workers=1, progress=False)
    rights[3].unlink()
    with pytest.raises(DatasetError, match=r"lack files of the release: ManualMask/rightMask"):
        prepare_dataset(dataset, copied, tmp_path / "other", workers=1, progress=False)
    info, _ = prepared("montgomery", copied, tmp_path / "other", incomplete=True)
    reasons = pd.read_csv(info.root / "left_out.csv").set_index("case_id")["reason"]
    for path, reason in zip(places, ("in two masks", "cannot be read", "9 x 9", "is missing"), strict=True):
        assert reason in reasons[path.stem]
    assert len(info.table) == 32


def test_readings_that_are_not_as_they_should_be(copied: Path, tmp_path: Path) -> None:
    names = sorted((copied / "ClinicalReadings").glob("*.txt"))
    names[0].write_text("Patient's Sex:\nPatient's Age: 031Y\nnormal")
    names[1].write_text("the file is about something else")
    names[2].write_text("  patient\u2019s sex : m\npatient\u2019s age : 061y", encoding="utf-8")
    names[3].unlink()
    info, result = prepared("montgomery", copied, tmp_path / "out")
    rows = info.table.set_index("case_id")
    found = {name.stem: (rows.loc[name.stem, "sex"], rows.loc[name.stem, "age"]) for name in names[:4]}
    expected = [("unknown", "lt60"), ("unknown", "unknown"), ("male", "ge60"), ("unknown", "unknown")]
    assert list(found.values()) == expected
    assert any("3 readings do not tell the sex" in line for line in result.summary)
    names[0].write_text("Patient's Sex: X\nPatient's Age: 031Y\nnormal")
    with pytest.raises(DatasetError, match=r"'sex'.*'X' \(1\)"):
        prepare_dataset(find_dataset("montgomery"), copied, tmp_path / "none", progress=False)


def test_wrong_folders_and_names_are_told(copied: Path, tmp_path: Path) -> None:
    dataset = find_dataset("montgomery")
    with pytest.raises(DatasetError, match=r"wrong level of the release: give .*raw"):
        prepare_dataset(dataset, copied / "ManualMask", tmp_path / "out", progress=False)
    first = next((copied / "CXR_png").glob("*.png"))
    shutil.copy(first, copied / "CXR_png" / "CHNCXR_0001_0.png")
    with pytest.raises(DatasetError, match=r"must be named as MCUCXR_0001_0.*CHNCXR_0001_0"):
        prepare_dataset(dataset, copied, tmp_path / "out", progress=False)
    (copied / "CXR_png" / "CHNCXR_0001_0.png").unlink()
    first.unlink()  # its masks and its reading still tell that it should be there
    with pytest.raises(DatasetError, match=f"1 of 36 cases lack files of the release: CXR_png/{first.name}"):
        prepare_dataset(dataset, copied, tmp_path / "out", progress=False)
