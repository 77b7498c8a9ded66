"""Texts such as "a=b,c=d" as people type them."""

from __future__ import annotations

import pytest

from fairmedfm_monai.data.own.arguments import assignments, group_lists, missing_lists, number_lists, value_lists
from fairmedfm_monai.data.own.columns import Columns


def test_assignments_keep_blanks_marks_and_further_equal_signs() -> None:
    text = r"image=File Name, age = Age (years\, full) ,x=a=b,"
    assert assignments(text, option="o", example="e") == {"image": "File Name", "age": "Age (years, full)", "x": "a=b"}


@pytest.mark.parametrize("text", ["image", "image=", "=file", "a=1,a=2"])
def test_assignments_of_another_form_name_the_option(text: str) -> None:
    with pytest.raises(ValueError, match="`--columns`"):
        assignments(text, option="columns", example="image=file")


def test_columns_are_contract_labels_and_attributes() -> None:
    found = Columns.parse(r"image=f,label=A|B\|C,sex=Sex,split=part", contract=("image", "split"))
    assert found.contract == {"image": "f", "split": "part"}
    assert found.labels == ("A", "B|C")
    assert found.attributes == {"sex": "Sex"}


def test_groups_values_bins_and_missing() -> None:
    assert group_lists("sex:female=1|W,male=2; time:am=9:00") == {
        "sex": {"female": ["1", "W"], "male": ["2"]},
        "time": {"am": ["9:00"]},
    }
    assert value_lists("a=1|2,b=3", option="o", example="e") == {"a": ["1", "2"], "b": ["3"]}
    assert number_lists("bmi=18.5,25,30,age=40,65;t=-1.5") == {"bmi": [18.5, 25, 30], "age": [40, 65], "t": [-1.5]}
    assert missing_lists(r"NA,?,bmi=999|-1,\=") == {"": ["NA", "?", "="], "bmi": ["999", "-1"]}


@pytest.mark.parametrize("text", ["18.5,25", "bmi=", "bmi=a", "bmi=30,25", "bmi=nan", "bmi=1,inf"])
def test_bins_must_be_named_and_rise(text: str) -> None:
    with pytest.raises(ValueError, match="`--bins` must be names and rising numbers"):
        number_lists(text)


@pytest.mark.parametrize("text", ["female=F", ":a=b", "s:a=1;s:b=2"])
def test_groups_must_be_named(text: str) -> None:
    with pytest.raises(ValueError, match="`--groups`"):
        group_lists(text)
