"""Any table: formats, paths, ids, splits, what is refused; prepared, validated and evaluated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from fairmedfm_monai.cli.prepare_own import prepare_own
from fairmedfm_monai.data import DatasetError, load_dataset, validate_folder
from tests.data.public.checks import evaluate
from tests.miniatures.own_table import frame, make

COLUMNS = "image=filename,patient_id=pid,label=Glaucoma,sex=Sex,age=Age"
OPTIONS = {"table": "meta.csv", "images": "pics", "modality": "fundus", "columns": COLUMNS, "missing": "?"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("own") / "ward")


def prepare(source: Path, output: Path, **options: object) -> tuple[str, ...]:
    return prepare_own("table", str(source), str(output), **{**OPTIONS, **options})[1]


def with_table(source: Path, folder: Path, table: pd.DataFrame) -> Path:
    """The same pictures with another table."""
    folder.mkdir()
    (folder / "pics").symlink_to(source / "pics")
    table.to_csv(folder / "meta.csv", index=False)
    return folder


def test_prepares_validates_and_evaluates(source: Path, tmp_path: Path, tracking_uri: str) -> None:
    summary = prepare(source, tmp_path / "out", columns=f"{COLUMNS},site=Site")
    report = validate_folder(tmp_path / "out", deep=True, workers=1)
    assert report.ok, str(report)
    info = load_dataset(tmp_path / "out")
    truth = frame()
    merged = info.table.merge(truth, left_on=info.table["image"].str.removeprefix("source/pics/"), right_on="filename")
    assert (merged["label"].astype(str) == merged["Glaucoma"]).all()
    assert set(merged.loc[merged["sex"] == "female", "Sex"]) == {"F", "f", "Female"}
    assert set(merged.loc[merged["age"] == "unknown", "Age"]) == {"155", ""}
    assert info.table.groupby("patient_id")["split"].nunique().max() == 1
    assert "secret remark" not in (tmp_path / "out" / "manifest.csv").read_text(encoding="utf-8")
    text = "\n".join(summary)
    for told in ("sex: column 'Sex': female is 'F' (10)", "not taken over: BMI, Remark", "review ", "missing '?' (10)"):
        assert told in text
    subgroups = evaluate(info, tmp_path, tracking_uri)
    assert {"female", "male", "lt60", "ge75", "north_clinic", "female__ge60"} <= set(subgroups["group"])


@pytest.mark.parametrize("name", ["meta.tsv", "meta.txt", "meta.xlsx", "meta.parquet"])
def test_other_formats_give_the_same_folder(source: Path, tmp_path: Path, name: str) -> None:
    prepare(source, tmp_path / "a")
    (tmp_path / "other").mkdir()
    made = make(tmp_path / "other" / "ward", table=name)
    prepare(made, tmp_path / "b", table=name)
    one, two = (pd.read_csv(tmp_path / folder / "manifest.csv", dtype=str) for folder in ("a", "b"))
    pd.testing.assert_frame_equal(one, two)


def test_without_patients_each_image_is_one_and_every_report_says_so(source: Path, tmp_path: Path) -> None:
    summary = prepare(source, tmp_path / "out", columns="image=filename,label=Glaucoma,sex=Sex")
    assert any("each image counts as a patient of its own" in line for line in summary)
    card = json.loads((tmp_path / "out" / "dataset.json").read_text(encoding="utf-8"))
    assert card["unit"] == "image"
    assert "intervals may be too narrow" in card["notice"]


def test_columns_of_split_ids_several_labels_and_paths(source: Path, tmp_path: Path) -> None:
    table = frame()
    table["part"] = ["Training", "valid", "TEST"] * 20
    table["filename"] = ".\\pics\\" + table["filename"].str.removesuffix(".png")
    table["Sick"], table["id"] = table["Glaucoma"].map({"0": "no", "1": "yes"}), [f"id{n}" for n in range(60)]
    folder = with_table(source, tmp_path / "ward", table)
    columns = "image=filename,case_id=id,patient_id=id,split=part,label=Glaucoma|Sick,site=Site"
    prepare(folder, tmp_path / "out", columns=columns, images="", extension="png", missing="")
    info = load_dataset(tmp_path / "out")
    assert info.multi_label
    assert info.table["split"].tolist() == ["train", "val", "test"] * 20
    assert (info.table["label_glaucoma"] == info.table["label_sick"]).all()
    assert info.table["image"][0] == "source/pics/000_L.png"


def test_masks_ask_for_their_labels(source: Path, tmp_path: Path) -> None:
    columns = "image=filename,patient_id=pid,mask=filename,sex=Sex"
    with pytest.raises(DatasetError, match=r"`--labels \"NAME=.*pics/000_L.png holds"):
        prepare(source, tmp_path / "out", columns=columns)
    prepare(source, tmp_path / "out", columns=columns, labels="disc=1,cup=2")
    info = load_dataset(tmp_path / "out")
    assert (info.task, info.labels) == ("segmentation", {"disc": 1, "cup": 2})
    with pytest.raises(DatasetError, match="both label and mask"):
        prepare(source, tmp_path / "no", columns=f"{columns},label=Glaucoma", labels="disc=1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": "image=file,label=Glaucoma"}, "names 'file', which the table lacks; did you mean 'filename'"),
        ({"columns": "label=Glaucoma"}, "which column names the images"),
        ({"columns": "image=filename,sex=Sex"}, "neither label nor mask"),
        ({"columns": "image=filename,patient_id=Glaucoma,label=Glaucoma"}, "60 cases are of 2 patients"),
        ({"columns": "image=filename,label=Glaucoma,split=Sex"}, r"must hold train, val or test, but got '\w+' \(10\)"),
        ({"columns": "image=Site,label=Glaucoma"}, "3 images stand in more than one row: pics/North Clinic"),
        ({"table": "other.csv"}, "no 'other.csv'; the folder holds meta.csv"),
        ({"images": ""}, "60 of 60 cases lack files"),
        ({"columns": r"image=filename,label=Glaucoma,my__sex=Sex"}, "'my__sex' must be letters"),
        ({"columns": "image=filename,patient_id=pid,label=Glaucoma,score=Site"}, "taken by a column of the outputs"),
    ],
)
def test_what_cannot_be_told_is_asked_for(source: Path, tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        prepare(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_paths_elsewhere_and_foreign_kinds(source: Path, tmp_path: Path) -> None:
    table = frame()
    table.loc[0, "filename"], table.loc[1, "filename"] = "/elsewhere/a.png", "a.npz"
    folder = with_table(source, tmp_path / "ward", table)
    with pytest.raises(DatasetError, match=r"(?s)/elsewhere/a\.png.*\.npz \(1\)"):
        prepare(folder, tmp_path / "out")


def test_missing_images_are_left_out_on_request(source: Path, tmp_path: Path) -> None:
    table = frame()
    table.loc[3, "filename"] = "gone.png"
    folder = with_table(source, tmp_path / "ward", table)
    with pytest.raises(DatasetError, match=r"gone\.png"):
        prepare(folder, tmp_path / "out")
    prepare(folder, tmp_path / "out", incomplete=True)
    assert len(load_dataset(tmp_path / "out").table) == 59


def test_an_edited_card_is_never_overwritten(source: Path, tmp_path: Path) -> None:
    prepare(source, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    prepare(source, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()} == before
    card = tmp_path / "out" / "dataset.json"
    card.write_text(card.read_text(encoding="utf-8").replace("showing glaucoma", "of an eye with glaucoma"))
    with pytest.raises(FileExistsError, match="it was edited"):
        prepare(source, tmp_path / "out")
    assert "of an eye with glaucoma" in card.read_text(encoding="utf-8")
    shutil.rmtree(tmp_path / "out")
