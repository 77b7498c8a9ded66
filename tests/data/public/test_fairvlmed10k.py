"""Harvard-FairVLMed: the miniature release."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.model_selection import train_test_split

from fairmedfm_monai.data.prepare import find_dataset, prepare_dataset
from fairmedfm_monai.data.prepare.published import split_82
from fairmedfm_monai.data.problems import DatasetError
from tests.data.public.checks import evaluate, prepared
from tests.miniatures.fairvlmed10k import make


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("fairvlmed") / "raw")


@pytest.fixture(scope="module")
def truth(raw: Path) -> pd.DataFrame:
    return pd.read_csv(raw / "ReadMe" / "data_summary.csv").set_index("filename")


def test_prepares_validates_and_evaluates(raw: Path, truth: pd.DataFrame, tmp_path: Path, tracking_uri: str) -> None:
    info, result = prepared("fairvlmed", raw, tmp_path / "out")
    table = info.table.set_index(info.table["case_id"] + ".npz").loc[truth.index]
    assert (table["label"] == (truth["glaucoma"] == "yes")).all()
    assert (table["sex"] == truth["gender"]).all()
    assert (table["age"] == np.where(truth["age"] >= 60, "ge60", "lt60")).all()
    assert (table["race"] == truth["race"]).all()
    assert (table["language"] == truth["language"]).all()
    assert (table["split"] == truth["use"].map({"training": "train", "validation": "val", "test": "test"})).all()
    assert all("slo_fundus_" in path and path.startswith("source/") for path in table["image"])
    assert any("language: unknown because missing 'unknown' (5)" in line for line in result.summary)
    assert "note" not in (info.root / "manifest.csv").read_text(encoding="utf-8").splitlines()[0]
    subgroups = evaluate(info, tmp_path, tracking_uri)
    assert {"asian", "hispanic", "spanish", "partnered", "female__ge60"} <= set(subgroups["group"])


def test_without_jpeg_the_pictures_come_from_the_archives(tmp_path: Path) -> None:
    make(tmp_path / "raw", jpeg=False)
    info, result = prepared("fairvlmed10k", tmp_path / "raw", tmp_path / "out")
    for row in info.table.head(3).to_dict("records"):
        file = next((tmp_path / "raw").glob(f"*/{row['case_id']}.npz"))
        with Image.open(info.root / row["image"]) as picture, np.load(file) as archive:
            assert np.array_equal(np.asarray(picture), archive["slo_fundus"])
    assert any("no JPEG files" in line for line in result.summary)


def test_published_protocol(raw: Path, truth: pd.DataFrame, tmp_path: Path) -> None:
    info, _ = prepared("fairvlmed", raw, tmp_path / "out", protocol="fairmedfm")
    expected: set[str] = set()
    for group in ("male", "female"):
        names = np.unique(truth.index[truth["gender"] == group])
        expected |= set(train_test_split(names, test_size=4, random_state=0)[1])
    assert set(info.table.loc[info.table["split"] == "test", "case_id"] + ".npz") == expected
    assert set(info.table["split"]) == {"train", "test"}
    assert set(info.table["race"]) == {"white", "non_white"}
    known = truth.loc[info.table["case_id"] + ".npz", "language"].to_numpy()
    assert ((info.table["language"] == "english").to_numpy() == (known == "english")).all()  # unknown is not English
    manifest = pd.read_csv(info.root / "manifest.csv")
    subset = manifest[manifest["fairmedfm_test_language"] == 1]
    assert (subset["split"] == "test").all()
    assert (subset["language"] == "english").sum() * 2 == len(subset) > 0


def test_published_size_of_the_test_set() -> None:
    table = pd.DataFrame({"sex": ["female"] * 5631 + ["male"] * 4369})
    table["case_id"] = [f"data_{number:05d}" for number in range(len(table))]
    test = split_82(table, sex="sex") == "test"
    assert table.loc[test, "sex"].value_counts().to_dict() == {"female": 873, "male": 873}


def test_what_is_wrong_is_told(raw: Path, tmp_path: Path) -> None:
    dataset = find_dataset("fairvlmed10k")
    with pytest.raises(DatasetError, match=r"wrong level of the release: give .*raw"):
        prepare_dataset(dataset, raw / "Training", tmp_path / "out", progress=False)
    shutil.copytree(raw, tmp_path / "raw")
    file = tmp_path / "raw" / "ReadMe" / "data_summary.csv"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(",asian,", ",Martian,").replace(",yes,training", ",maybe,training"))
    with pytest.raises(DatasetError, match=r"(?s)'maybe' \(12\).*'Martian' \(14\)"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)
    file.write_text(text.replace(",test\n", ",tset\n"))
    with pytest.raises(DatasetError, match=r"column 'use'.*'tset' \(8\)"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)
    file.write_text(text.replace("race", "colour", 1))
    with pytest.raises(DatasetError, match="lacks the column 'race'"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)


def test_a_missing_picture_stops_or_is_left_out(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    (tmp_path / "raw" / "Training" / "slo_fundus_00002.jpg").unlink()
    with pytest.raises(DatasetError, match=r"Training/slo_fundus_00002\.jpg"):
        prepare_dataset(find_dataset("fairvlmed10k"), tmp_path / "raw", tmp_path / "out", progress=False)
    info, _ = prepared("fairvlmed10k", tmp_path / "raw", tmp_path / "out", incomplete=True)
    assert "data_00002" not in set(info.table["case_id"])
    assert len(info.table) == 39
