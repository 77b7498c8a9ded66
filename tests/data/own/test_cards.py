"""Cards made from values: what is told from them, what is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pytest

from fairmedfm_monai.data import Card, DatasetError, group_of
from fairmedfm_monai.data.own.cards import Draft, draft_card
from fairmedfm_monai.data.own.rows import OwnRows
from fairmedfm_monai.data.own.wishes import Wishes


def drafted(
    label: Sequence[str] | Mapping[str, Sequence[str]] = ("0", "1", "1", "0"),
    *,
    meanings: Mapping[str, Mapping[str, str]] | None = None,
    attributes: Mapping[str, Sequence[str]] | None = None,
    **wishes: Any,
) -> Draft:
    """A draft for a label column `tumour` (or several) and some attributes."""
    labels = label if isinstance(label, Mapping) else {"tumour": label}
    count = len(next(iter(labels.values())))
    table = pd.DataFrame({"case_id": [f"c{index}" for index in range(count)]}, dtype=object)
    table = table.assign(patient_id=table["case_id"], image=table["case_id"] + ".png")
    table = table.assign(**{f"label:{name}": list(values) for name, values in labels.items()}, **(attributes or {}))
    rows = OwnRows(
        kind="table",
        table=table,
        labels={f"label:{name}": name for name in labels},
        attributes=dict.fromkeys(attributes or {}, "column"),
        origins={},
        meanings=meanings or {},
    )
    draft = draft_card(rows, Wishes(**{"modality": "fundus", "spatial_dims": 2, **wishes}), name="toy", where="here")
    Card.from_dict(draft.card)
    return draft


def attribute(values: Sequence[str], name: str = "site", **wishes: Any) -> dict[str, Any]:
    label = [str(index % 2) for index in range(len(values))]
    return dict(drafted(label, attributes={name: values}, **wishes).card["attributes"])


@pytest.mark.parametrize(
    ("values", "classes", "positive"),
    [
        (["1", "0"], ["no_tumour", "tumour"], "tumour"),
        (["Yes", "no"], ["no_tumour", "tumour"], "tumour"),
        (["TRUE", "FALSE"], ["no_tumour", "tumour"], "tumour"),
        (["malignant", "benign"], ["benign", "malignant"], "malignant"),
        (["Grade I", "grade II", "III"], ["grade_i", "grade_ii", "iii"], None),
        (["10", "9", "2"], ["tumour_2", "tumour_9", "tumour_10"], None),
    ],
)
def test_classes_of_values(values: list[str], classes: list[str], positive: str | None) -> None:
    card = drafted(values).card
    assert list(card["classes"]) == classes
    assert card.get("positive_class") == positive
    assert all(
        len(prompts) == 2 and all("fundus photograph" in text for text in prompts)
        for prompts in card["classes"].values()
    )
    assert "written by a program" in card["notice"]


def test_labels_become_class_names_and_rows_without_label_are_counted() -> None:
    draft = drafted(["1", "", "0", "?", "NA", "Unknown"], missing={"": ["?"]})
    assert draft.table["label"].tolist() == ["tumour", "no_tumour"]
    assert draft.table["case_id"].tolist() == ["c0", "c2"]
    assert draft.notes == ("4 of 6 cases left out: no label in tumour",)


def test_two_unclear_classes_need_the_positive_one() -> None:
    with pytest.raises(DatasetError, match="`--positive left` or `--positive right`"):
        drafted(["left", "right"])
    card = drafted(["left", "right"], positive="left").card
    assert list(card["classes"]) == ["right", "left"]
    assert card["positive_class"] == "left"
    with pytest.raises(DatasetError, match="`--positive` must be one of left, right, but got 'top'"):
        drafted(["left", "right"], positive="top")


def test_named_classes_must_cover_all_values() -> None:
    draft = drafted(["0", "1", "2"], classes={"well": ["0"], "ill": ["1", "2"]}, positive="ill")
    assert draft.table["label"].tolist() == ["well", "ill", "ill"]
    with pytest.raises(DatasetError, match=r"also holds '2' \(1\): add them to `--classes`"):
        drafted(["0", "1", "2"], classes={"well": ["0"], "ill": ["1"]}, positive="ill")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1", "1"], "holds '1' only"),
        (["0.5", "1.5"], "are no classes"),
        ([f"d{index}" for index in range(60)], "60 distinct values .* too many for classes"),
        (["A+", "A-"], "no names can be made: 'A\\+', 'A-'"),
        (["", "NA"], "no case has a label"),
    ],
)
def test_labels_that_are_no_classes(values: list[str], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        drafted(values)


def test_several_label_columns_are_multi_label() -> None:
    draft = drafted({"Pleural Effusion": ["1", "0", "Yes"], "Mass": ["no", "1.0", ""]})
    assert draft.card["multi_label"] is True
    assert draft.table[["pleural_effusion", "mass"]].to_numpy().tolist() == [["1", "0"], ["0", "1"]]
    with pytest.raises(DatasetError, match=r"'Mass' must hold 0 and 1 .* '-1' \(1\)"):
        drafted({"Effusion": ["1", "0"], "Mass": ["-1", "1"]})


def test_meanings_name_classes_and_groups() -> None:
    meanings = {"label": {"1": "control", "2": "Patient group"}, "sex": {"1": "Male", "2": "female", "9": "unknown"}}
    draft = drafted(["1", "2", "2"], positive="2", meanings=meanings, attributes={"sex": ["1", "2", "9"]})
    assert list(draft.card["classes"]) == ["control", "patient_group"]
    assert draft.card["attributes"]["sex"] == {
        "column": "sex",
        "groups": {"female": ["2"], "male": ["1"]},
        "missing": ["9"],
    }


def test_sex_is_known_by_a_table_of_spellings_only() -> None:
    groups = attribute(["F", "male", "FEMALE", "M", "O", ""], "sex")["sex"]["groups"]
    assert groups == {"female": ["F", "FEMALE"], "male": ["M", "male"], "other": ["O"]}
    with pytest.raises(DatasetError, match=r"holds 'W', which may mean .*sex:female=F,male=M,NAME=W"):
        attribute(["F", "M", "W"], "sex")
    with pytest.raises(DatasetError, match=r"'1', '2', which may mean anything .numbers are coded both ways round"):
        attribute(["1", "2"], "sex")
    chosen = attribute(["1", "2"], "sex", groups={"sex": {"male": ["1"], "female": ["2"]}})
    assert chosen["sex"]["groups"] == {"male": ["1"], "female": ["2"]}
    with pytest.raises(DatasetError, match=r"also holds '3' \(1\): add them to `--groups`"):
        attribute(["1", "2", "3"], "sex", groups={"sex": {"male": ["1"], "female": ["2"]}})


def test_age_has_bands_at_60_unless_others_are_asked_for() -> None:
    entries = attribute(["59", "60", "063Y", "155", ""], "age")
    assert list(entries) == ["age", "age_bands"]
    card = Card.from_dict(drafted(attributes={"age": ["59", "60", "155", ""]}).card)
    assert [group_of(card.attributes["age"], raw) for raw in ("59", "60", "155", "")] == [
        "lt60",
        "ge60",
        "unknown",
        "unknown",
    ]
    assert attribute(["50", "70"], "age", bins={"age": [18, 65]})["age"]["groups"] == ["lt18", "18-64", "ge65"]
    assert attribute(["old", "young"], "age")["age"]["groups"] == {"old": ["old"], "young": ["young"]}
    with pytest.raises(DatasetError, match="must hold an age in years, but it also has '>89'"):
        attribute(["50", ">89"], "age")


def test_numbers_need_bins() -> None:
    values = ["17.5", "18.5", "30", "999"]
    with pytest.raises(DatasetError, match=r"numbers from 17.5 to 999 and needs bins.*--bins \"bmi=CUT,CUT\""):
        attribute(values, "bmi")
    with pytest.raises(DatasetError, match="needs bins"):
        attribute([str(index) for index in range(30)], "score")
    draft = drafted(attributes={"bmi": values}, bins={"bmi": [18.5, 25, 30]}, missing={"bmi": ["999"]})
    card = Card.from_dict(draft.card)
    groups = [group_of(card.attributes["bmi"], raw) for raw in (*values, "24.9")]
    assert groups == ["lt18.5", "18.5-lt25", "ge30", "unknown", "18.5-lt25"]
    assert any("numbers from 17.5 to 30" in line for line in draft.lines)
    with pytest.raises(DatasetError, match="must hold a number, but it also has 'n'"):
        attribute(["17", "n"], "bmi", bins={"bmi": [20]})


def test_values_become_groups_by_name() -> None:
    assert attribute(["Site A/1", "münchen", "site a/1", "2"])["site"]["groups"] == {
        "2": ["2"],
        "munchen": ["münchen"],
        "site_a_1": ["Site A/1", "site a/1"],
    }
    with pytest.raises(DatasetError, match=r"21 distinct values .* too many for groups"):
        attribute([f"s{index}" for index in range(21)])
    with pytest.raises(DatasetError, match="no names can be made: 'a b', 'a_b'"):
        attribute(["a b", "a_b"])
    with pytest.raises(DatasetError, match="holds no value"):
        attribute(["", "NA"])


def test_everything_unclear_is_told_at_once() -> None:
    with pytest.raises(DatasetError) as error:
        drafted(
            ["l", "r"], attributes={"sex": ["1", "2"], "bmi": ["20.5", "30"]}, bins={"bmy": [1]}, missing={"x": ["1"]}
        )
    assert len(error.value.problems) == 5


def test_intersection_of_sex_and_age() -> None:
    card = drafted(attributes={"sex": ["F", "M", "F", "M"], "age": ["1", "70", "3", "80"]}).card
    assert card["intersections"] == [["sex", "age"]]
