from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.data.splits import split_patients


@pytest.fixture
def table() -> pd.DataFrame:
    random = np.random.default_rng(0)
    patients = np.repeat(np.arange(500), random.integers(1, 5, 500))
    sex = random.choice(["female", "male"], 500, p=[0.2, 0.8])
    label = random.random(len(patients)) < 0.1
    frame = {
        "case_id": np.arange(len(patients)),
        "patient_id": patients,
        "sex": sex[patients],
        "label": label.astype(int),
    }
    return pd.DataFrame(frame)


def test_no_patient_is_in_two_splits(table: pd.DataFrame) -> None:
    split = split_patients(table, stratify=["label", "sex"])
    assert split.groupby("patient_id")["split"].nunique().max() == 1
    assert set(split["split"]) == {"train", "val", "test"}


def test_fractions_and_groups_are_kept(table: pd.DataFrame) -> None:
    patients = split_patients(table, stratify=["sex"]).drop_duplicates("patient_id")
    counts = pd.crosstab(patients["sex"], patients["split"])
    assert counts.sum().to_dict() == {"train": 300, "val": 100, "test": 100}
    expected = np.outer(counts.sum(axis=1), [0.2, 0.6, 0.2])
    assert np.abs(counts.to_numpy() - expected).max() <= 1


def test_labels_are_balanced_too(table: pd.DataFrame) -> None:
    patients = split_patients(table, stratify=["label", "sex"])
    positive = patients[patients["label"] == 1].drop_duplicates("patient_id")
    share = positive["split"].value_counts(normalize=True)
    assert share["train"] == pytest.approx(0.6, abs=0.03)


def test_seed_and_not_row_order_decides(table: pd.DataFrame) -> None:
    once = split_patients(table, stratify=["sex"])
    shuffled = split_patients(table.sample(frac=1, random_state=1), stratify=["sex"]).sort_values("case_id")
    assert (once["split"].to_numpy() == shuffled["split"].to_numpy()).all()
    assert (once["split"] != split_patients(table, seed=1, stratify=["sex"])["split"]).any()


@pytest.mark.parametrize("fractions", [{"train": 0.5}, {"train": 1.2, "test": -0.2}])
def test_wrong_fractions(table: pd.DataFrame, fractions: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        split_patients(table, fractions=fractions)


def test_unknown_column(table: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="lacks the columns race"):
        split_patients(table, stratify=["race"])
