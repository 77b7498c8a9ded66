"""HAM10000: miniatures of the owner's release and of copies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from fairmedfm_monai.data.prepare import find_dataset, prepare_dataset
from fairmedfm_monai.data.problems import DatasetError
from tests.data.public.checks import evaluate, prepared
from tests.miniatures.ham10000 import make

MALIGNANT = {"malignant": {"akiec", "bcc", "mel"}, "akiec_mel": {"akiec", "mel"}}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("ham") / "raw")


def _truth(folder: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The owner's rows in the order of a prepared table."""
    file = next(folder.glob("HAM10000_metadata*"))
    return pd.read_csv(file).set_index("image_id").loc[table["case_id"]].reset_index()


def test_prepares_validates_and_evaluates(raw: Path, tmp_path: Path, tracking_uri: str) -> None:
    info, result = prepared("ham10000", raw, tmp_path / "out")
    truth = _truth(raw, info.table)
    assert (info.table["patient_id"] == truth["lesion_id"]).all()
    assert (info.table["site"] == truth["dataset"]).all()
    assert (info.table["sex"] == truth["sex"]).all()
    ages = truth["age"].map(lambda age: "unknown" if pd.isna(age) else "ge60" if age >= 60 else "lt60")
    assert (info.table["age"] == ages).all()
    assert info.classes == ["benign", "malignant"]
    assert (info.table["label"] == truth["dx"].isin(MALIGNANT["malignant"])).all()
    assert info.table.groupby("patient_id")["split"].nunique().max() == 1
    assert len(info.table) == info.table["patient_id"].nunique() + 20  # two images of every third lesion
    assert any("sex: unknown because missing 'unknown' (2)" in line for line in result.summary)
    subgroups = evaluate(info, tmp_path, tracking_uri)
    assert {"rosendahl", "female__ge60"} <= set(subgroups["group"])


def test_the_rules_differ_in_the_diagnoses_that_they_call_malignant(raw: Path, tmp_path: Path) -> None:
    info, _ = prepared("ham", raw, tmp_path / "two", rule="akiec_mel")
    truth = _truth(raw, info.table)
    assert (info.table["label"] == truth["dx"].isin(MALIGNANT["akiec_mel"])).all()
    seven, _ = prepared("ham", raw, tmp_path / "seven", rule="seven")
    names = [seven.classes[index] for index in seven.table["label"]]
    assert names == _truth(raw, seven.table)["dx"].tolist()


def test_copies_of_the_release_give_the_same_cases(raw: Path, tmp_path: Path) -> None:
    make(tmp_path / "copies", layout="copies", sources=False)
    make(tmp_path / "letters", layout="fairmedfm", letters=True)
    ours, _ = prepared("ham10000", raw, tmp_path / "ours")
    copies, result = prepared("ham10000", tmp_path / "copies", tmp_path / "out")
    letters, _ = prepared("ham10000", tmp_path / "letters", tmp_path / "other")
    for info in (copies, letters):
        columns = ["case_id", "patient_id", "sex", "age", "age_bands", "label", "split"]
        pd.testing.assert_frame_equal(info.table[columns], ours.table[columns])
    assert set(copies.table["site"]) == {"unknown"}
    assert "without the source" in result.summary[0]
    assert any("no column 'dataset'" in line for line in result.summary)
    assert any("80 files stand in two folders" in line for line in result.summary)


def test_balanced_subsets_are_of_the_test_set(raw: Path, tmp_path: Path) -> None:
    info, _ = prepared("ham10000", raw, tmp_path / "out")
    manifest = pd.read_csv(info.root / "manifest.csv")
    groups = info.table.set_index("case_id")
    for name in ("sex", "age"):
        chosen = manifest[manifest[f"fairmedfm_test_{name}"] == 1]
        assert set(chosen["split"]) == {"test"}
        sizes = groups.loc[chosen["case_id"], name].value_counts()
        test = groups.loc[groups["split"] == "test", name]
        assert sizes.to_dict() == dict.fromkeys(info.attributes[name], test[test != "unknown"].value_counts().min())


def test_the_published_protocol_says_what_it_is(raw: Path, tmp_path: Path) -> None:
    info, result = prepared("ham10000", raw, tmp_path / "out", protocol="fairmedfm")
    truth = _truth(raw, info.table)
    assert info.card.name == "ham10000-fairmedfm"
    assert list(info.attributes) == ["sex", "age"]
    assert (info.table["label"] == truth["dx"].isin(MALIGNANT["akiec_mel"])).all()
    assert any("2 images without age are left out" in line for line in result.summary)
    test = info.table[info.table["split"] == "test"]
    number = int(0.2 * truth["sex"].value_counts().min())
    assert test["sex"].value_counts().to_dict() == {"female": number, "male": number}
    split = truth.assign(split=info.table["split"]).groupby("lesion_id")["split"].nunique()
    assert f"{(split > 1).sum()} of {len(split)} lesions have images in both" in str(info.notice)
    assert (split > 1).any()
    dataset = find_dataset("ham10000")
    with pytest.raises(ValueError, match="has the `rule` 'akiec_mel', but got 'seven'"):
        dataset.choose(rule="seven", protocol="fairmedfm")


def test_what_is_wrong_is_told(raw: Path, tmp_path: Path) -> None:
    dataset = find_dataset("ham10000")

    def prepare(source: Path) -> None:
        prepare_dataset(dataset, source, tmp_path / "out", progress=False)

    with pytest.raises(DatasetError, match=r"wrong level of the release: give .*raw"):
        prepare(raw / "HAM10000_images_part_1")
    shutil.copytree(raw, tmp_path / "raw")
    table = tmp_path / "raw" / "HAM10000_metadata"
    text = table.read_text(encoding="utf-8")
    for old, new, fault in (
        ("lesion_id", "lesion", r"lacks the column 'lesion_id'"),
        (",mel,", ",scc,", r"'dx' must hold one of akiec.*'scc' \(16\)"),
        (",female,", ",woman,", r"(?s)'sex'.*'woman'"),
        (",60.0,", ",old,", r"(?s)'age'.*'old'"),
        (",rosendahl", ",brisbane", r"(?s)'site'.*'brisbane'"),
    ):
        table.write_text(text.replace(old, new))
        with pytest.raises(DatasetError, match=fault):
            prepare(tmp_path / "raw")
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_a_partial_download_stops_or_is_told(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    lost = sorted((tmp_path / "raw" / "HAM10000_images_part_2").glob("*.jpg"))[:3]
    for file in lost:
        file.unlink()
    with pytest.raises(DatasetError, match="3 of 80 cases lack files"):
        prepare_dataset(find_dataset("ham10000"), tmp_path / "raw", tmp_path / "out", progress=False)
    info, _ = prepared("ham10000", tmp_path / "raw", tmp_path / "out", incomplete=True)
    left = pd.read_csv(info.root / "left_out.csv")
    assert set(left["case_id"]) == {file.stem for file in lost}
