"""Harvard-GF: the miniature release."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from monai.transforms import Compose, LoadImaged

from fairmedfm_monai.data.prepare import find_dataset, prepare_dataset
from fairmedfm_monai.data.problems import DatasetError
from fairmedfm_monai.transforms import CaseReader, ModalityIntensityd
from tests.data.public.checks import evaluate, prepared
from tests.miniatures.harvard_gf import make


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("gf") / "raw")


def _change(file: Path, **values: object) -> None:
    with np.load(file) as archive:
        kept = dict(archive)
    np.savez_compressed(file, **(kept | {name: np.asarray(value) for name, value in values.items()}))


def test_prepares_validates_and_evaluates(raw: Path, tmp_path: Path, tracking_uri: str) -> None:
    info, result = prepared("gf3300", raw, tmp_path / "out")
    truth = pd.read_csv(raw / "data_summary.csv").set_index("filename")
    table = info.table.set_index(info.table["case_id"] + ".npz").loc[truth.index]
    assert (table["label"] == (truth["glaucoma"] == "yes")).all()
    assert (table["split"] == truth["use"].map({"training": "train", "validation": "val", "test": "test"})).all()
    for name, column in (("sex", "gender"), ("race", "race"), ("ethnicity", "ethnicity")):
        assert (table[name] == truth[column]).all()
    assert (table["language"] == truth["language"].replace("other languages", "other")).all()
    assert any("sex of 40, race of 40, label of 40 cases" in line for line in result.summary)
    assert any("which show as the brightest: 1" in line for line in result.summary)
    subgroups = evaluate(info, tmp_path, tracking_uri)
    assert {"asian", "other", "widowed", "female__black"} <= set(subgroups["group"])


def test_maps_keep_micrometres_and_show_the_published_range(raw: Path, tmp_path: Path) -> None:
    info, _ = prepared("harvard_gf", raw, tmp_path / "out")
    load = LoadImaged("image", reader=CaseReader, ensure_channel_first=True, dtype=np.float64)
    show = Compose([load, ModalityIntensityd("image", modality=info.modality, window=info.window)])
    shares = pd.read_csv(info.root / "manifest.csv").set_index("case_id")["no_data"]
    for case in info.cases("train")[:5]:
        with np.load(next(raw.glob(f"*/{case['case_id']}.npz"))) as archive:
            thickness = archive["rnflt"]
        assert np.array_equal(np.asarray(load(case)["image"])[0].T, thickness)
        expected = np.clip((thickness + 2) / 352, 0, 1)
        assert np.allclose(np.asarray(show(case)["image"])[0].T, expected, atol=1e-6)
        assert shares[case["case_id"]] == pytest.approx((thickness == -2).mean(), abs=1e-4)


def test_layout_of_the_hub_and_text_in_the_archives(tmp_path: Path) -> None:
    make(tmp_path / "raw", top=False)
    archives = sorted((tmp_path / "raw" / "Dataset").glob("*.npz"))
    truth = pd.read_csv(tmp_path / "raw" / "ReadMe" / "data_summary.csv")
    words = {"asian": "Asian", "black": "Black or African American", "white": "White or Caucasian"}
    for file, race in zip(archives[:5], truth["race"], strict=False):
        _change(file, race=words[race])
    _change(archives[5], race=np.array(None, dtype=object))
    info, result = prepared("harvard_gf", tmp_path / "raw", tmp_path / "out")
    assert len(info.table) == 40
    assert any("sex of 40, race of 39, label of 40 cases" in line for line in result.summary)


def test_disagreement_of_table_and_archives_stops(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    for number, values in ((1, {"glaucoma": 1}), (4, {"male": 0}), (8, {"male": 0, "race": 0})):
        _change(tmp_path / "raw" / "Training" / f"data_{number:04d}.npz", **values)
    with pytest.raises(DatasetError) as told:
        prepare_dataset(find_dataset("harvard_gf"), tmp_path / "raw", tmp_path / "out", progress=False)
    text = str(told.value)
    assert "label of 1 cases differs" in text
    assert "data_0001: normal and glaucoma" in text
    assert "sex of 2 cases differs" in text
    assert "data_0008: black and asian" in text


def test_published_protocol(raw: Path, tmp_path: Path) -> None:
    info, result = prepared("harvard_gf", raw, tmp_path / "out", protocol="fairmedfm")
    test = info.table[info.table["split"] == "test"]
    assert test["sex"].value_counts().to_dict() == {"female": 4, "male": 4}
    assert info.card.name == "harvard_gf-fairmedfm"
    manifest = pd.read_csv(info.root / "manifest.csv")
    for name in ("sex", "age", "race", "language"):
        assert set(manifest.loc[manifest[f"fairmedfm_test_{name}"] == 1, "split"]) <= {"test"}
    # The published age subsets count the age of 60 as young, the groups as old.
    young = int((manifest.loc[manifest["split"] == "test", "age"] <= 60).sum())
    assert any(f"lt60 {young}" in line for line in result.summary)
    assert (info.table["age"] == np.where(manifest["age"] >= 60, "ge60", "lt60")).all()


def test_damaged_archives_stop_or_are_left_out(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    file = tmp_path / "raw" / "Test" / "data_0040.npz"
    file.write_bytes(file.read_bytes()[:-200])
    dataset = find_dataset("harvard_gf")
    with pytest.raises(DatasetError, match=r"data_0040\.npz: ValueError: .*damaged"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", workers=1, progress=False)
    assert not (tmp_path / "out" / "dataset.json").exists()
    info, _ = prepared("harvard_gf", tmp_path / "raw", tmp_path / "out", incomplete=True)
    assert len(info.table) == 39
    assert "data_0040" in (info.root / "left_out.csv").read_text(encoding="utf-8")


def test_an_archive_that_was_not_unpacked(tmp_path: Path) -> None:
    make(tmp_path / "raw", top=False)
    shutil.rmtree(tmp_path / "raw" / "Dataset")
    (tmp_path / "raw" / "Dataset").mkdir()
    (tmp_path / "raw" / "Dataset" / "dataset.zip").touch()
    with pytest.raises(DatasetError, match=r"(?s)lacks data_\*\.npz.*unpacked"):
        prepare_dataset(find_dataset("harvard_gf"), tmp_path / "raw", tmp_path / "out", progress=False)
