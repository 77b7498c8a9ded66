"""CheXpert: the miniature release, and the real training table at full size."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from openpyxl import load_workbook

from fairmedfm_monai.data.card import Card
from fairmedfm_monai.data.prepare import find_dataset, prepare_dataset
from fairmedfm_monai.data.prepare.counts import counts
from fairmedfm_monai.data.problems import DatasetError
from tests import real_data
from tests.data.public.checks import evaluate, prepared
from tests.miniatures.chexpert import make


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("chexpert") / "raw")


def _images(raw: Path, *, tables: tuple[str, ...] = ("train", "valid")) -> list[dict[str, str]]:
    """Rows of the image tables, read without this project, with the name of the case."""
    rows: list[dict[str, str]] = []
    for table in tables:
        with (raw / f"{table}.csv").open(newline="") as stream:
            rows += [{**row, "case": "_".join(row["Path"][:-4].split("/")[2:])} for row in csv.DictReader(stream)]
    return rows


def _people(raw: Path) -> dict[str, tuple[str, str, str]]:
    """Patient -> gender, race, ethnicity, as the workbook tells them."""
    sheet = load_workbook(raw / "CHEXPERT DEMO.xlsx").active
    assert sheet is not None
    rows = list(sheet.iter_rows(min_row=2, values_only=True))
    return {str(row[0]): (str(row[1]), str(row[3] or ""), str(row[4])) for row in rows}


def test_prepares_validates_and_evaluates(raw: Path, tmp_path: Path, tracking_uri: str) -> None:
    info, _ = prepared("cxp", raw, tmp_path / "out")
    frontal = [row for row in _images(raw) if row["Frontal/Lateral"] == "Frontal"]
    table = info.table.set_index("case_id")
    assert set(table.index) == {row["case"] for row in frontal}
    people = _people(raw)
    for row in frontal:
        got = table.loc[row["case"]]
        assert got["label"] == (0 if row["No Finding"] == "1.0" else 1), row
        patient = row["case"].split("_")[0]
        gender, race, ethnicity = people.get(patient, (row["Sex"], "", ""))
        agree = row["Sex"] in ("Male", "Female") and gender == row["Sex"]
        assert got["sex"] == (row["Sex"].lower() if agree else "unknown")
        assert got["age"] == ("unknown" if row["Age"] == "0" else "ge60" if int(row["Age"]) >= 60 else "lt60")
        slugs = {
            "White": "white",
            "Black": "black",
            "Asian": "asian",
            "Other": "other",
            "Native Hawaiian": "pacific_islander",
        }
        assert got["race"] == next((slug for start, slug in slugs.items() if race.startswith(start)), "unknown")
        ethnic = {"H": "hispanic", "N": "non_hispanic"}
        assert got["ethnicity"] == ethnic.get(ethnicity[:1], "unknown")
        assert got["view"] == {"AP": "ap", "PA": "pa", "RL": "unknown"}[row["AP/PA"]]
    assert info.card.positive_class == "finding"
    subgroups = evaluate(info, tmp_path, tracking_uri)
    assert {"asian", "hispanic", "female__ge60"} <= set(subgroups["group"])


def test_what_was_left_out_or_unknown_is_counted(raw: Path, tmp_path: Path) -> None:
    _, result = prepared("chexpert", raw, tmp_path / "out")
    text = "\n".join(result.summary)
    lateral = sum(row["Frontal/Lateral"] == "Lateral" for row in _images(raw))
    assert f"{lateral} lateral images are left out" in text
    assert "the sex of 1 images (1 patients) differs" in text
    assert "'Patient Refused'" in text
    assert "'Race and Ethnicity Unknown'" in text
    assert "1 images have the age 0" in text
    assert "CheXpert-v1.0-small (reduced size)" in result.summary[0]


def test_positive_means_normal_is_told(raw: Path, tmp_path: Path) -> None:
    info, _ = prepared("chexpert", raw, tmp_path / "out", rule="no_finding")
    assert info.card.positive_class == "no_finding"
    assert "positive means normal" in str(info.notice)
    assert "under-diagnosis" in str(info.notice)
    normal = {row["case"] for row in _images(raw) if row["No Finding"] == "1.0"}
    labels = info.table.set_index("case_id")["label"]
    assert all((list(info.classes)[label] == "no_finding") == (case in normal) for case, label in labels.items())


@pytest.mark.parametrize(("policy", "present"), [("", ("1.0",)), ("_u_ones", ("1.0", "-1.0")), ("_u_ignore", ("1.0",))])
def test_uncertain_labels(policy: str, present: tuple[str, ...], raw: Path, tmp_path: Path) -> None:
    five = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
    info, _ = prepared("chexpert", raw, tmp_path / "out", rule=f"five_findings{policy}")
    rows = [row for row in _images(raw) if row["Frontal/Lateral"] == "Frontal"]
    if policy == "_u_ignore":
        rows = [row for row in rows if "-1.0" not in (row[name] for name in five)]
    assert set(info.table["case_id"]) == {row["case"] for row in rows}
    table = info.table.set_index("case_id")
    for name in five:
        column = table[f"label_{name.lower().replace(' ', '_')}"]
        assert {case for case, value in column.items() if value == 1} == {
            row["case"] for row in rows if row[name] in present
        }


def test_the_experts_images_as_test_set(raw: Path, tmp_path: Path) -> None:
    info, _ = prepared("chexpert", raw, tmp_path / "out", protocol="expert_test")
    valid = {row["case"] for row in _images(raw, tables=("valid",)) if row["Frontal/Lateral"] == "Frontal"}
    assert set(info.table.loc[info.table["split"] == "test", "case_id"]) == valid
    assert set(info.table["split"]) == {"train", "val", "test"}


def test_published_protocol(raw: Path, tmp_path: Path) -> None:
    info, _ = prepared("chexpert", raw, tmp_path / "out", protocol="fairmedfm")
    people = _people(raw)
    rows = [row for row in _images(raw, tables=("train",)) if people.get(row["case"].split("_")[0], ("", "", ""))[1]]
    assert set(info.table["case_id"]) == {row["case"] for row in rows}  # lateral views, too
    white = {row["case"] for row in rows if "White" in people[row["case"].split("_")[0]][1]}
    assert set(info.table.loc[info.table["race"] == "white", "case_id"]) == white
    assert (info.table["race"] != "unknown").all()
    assert info.card.positive_class == "no_finding"
    assert "not public" in str(info.notice)
    manifest = pd.read_csv(info.root / "manifest.csv")
    chosen = manifest[manifest["fairmedfm_test_race"] == 1]
    assert set(chosen["split"]) == {"test"}
    assert chosen["PRIMARY_RACE"].str.contains("White").mean() == 0.5
    with pytest.raises(ValueError, match="has the `rule` 'no_finding'"):
        find_dataset("chexpert").choose(rule="any_finding", protocol="fairmedfm")


def test_without_the_tables_that_are_downloads_of_their_own(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    (tmp_path / "raw" / "CHEXPERT DEMO.xlsx").unlink()
    (tmp_path / "raw" / "valid.csv").unlink()
    info, result = prepared("chexpert", tmp_path / "raw", tmp_path / "out")
    assert set(info.table["race"]) == {"unknown"}
    assert any("race and ethnicity are unknown" in line for line in result.summary)
    dataset = find_dataset("chexpert")
    for protocol, missing in (("fairmedfm", "CHEXPERT DEMO"), ("expert_test", "valid.csv")):
        with pytest.raises(DatasetError, match=missing):
            dataset.read(tmp_path / "raw", dataset.choose(protocol=protocol))


def test_faults_stop_with_the_list(raw: Path, tmp_path: Path) -> None:
    dataset = find_dataset("chexpert")
    with pytest.raises(DatasetError, match=f"wrong level of the release: give {raw}"):
        prepare_dataset(dataset, raw.parent, tmp_path / "out", progress=False)
    shutil.copytree(raw, tmp_path / "raw")
    file = tmp_path / "raw" / "train.csv"
    text = file.read_text(encoding="utf-8")
    faults = {
        text.replace(",Female,", ",Weiblich,", 2): r"'Weiblich' \(2\)",
        text.replace(",1.0,", ",2.0,", 1): r"column 'Cardiomegaly' must hold 1, 0, -1 or nothing, but got '2\.0'",
        text.replace("patient00007", "patient7", 1): r"1 of 80 rows do not: .*patient7/",
        text.replace("AP/PA", "View", 1): "lacks the column 'AP/PA'",
    }
    for content, told in faults.items():
        file.write_text(content)
        with pytest.raises(DatasetError, match=told):
            prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_missing_images_are_left_out_when_asked(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    (tmp_path / "raw/train/patient00008/study1/view1_frontal.jpg").unlink()
    with pytest.raises(DatasetError, match="1 of 64 cases lack files"):
        prepare_dataset(find_dataset("chexpert"), tmp_path / "raw", tmp_path / "out", progress=False)
    info, _ = prepared("chexpert", tmp_path / "raw", tmp_path / "out", incomplete=True)
    assert "patient00008_study1_view1_frontal" not in set(info.table["case_id"])
    assert json.loads((info.root / "provenance.json").read_text(encoding="utf-8"))["counts"]["cases"] == 63


@pytest.mark.network
def test_the_real_table_at_full_size(tmp_path: Path) -> None:
    real = real_data.fetch_or_skip(real_data.XRAY_TABLES) / "chexpert_train.csv.gz"
    (tmp_path / "train").mkdir()
    shutil.copy(real, tmp_path / "train.csv.gz")
    with gzip.open(real, "rt", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    # The whole table, by the numbers that are known of it.
    assert len(rows) == 223_414
    assert Counter(row["Sex"] for row in rows) == {"Male": 132_636, "Female": 90_777, "Unknown": 1}
    assert sum(int(row["Age"]) for row in rows) / len(rows) == pytest.approx(60.4, abs=0.05)
    dataset = find_dataset("chexpert")
    choice = dataset.choose()
    release = dataset.read(tmp_path, choice)
    found = counts(release.table, Card.from_dict(dataset.full_card(choice)))
    assert release.expected
    assert {name: found[name] for name in release.expected} == release.expected
    frontal = [row for row in rows if row["Frontal/Lateral"] == "Frontal"]
    assert found["cases"] == len(frontal)
    assert found["class/no_finding"] == sum(row["No Finding"] == "1.0" for row in frontal)
    for group, raw in (("female", "Female"), ("male", "Male"), ("unknown", "Unknown")):
        assert found[f"sex/{group}"] == sum(row["Sex"] == raw for row in frontal)
    assert found["age/unknown"] == sum(row["Age"] == "0" for row in frontal) == 3
    assert found["age/ge60"] == sum(int(row["Age"]) >= 60 for row in frontal)
