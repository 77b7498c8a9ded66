from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from fairmedfm_monai.data.card import Card
from fairmedfm_monai.data.card_checks import check_card, check_prompts, is_slug
from fairmedfm_monai.data.problems import DatasetError


def kinds(content: object) -> set[str]:
    return {problem.kind for problem in check_card(content) if problem.level == "error"}


def test_reads_the_designs_example(card_dict: dict[str, Any], tmp_path: Path) -> None:
    card = Card.from_dict(card_dict)
    assert list(card.classes) == ["no_finding", "finding"]
    assert card.classes["finding"] == ["a film of a patient", "a sick chest"]
    assert card.attributes["sex"].groups == ("female", "male")
    assert card.attributes["sex"].mapping["1"] == "male"
    assert card.attributes["age"].bins == (0.0, 60.0, 200.0)
    assert card.intersections == (("sex", "age"),)
    assert json.loads(card.write(tmp_path).read_text(encoding="utf-8")) == card_dict
    assert Card.read(tmp_path).to_dict() == card.to_dict()


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("lt60", True),
        ("_60", True),
        ("a.b", True),
        (".a", False),
        ("a__b", False),
        ("<60", False),
        ("", False),
        ("a" * 60, True),
        ("a" * 61, False),
        (5, False),
        ("a b", False),
        ("é", False),
    ],
)
def test_slugs(name: object, allowed: bool) -> None:
    assert is_slug(name) is allowed


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"schema": 2}, "card_value"),
        ({"task": "detection"}, "card_value"),
        ({"spatial_dims": 4}, "card_value"),
        ({"spatial_dims": True}, "card_value"),
        ({"name": "a/b"}, "slug"),
        ({"classes": {"one": []}}, "classes"),
        ({"classes": {"finding": "text", "b": []}}, "classes"),
        ({"classes": {"a b": [], "finding": []}}, "slug"),
        ({"positive_class": "cancer"}, "positive_class"),
        ({"positive_class": None}, "positive_class"),
        ({"intersections": [["sex", "race"]]}, "intersections"),
        ({"intersections": [["sex"]]}, "intersections"),
        ({"window": [40, -1]}, "window"),
        ({"multi_label": "yes"}, "card_value"),
        ({"task": "segmentation"}, "labels"),
        ({"task": "segmentation", "labels": {"kidney": 0}}, "labels"),
        ({"task": "segmentation", "labels": {"kidney": 1, "liver": 1}}, "labels"),
    ],
)
def test_wrong_values_are_found(card_dict: dict[str, Any], change: dict[str, Any], kind: str) -> None:
    assert kinds(card_dict | change) == {kind}


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        ({"groups": {"a__b": ["F"]}}, "slug"),
        ({"groups": {"unknown": ["F"]}}, "groups"),
        ({"groups": {"f": ["F"], "m": ["F"]}}, "groups"),
        ({"groups": {"f": ["F"]}, "missing": ["F"]}, "groups"),
        ({"groups": {"f": "F"}}, "groups"),
        ({"groups": {"f": ["F"]}, "missing": "U"}, "missing"),
        ({"groups": {"f": ["F"]}, "title": 5}, "card_value"),
        ({"groups": []}, "groups"),
        ({"bins": [0, 60], "groups": ["a", "b"]}, "bins"),
        ({"bins": [0, 0, 9], "groups": ["a", "b"]}, "bins"),
        ({"bins": [0, 5, 9], "groups": ["a", "a"]}, "bins"),
        ({"bins": "0-60", "groups": ["a"]}, "bins"),
        ({"group": {"f": ["F"]}, "groups": {"f": ["F"]}}, "attribute_key"),
        (["F"], "attribute_type"),
    ],
)
def test_wrong_attributes_are_found(card_dict: dict[str, Any], entry: object, kind: str) -> None:
    card_dict["attributes"]["sex"] = entry
    assert kinds(card_dict) == {kind}


@pytest.mark.parametrize("prompts", ["", [""], ["a lung", " "], None, [3]])
def test_empty_prompts_are_told_with_class_and_file(card_dict: dict[str, Any], prompts: object) -> None:
    card_dict["classes"]["finding"] = prompts
    with pytest.raises(DatasetError, match=r"dataset.json: the prompts of 'finding' must be .*, none of them empty"):
        Card.from_dict(card_dict)


@pytest.mark.parametrize(("classes", "found"), [({"finding": ["a"]}, "only finding"), ({}, "{}"), (None, "None")])
def test_fewer_than_two_classes_are_told(card_dict: dict[str, Any], classes: object, found: str) -> None:
    card_dict["classes"] = classes
    with pytest.raises(DatasetError, match=f"`classes` of dataset.json must map at least two .* but there is {found}"):
        Card.from_dict(card_dict)


def test_classes_without_prompts_are_a_problem_of_textual_usages_only(card_dict: dict[str, Any]) -> None:
    card_dict["classes"]["finding"] = []
    assert not kinds(card_dict)
    (problem,) = check_prompts(card_dict["classes"])
    assert "'finding' has no prompt: zero_shot, prototypes and adapter need" in problem.message


def test_attribute_names_that_outputs_need_are_refused(card_dict: dict[str, Any]) -> None:
    card_dict["attributes"]["split"] = {"groups": {"a": ["1"]}}
    assert kinds(card_dict) == {"attribute_name"}


def test_one_message_lists_everything(card_dict: dict[str, Any]) -> None:
    del card_dict["modality"]
    card_dict |= {"task": "x", "name": "a b", "positve_class": "finding"}
    with pytest.raises(DatasetError, match="3 problems") as caught:
        Card.from_dict(card_dict)
    text = str(caught.value)
    assert "'modality'" in text
    assert "`task` must be one of classification, segmentation, but got 'x'" in text
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems  # noqa: S301  # our own bytes


def test_unknown_key_is_a_warning_with_a_hint(card_dict: dict[str, Any]) -> None:
    card = Card.from_dict(card_dict | {"licens": "MIT"})
    assert "did you mean 'licence'" in card.warnings[0].message


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_a_file_that_is_no_card(tmp_path: Path, content: str) -> None:
    (tmp_path / "dataset.json").write_text(content, encoding="latin-1")
    with pytest.raises(DatasetError, match="card"):
        Card.read(tmp_path)
