from __future__ import annotations

import json

import pytest

from fairmedfm_monai.studies.cell import Cell


def cell(**changes: object) -> Cell:
    values = {"dataset": "xray", "task": "classification", "fm": "clip", "usage": "linear_probe", **changes}
    return Cell.from_json(values)


def test_key_names_what_differs_from_the_default() -> None:
    assert cell().key == "xray/clip/linear_probe/erm/seed0"
    full = cell(variant="ViT-L/14", label="sgd", mitigation="group_dro", attributes=["sex", "age"], seed=2)
    assert full.key == "xray/clip-ViT-L-14/linear_probe-sgd/group_dro-sex.age/seed2"


def test_key_is_a_path_that_shells_and_file_systems_take() -> None:
    key = cell(variant="a b/c:d*e", label="x y", attributes=["skin tone"], mitigation="group_dro").key
    assert key.count("/") == 4
    assert not set(key) & set(" :*?\\\"'$")


def test_json_gives_the_same_cell() -> None:
    before = cell(
        mitigation="laftr", attributes=["sex"], options={"a": [1, {"b": None}]}, train={"epochs": 2}, base="k"
    )
    assert Cell.from_json(json.loads(json.dumps(before.to_json()))) == before


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="a cell has no colour; it has dataset"):
        cell(colour="red")


def test_variant_default_is_the_catalogs() -> None:
    assert cell().catalog_variant == "ViT-B-32-quickgelu"
    assert cell(variant="RN50").catalog_variant == "RN50"


@pytest.mark.parametrize(("usage", "trained"), [("zero_shot", False), ("prompted", False), ("lora", True)])
def test_which_usages_train(usage: str, trained: bool) -> None:
    assert cell(usage=usage).trained is trained
    assert cell(usage=usage).bundle == f"clip_classification_{usage}"
