"""HAM10000 with lesion masks: miniatures of the owner's release and of FairMedFM's form."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fairmedfm_monai.data import validate_folder
from fairmedfm_monai.data.prepare import find_dataset, prepare_dataset
from fairmedfm_monai.data.problems import DatasetError
from tests.data.public.checks import evaluate, prepared
from tests.miniatures.ham10000 import make


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("ham_seg") / "raw", lesions=36, masks=True)


def test_prepares_validates_and_evaluates(raw: Path, tmp_path: Path, tracking_uri: str) -> None:
    info, _ = prepared("ham10000_seg", raw, tmp_path / "out")
    truth = pd.read_csv(raw / "HAM10000_metadata").set_index("image_id").loc[info.table["case_id"]].reset_index()
    for ours, column in (("patient_id", "lesion_id"), ("site", "dataset"), ("sex", "sex"), ("diagnosis", "dx")):
        assert (info.table[ours] == truth[column]).all(), ours
    assert info.labels == {"lesion": 255}
    for row in info.table.head(5).to_dict("records"):
        assert row["mask"].endswith(f"_tschandl/{row['case_id']}_segmentation.png")
        assert row["image"].endswith(f"/{row['case_id']}.jpg")
    subgroups = evaluate(info, tmp_path, tracking_uri, prompts=["box"])
    assert {"vidir_modern", "nv", "female__ge60"} <= set(subgroups["group"])
    # A box around an ellipse covers it whole: with the values read as 255, a lesion is found in every case.
    dice = subgroups[(subgroups["attribute"] == "all") & (subgroups["metric"] == "dice")]
    assert (dice["n_failed"] == 0).all()
    assert (dice["value"] > 0).all()


def test_the_published_protocol_tests_every_image_and_takes_unknown_for_male(raw: Path, tmp_path: Path) -> None:
    info, _ = prepared("ham10000_seg", raw, tmp_path / "out", protocol="fairmedfm")
    truth = pd.read_csv(raw / "HAM10000_metadata").set_index("image_id").loc[info.table["case_id"]].reset_index()
    assert set(info.table["split"]) == {"test"}
    assert list(info.attributes) == ["sex"]
    assert (info.table["sex"] == truth["sex"].map(lambda sex: "female" if sex == "female" else "male")).all()


def test_fairmedfm_s_form_gives_the_same_cases(raw: Path, tmp_path: Path) -> None:
    make(tmp_path / "raw", lesions=36, layout="fairmedfm", masks=True, letters=True)
    table = tmp_path / "raw" / "HAM10000_metadata.csv"
    table.write_text(table.read_text(encoding="utf-8").replace(",sex,", ",sexBinary,"))
    ours, _ = prepared("ham10000_seg", raw, tmp_path / "ours")
    theirs, _ = prepared("ham10000_seg", tmp_path / "raw", tmp_path / "theirs")
    columns = ["case_id", "patient_id", "sex", "age", "site"]
    pd.testing.assert_frame_equal(theirs.table[columns], ours.table[columns])
    assert theirs.table["mask"].str.contains("/label/").all()


def test_missing_and_strange_masks_are_told(raw: Path, tmp_path: Path) -> None:
    dataset = find_dataset("ham10000_seg")
    shutil.copytree(raw, tmp_path / "raw")
    masks = tmp_path / "raw" / "HAM10000_segmentations_lesion_tschandl"
    first, second, *_ = sorted(masks.glob("*.png"))
    Image.fromarray(np.full((48, 64), 127, np.uint8)).save(first)
    second.unlink()
    with pytest.raises(DatasetError, match=f"1 of 48 cases lack files.*{second.name}"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)
    result = prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", incomplete=True, progress=False)
    report = validate_folder(result.folder, deep=True)
    assert any("127" in message and first.name in message for message in report.warnings)
    shutil.rmtree(masks)
    with pytest.raises(DatasetError, match=r"lacks HAM10000_segmentations\* or masks or label"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "none", progress=False)
