from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
import torch

from fairmedfm_monai.data import load_dataset
from fairmedfm_monai.data.dataset import DatasetInfo
from fairmedfm_monai.mitigation import GroupCoder
from fairmedfm_monai.mitigation.groups import one_hot


@pytest.fixture
def info(xray_dir: Path) -> DatasetInfo:
    """The phantom radiographs; the sex of three training cases is not known."""
    found = load_dataset(xray_dir)
    table = found.table.copy()
    table.loc[table.index[table["split"] == "train"][[0, 5, 9]], "sex"] = "unknown"
    return dataclasses.replace(found, table=table)


def test_codes_follow_the_card_and_unknown_is_minus_one(info: DatasetInfo) -> None:
    coder = GroupCoder(info)
    assert (coder.attributes, coder.names) == (["sex"], ["female", "male"])
    assert coder.codes([{"sex": "male"}, {"sex": "unknown"}, {"sex": "female"}]).tolist() == [1, -1, 0]


def test_a_collated_batch_has_the_codes_of_its_cases(info: DatasetInfo) -> None:
    from monai.data import DataLoader, Dataset

    coder = GroupCoder(info, ["age", "sex"])
    cases = info.cases("train")
    batch = next(iter(DataLoader(Dataset([{"attributes": case["attributes"]} for case in cases]), batch_size=24)))
    codes = coder.codes(batch["attributes"])
    assert torch.equal(codes, coder.codes([case["attributes"] for case in cases]))
    assert torch.equal(codes, coder.training())
    assert (codes < 0).sum() == 3


def test_crossed_groups_are_named_as_intersections(info: DatasetInfo) -> None:
    coder = GroupCoder(info, "sex, race")
    assert coder.names[:3] == ["female__white", "female__black", "female__asian"]
    assert coder.num_groups == 6
    codes = coder.codes([{"sex": "male", "race": "black"}, {"sex": "male", "race": "unknown"}])
    assert codes.tolist() == [4, -1]


@pytest.mark.parametrize("attributes", [["sex"], ["race", "sex"]])
def test_counts_are_those_of_the_table(info: DatasetInfo, attributes: list[str]) -> None:
    coder = GroupCoder(info, attributes)
    train = info.table[(info.table["split"] == "train") & (info.table["sex"] != "unknown")]
    names = train[attributes].agg("__".join, axis=1)
    expected = pd.crosstab(names, train["label"]).reindex(coder.names, fill_value=0)
    assert coder.class_counts().tolist() == expected.to_numpy().tolist()
    assert coder.counts().tolist() == expected.sum(axis=1).tolist()
    assert coder.unseen() == [name for name, count in expected.sum(axis=1).items() if not count]


def test_independent_labels_count_those_that_have_them() -> None:
    rows = one_hot([torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, 1.0])], 3)
    assert rows.tolist() == [[1, 0, 1], [0, 0, 1]]
    assert one_hot([2, 0], 3).tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [("sec", "did you mean.*sex"), (["sex", "sex"], "each once"), ([], "at least one")],
)
def test_attributes_that_there_are_not_are_refused(info: DatasetInfo, attributes: object, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        GroupCoder(info, attributes)


def test_a_dataset_without_attributes_and_a_strange_group_are_refused(info: DatasetInfo) -> None:
    with pytest.raises(ValueError, match="no attribute to mitigate by"):
        GroupCoder(dataclasses.replace(info, attributes={}))
    with pytest.raises(ValueError, match="expected one of female, male or unknown, but got 'F'"):
        GroupCoder(info).codes([{"sex": "F"}])
    with pytest.raises(KeyError, match="must hold the attribute 'sex'"):
        GroupCoder(info).codes([{"age": "lt60"}])
