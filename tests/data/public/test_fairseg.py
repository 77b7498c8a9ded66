"""Harvard-FairSeg: miniatures of the present and of an older release."""

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
from tests.miniatures.fairseg import make


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("fairseg") / "raw")


def _picture(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture)


def _change(file: Path, **values: object) -> None:
    with np.load(file) as archive:
        kept = dict(archive)
    np.savez_compressed(file, **(kept | {name: np.asarray(value) for name, value in values.items()}))


def test_prepares_validates_and_evaluates(raw: Path, tmp_path: Path, tracking_uri: str) -> None:
    info, _ = prepared("fairseg", raw, tmp_path / "out")
    truth = pd.read_csv(raw / "ReadMe" / "data_summary.csv").set_index("filename")
    table = info.table.set_index(info.table["case_id"] + ".npz").loc[truth.index]
    for name, column in (("sex", "gender"), ("race", "race"), ("ethnicity", "ethnicity"), ("language", "language")):
        assert (table[name] == truth[column]).all()  # numbers in the files, words in the table
    assert (table["age"] == np.where(truth["age"] >= 60, "ge60", "lt60")).all()
    status = {"married or partnered": "partnered", "legally separated": "separated"}
    assert (table["marital_status"] == truth["maritalstatus"].replace(status)).all()
    assert info.labels == {"rim": 1, "cup": 2}
    for row in info.table.head(4).to_dict("records"):
        with np.load(raw / f"{row['case_id']}.npz") as archive:
            assert np.array_equal(_picture(info.root / row["image"]), archive["slo_fundus"])
            assert np.array_equal(_picture(info.root / row["mask"]).astype(int), -archive["disc_cup_mask"])
    subgroups = evaluate(info, tmp_path, tracking_uri, prompts=["box"])
    assert {"rim", "cup"} <= set(subgroups["label"])
    assert {"asian", "female__ge60"} <= set(subgroups["group"])


def test_owner_s_lists_are_the_split_and_validation_comes_from_train(raw: Path, tmp_path: Path) -> None:
    listed = {
        part: (raw / "lists/FairSeg_final" / f"{part}.txt").read_text(encoding="utf-8").split()
        for part in ("train", "test")
    }
    info, _ = prepared("fairseg", raw, tmp_path / "out")
    members = {part: set(rows["case_id"] + ".npz") for part, rows in info.table.groupby("split")}
    assert members["test"] == set(listed["test"])
    assert members["train"] | members["val"] == set(listed["train"])
    assert len(members["val"]) == 4
    published, _ = prepared("fairseg", raw, tmp_path / "published", protocol="fairseg")
    members = {part: set(rows["case_id"] + ".npz") for part, rows in published.table.groupby("split")}
    assert members == {part: set(names) for part, names in listed.items()}
    assert set(published.attributes["marital_status"]) == {"partnered", "other"}
    everything, _ = prepared("fairseg", raw, tmp_path / "fairmedfm", protocol="fairmedfm")
    assert set(everything.table["split"]) == {"test"}
    assert list(everything.attributes) == ["sex"]


def test_the_older_release_is_recognised(raw: Path, tmp_path: Path) -> None:
    make(tmp_path / "older", older=True, lists=False)
    older, result = prepared("fairseg", tmp_path / "older", tmp_path / "out")
    present, _ = prepared("fairseg", raw, tmp_path / "present")
    assert "older files" in result.summary[0]
    assert any("ages are days" in line for line in result.summary)
    assert any("split by seed" in line for line in result.summary)
    both = [info.table.set_index("case_id").sort_index() for info in (older, present)]
    for name in ("sex", "race", "ethnicity", "language", "marital_status", "age_bands"):
        assert (both[0][name] == both[1][name]).all(), name
    for case in both[0].index[:4]:
        masks = [
            _picture(info.root / table.loc[case, "mask"]) for info, table in zip((older, present), both, strict=True)
        ]
        assert np.array_equal(*masks)


def test_the_disc_is_rim_and_cup(raw: Path, tmp_path: Path) -> None:
    disc, _ = prepared("fairseg", raw, tmp_path / "disc", rule="disc")
    both, _ = prepared("fairseg", raw, tmp_path / "both")
    assert disc.labels == {"disc": 1}
    for path in disc.table["mask"]:
        whole, parts = _picture(disc.root / path), _picture(both.root / path)
        assert np.array_equal(whole == 1, parts > 0)
        rows, columns = np.nonzero(parts == 2)
        assert (whole[rows, columns] == 1).all()
        around = [np.ptp(axis) for axis in np.nonzero(parts == 1)]
        assert np.ptp(rows) < around[0]
        assert np.ptp(columns) < around[1]


def test_masks_without_anything_and_strange_ones_stop_or_are_left_out(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    _change(tmp_path / "raw" / "data_00003.npz", disc_cup_mask=np.zeros((64, 48), np.int8))
    _change(tmp_path / "raw" / "data_00004.npz", disc_cup_mask=np.full((64, 48), 255))
    (tmp_path / "raw" / "data_00005.npz").write_bytes(b"<html>quota exceeded</html>")
    (tmp_path / "raw" / "data_00006.npz").unlink()
    dataset = find_dataset("fairseg")
    with pytest.raises(DatasetError, match=r"lack files of the release: data_00006\.npz"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", workers=1, progress=False)
    info, _ = prepared("fairseg", tmp_path / "raw", tmp_path / "out", incomplete=True)
    left = pd.read_csv(info.root / "left_out.csv").set_index("case_id")["reason"]
    assert sorted(left.index) == ["data_00003", "data_00004", "data_00005", "data_00006"]
    for case, reason in (("data_00003", "background everywhere"), ("data_00004", "255"), ("data_00005", "damaged")):
        assert reason in left[case]
    assert len(info.table) == 36


def test_what_is_wrong_is_told(raw: Path, tmp_path: Path) -> None:
    dataset = find_dataset("fairseg")
    with pytest.raises(DatasetError, match=r"wrong level of the release: give .*raw"):
        prepare_dataset(dataset, raw / "lists", tmp_path / "out", progress=False)
    make(tmp_path / "raw", lists=False)
    with pytest.raises(DatasetError, match="protocol fairseg needs the owner's lists"):
        prepare_dataset(
            dataset, tmp_path / "raw", tmp_path / "out", choice=dataset.choose(protocol="fairseg"), progress=False
        )
    _change(tmp_path / "raw" / "data_00001.npz", gender=1)
    with pytest.raises(DatasetError, match=r"sex of 1 cases differs.*data_00001: female and male"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)
    _change(tmp_path / "raw" / "data_00001.npz", gender=0, language=9)
    with pytest.raises(DatasetError, match=r"'language'.*'9' \(1\)"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)


def test_a_file_in_both_lists_stops(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    with (tmp_path / "raw/lists/FairSeg_final/test.txt").open("a") as file:
        file.write((raw / "lists/FairSeg_final/train.txt").read_text(encoding="utf-8").split()[0] + "\n")
    with pytest.raises(DatasetError, match="1 files are in both lists or in neither"):
        prepare_dataset(find_dataset("fairseg"), tmp_path / "raw", tmp_path / "out", progress=False)
