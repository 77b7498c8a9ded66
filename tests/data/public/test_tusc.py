"""TUSC: miniatures of the owner's HDF5 file and of FairMedFM's pictures."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fairmedfm_monai.data.prepare import find_dataset, prepare_dataset
from fairmedfm_monai.data.problems import DatasetError
from tests.data.public.checks import evaluate, prepared
from tests.miniatures.tusc import make


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("tusc") / "raw")


def _picture(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture)


def test_the_owner_s_file_prepares_validates_and_evaluates(raw: Path, tmp_path: Path, tracking_uri: str) -> None:
    info, result = prepared("tusc", raw, tmp_path / "out")
    truth = pd.read_csv(raw / "metadata.csv", index_col="annot_id").loc[info.table["patient_id"] + "_"].reset_index()
    assert (info.table["sex"] == truth["sex"].str.lower()).all()
    assert (info.table["age"] == np.where(truth["age"] >= 60, "ge60", "lt60")).all()
    levels = truth["ti-rads_level"].map(lambda level: "unknown" if pd.isna(level) else f"tr{level:.0f}")
    assert (info.table["ti_rads"] == levels).all()
    assert (info.table["histology"] == truth["histopath_diagnosis"].map({0: "benign", 1: "malignant"})).all()
    assert info.table.groupby("patient_id")["split"].nunique().max() == 1
    table = info.table.set_index("case_id")
    with h5py.File(raw / "dataset.hdf5") as file:
        for index, (clip, number) in enumerate(zip(file["annot_id"].asstr()[:], file["frame_num"][:], strict=True)):
            row = table.loc[f"{clip}{number}"]
            assert np.array_equal(_picture(info.root / row["image"]), file["image"][index])
            assert np.array_equal(_picture(info.root / row["mask"]), file["mask"][index])
    assert any("ti_rads: unknown because missing '' (2)" in line for line in result.summary)
    subgroups = evaluate(info, tmp_path, tracking_uri, prompts=["box"])
    assert {"tr4", "malignant", "female__ge60"} <= set(subgroups["group"])
    overall = subgroups[(subgroups["attribute"] == "all") & (subgroups["metric"] == "dice")]
    assert (overall["n_cases"] == 2 * overall["n_patients"]).all()  # a clip is one patient
    assert (overall["value"] > 0).all()


def test_the_prepared_pictures_give_the_same_cases(raw: Path, tmp_path: Path) -> None:
    make(tmp_path / "pictures", original=False)
    ours, _ = prepared("tusc", raw, tmp_path / "ours")
    theirs, result = prepared("tusc", tmp_path / "pictures", tmp_path / "theirs")
    both = [info.table.set_index("case_id").sort_index() for info in (ours, theirs)]
    columns = ["patient_id", "sex", "age", "age_bands"]
    pd.testing.assert_frame_equal(both[0][columns], both[1][columns])
    assert set(both[1]["ti_rads"]) == {"unknown"}
    assert both[1]["image"].str.startswith("source/image/").all()
    assert "prepared by FairMedFM" in result.summary[0]
    assert any("expected 860" in line for line in result.summary)


def test_the_published_protocol_tests_every_frame(raw: Path, tmp_path: Path) -> None:
    info, result = prepared("tusc", raw, tmp_path / "out", protocol="fairmedfm")
    assert set(info.table["split"]) == {"test"}
    assert list(info.attributes) == ["sex"]
    assert info.unit == "image"
    assert any("which of all is not published" in line for line in result.summary)


def test_a_file_that_does_not_fit_stops(raw: Path, tmp_path: Path) -> None:
    dataset = find_dataset("tusc")

    def prepare(source: Path) -> None:
        prepare_dataset(dataset, source, tmp_path / "out", workers=1, progress=False)

    shutil.copytree(raw, tmp_path / "raw")
    table, arrays = tmp_path / "raw" / "metadata.csv", tmp_path / "raw" / "dataset.hdf5"
    text, content = table.read_text(encoding="utf-8"), arrays.read_bytes()
    for old, new, fault in (
        ("annot_id", "clip", "lacks the column 'annot_id'"),
        (",Male,", ",Other,", r"'sex'.*'Other'"),
        (",4.0,", ",9.0,", r"'ti_rads'.*'9\.0'"),
        ("\n3_,", "\n99_,", r"1 clips have frames but no row in metadata\.csv: 3"),
        ("\n4_,", "\n3_,34,Male,,,,,,,,,,,\n4_,", "must be unique, but stands twice: 3"),
    ):
        table.write_text(text.replace(old, new))
        with pytest.raises(DatasetError, match=f"(?s){fault}"):
            prepare(tmp_path / "raw")
    table.write_text(text)
    arrays.write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetError, match=r"dataset\.hdf5: the file is damaged"):
        prepare(tmp_path / "raw")
    arrays.write_bytes(content)
    with h5py.File(arrays, "a") as file:
        file["frame_num"][1] = 1
    with pytest.raises(DatasetError, match="1 case ids stand in more than one row: 3_1"):
        prepare(tmp_path / "raw")
    with h5py.File(arrays, "a") as file:
        del file["mask"]
        file["mask"] = np.zeros((60, 4, 4), np.uint8)
    with pytest.raises(DatasetError, match=r"image \(60, 48, 64\), mask \(60, 4, 4\)"):
        prepare(tmp_path / "raw")
    with pytest.raises(DatasetError, match=r"wrong level of the release: give .*raw"):
        prepare(tmp_path)


def test_a_strange_mask_stops_or_is_left_out(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    with h5py.File(tmp_path / "raw" / "dataset.hdf5", "a") as file:
        file["mask"][3, 0, 0] = 128
    dataset = find_dataset("tusc")
    with pytest.raises(DatasetError, match=r"frame 3 of 'mask' holds 128; known are 0, 255"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", workers=1, progress=False)
    info, _ = prepared("tusc", tmp_path / "raw", tmp_path / "out", incomplete=True)
    assert "4_2" not in set(info.table["case_id"])
    assert len(info.table) == 59


def test_pictures_with_other_names_stop(tmp_path: Path) -> None:
    make(tmp_path / "raw", original=False)
    (tmp_path / "raw" / "image" / "3_1.png").rename(tmp_path / "raw" / "image" / "three.png")
    with pytest.raises(DatasetError, match=r"as 103_7\.png, but 1 are not: three\.png"):
        prepare_dataset(find_dataset("tusc"), tmp_path / "raw", tmp_path / "out", progress=False)
