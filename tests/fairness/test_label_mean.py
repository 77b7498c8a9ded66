"""The mean over labels: pandas' own pivot as the oracle, and what must not change it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.fairness import evaluate_segmentation

LABELS = ["kidney", "liver", "spleen"]


@pytest.fixture
def cases() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    rows = [
        {
            "case_id": f"case{number}",
            "patient_id": f"patient{number // 2}",
            "sex": ["female", "male"][number // 2 % 2],
            "label": label,
            "prompt": prompt,
            "dice": rng.uniform(0.2, 1.0),
            "hd95": rng.gamma(2.0),
            "empty_reference": False,
            "empty_prediction": False,
            "failed": "",
        }
        for number in range(30)
        for prompt in ("box", "point")
        for label in LABELS
    ]
    return pd.DataFrame(rows)


def overall(table: pd.DataFrame, metric: str = "dice", **where: str) -> float:
    report = evaluate_segmentation(table, groups={"sex": ["female", "male"]}, n_bootstrap=0)
    found = report.subgroups
    where = {"prompt": "box", "label": "", "attribute": "overall", "group": "all", "metric": metric} | where
    for column, value in where.items():
        found = found[found[column] == value]
    assert len(found) == 1
    return float(found["value"].iloc[0])


def test_it_is_the_mean_of_each_cases_labels(cases: pd.DataFrame) -> None:
    boxes = cases[cases["prompt"] == "box"]
    per_case = boxes.pivot_table(index=["case_id", "sex"], columns="label", values="dice").mean(axis=1)
    assert overall(cases) == pytest.approx(per_case.mean(), abs=1e-12)
    women = per_case[per_case.index.get_level_values("sex") == "female"]
    assert overall(cases, attribute="sex", group="female") == pytest.approx(women.mean(), abs=1e-12)


def test_an_empty_reference_does_not_count_whatever_stands_in_its_score(cases: pd.DataFrame) -> None:
    cases.loc[0, ["dice", "empty_reference"]] = [0.0, True]  # case0, box, kidney
    boxes = cases[(cases["prompt"] == "box") & ~cases["empty_reference"]]
    assert overall(cases) == pytest.approx(boxes.groupby("case_id")["dice"].mean().mean(), abs=1e-12)


def test_an_infinite_distance_leaves_the_distances_of_the_other_labels(cases: pd.DataFrame) -> None:
    boxes = cases[cases["prompt"] == "box"].drop(index=0)
    cases.loc[0, "hd95"] = np.inf
    assert overall(cases, "hd95") == pytest.approx(boxes.groupby("case_id")["hd95"].mean().mean(), abs=1e-12)


@pytest.mark.parametrize("lost", [{"failed": "could not be read"}, {"dice": np.nan}])
def test_a_case_that_lost_a_label_is_left_out_and_counted(cases: pd.DataFrame, lost: dict[str, object]) -> None:
    for column, value in lost.items():
        cases.loc[0, column] = value
    rest = cases[(cases["prompt"] == "box") & (cases["case_id"] != "case0")]
    assert overall(cases) == pytest.approx(rest.groupby("case_id")["dice"].mean().mean(), abs=1e-12)
    report = evaluate_segmentation(cases, groups={"sex": ["female", "male"]}, n_bootstrap=0)
    table = report.subgroups
    row = table[(table.label == "") & (table.prompt == "box") & (table.metric == "dice") & (table.group == "all")]
    assert int(row["n_failed"].iloc[0]) == 1


def test_order_of_rows_and_names_of_cases_change_nothing(cases: pd.DataFrame) -> None:
    shuffled = cases.sample(frac=1, random_state=1).assign(case_id=lambda table: "x" + table["case_id"])
    assert overall(shuffled) == pytest.approx(overall(cases), abs=1e-12)


def test_one_label_or_no_case_ids_give_no_such_row(cases: pd.DataFrame) -> None:
    for table in (cases[cases["label"] == "liver"], cases.drop(columns="case_id")):
        report = evaluate_segmentation(table, groups={"sex": ["female", "male"]}, n_bootstrap=0)
        assert "" not in set(report.subgroups["label"])
