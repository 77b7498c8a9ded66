"""Published split rules, against scikit-learn's own draw."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from fairmedfm_monai.data.prepare.published import balanced_subset, split_82


def frame(number: int = 103) -> pd.DataFrame:
    sexes = np.where(np.arange(number) % 3 == 0, "female", "male").astype(object)
    sexes[7] = "unknown"
    return pd.DataFrame({"case_id": [f"c{index}" for index in range(number)], "sex": sexes})


def test_split_82_draws_as_train_test_split_does() -> None:
    table = frame()
    split = split_82(table, sex="sex")
    pd.testing.assert_series_equal(split_82(table[::-1], sex="sex"), split[::-1])
    for group in ("female", "male"):
        ids = np.unique(table.loc[table["sex"] == group, "case_id"].astype(str))
        number = min(int(0.2 * (table["sex"] == name).sum()) for name in ("female", "male"))
        _, test = train_test_split(ids, test_size=number, random_state=0)
        assert set(table["case_id"][(split == "test") & (table["sex"] == group)]) == set(test)
    assert split[7] == "train"


def test_split_82_by_patient_keeps_patients_together() -> None:
    table = frame().assign(patient_id=[f"p{index // 3}" for index in range(103)], sex=lambda t: t["patient_id"])
    table["sex"] = table["patient_id"].map(lambda name: "female" if int(name[1:]) % 2 else "male")
    split = split_82(table, sex="sex", unit="patient_id")
    assert split.groupby(table["patient_id"]).nunique().max() == 1
    assert (split == "test").any()


def test_balanced_subset_has_as_many_of_each_group() -> None:
    table = frame().assign(split=["test" if index % 2 else "train" for index in range(103)])
    chosen = balanced_subset(table, table["sex"], seed=3)
    picked = table[chosen == 1]
    assert picked["split"].unique().tolist() == ["test"]
    assert len(set(picked["sex"].value_counts())) == 1
    assert "unknown" not in set(picked["sex"])
    assert not chosen.equals(balanced_subset(table, table["sex"], seed=4))
    assert balanced_subset(table.assign(split="train"), table["sex"]).sum() == 0
