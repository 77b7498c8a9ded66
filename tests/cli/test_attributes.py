"""How well attributes can be read from features."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from fairmedfm_monai.catalog import find_row
from fairmedfm_monai.cli.attributes import (
    COLUMNS,
    PENALTIES,
    Features,
    attribute_table,
    probe_attribute,
    shown,
    write_attributes,
)
from fairmedfm_monai.data import DatasetInfo, load_dataset
from fairmedfm_monai.data.home import home
from tests.bundle.runs import run as run_bundle
from tests.bundle.usage_bundles import write_bundle


@pytest.fixture(scope="module")
def info(xray_dir: Path) -> DatasetInfo:
    return load_dataset(xray_dir)


def features(count: int, *, strength: float, seed: int, attribute: str = "sex") -> Features:
    """Two groups, a shift between them and three cases per patient."""
    rng = np.random.default_rng(seed)
    group = (np.arange(count) // 3) % 2
    matrix = rng.normal(size=(count, 5)) + strength * group[:, None] * np.eye(1, 5)
    table = pd.DataFrame(
        {
            attribute: np.where(group, "male", "female"),
            "patient_id": [f"p{index // 3}" for index in range(count)],
            "race": np.where(group, "white", "asian"),
        }
    )
    return Features(torch.tensor(matrix, dtype=torch.float32), table)


def test_an_attribute_in_the_features_is_read_as_scikit_learn_reads_it(info: DatasetInfo) -> None:
    splits = {"train": features(90, strength=1.5, seed=0), "val": None, "test": features(120, strength=1.5, seed=1)}
    (row,) = probe_attribute(info, "sex", splits)
    train, test = splits["train"], splits["test"]
    mean, deviation = train.matrix.numpy().mean(0), train.matrix.numpy().std(0)
    scaled = [(part.matrix.numpy() - mean) / deviation for part in (train, test)]
    # Two logits with a penalty each: half as strong as one logit with the same.
    model = LogisticRegression(C=2 / (row["penalty"] * 90), tol=1e-8).fit(scaled[0], train.table["sex"] == "male")
    expected = roc_auc_score(test.table["sex"] == "male", model.decision_function(scaled[1]))
    assert row["value"] == pytest.approx(expected, abs=1e-3)
    assert 0.5 < row["ci_low"] < row["value"] < row["ci_high"] < 1
    assert (row["group"], row["unit"], row["n_patients"], row["n_cases"]) == ("all", "patient", 40, 120)


def test_an_attribute_that_is_not_there_is_around_one_half_and_intervals_count_patients(info: DatasetInfo) -> None:
    splits = {split: features(300, strength=0, seed=seed) for seed, split in enumerate(("train", "val", "test"))}
    (by_patient,) = probe_attribute(info, "sex", splits)
    assert by_patient["ci_low"] < 0.5 < by_patient["ci_high"]
    assert by_patient["penalty"] in PENALTIES
    repeated = splits | {"test": Features(splits["test"].matrix.repeat_interleave(4, 0), _fourfold(splits["test"]))}
    (again,) = probe_attribute(info, "sex", repeated)
    width = by_patient["ci_high"] - by_patient["ci_low"]
    assert again["n_cases"] == 1200
    assert again["ci_high"] - again["ci_low"] == pytest.approx(width, rel=0.05)
    (by_image,) = probe_attribute(_by_image(info), "sex", repeated)
    assert by_image["unit"] == "image"
    assert by_image["ci_high"] - by_image["ci_low"] < width * 0.7


def _fourfold(part: Features) -> pd.DataFrame:
    return part.table.loc[part.table.index.repeat(4)].reset_index(drop=True)


def _by_image(info: DatasetInfo) -> DatasetInfo:
    return replace(info, card=replace(info.card, unit="image"))


def test_groups_that_are_unknown_or_missing_in_training_are_left_out_with_a_reason(info: DatasetInfo) -> None:
    splits = {"train": features(60, strength=1, seed=0), "val": None, "test": features(60, strength=1, seed=1)}
    (row,) = probe_attribute(info, "race", splits)  # no "black" anywhere: two groups remain
    assert np.isfinite(row["value"])
    splits["test"].table.loc[:9, "sex"] = "unknown"
    (row,) = probe_attribute(info, "sex", splits)
    assert (row["n_unknown"], row["n_cases"]) == (10, 50)
    splits["train"].table["sex"] = "female"
    (row,) = probe_attribute(info, "sex", splits)
    assert np.isnan(row["value"])
    assert "fewer than two groups" in row["reason"]
    assert "not estimated: fewer than two groups" in "\n".join(
        shown(pd.DataFrame([row]), {"fm": "a", "variant": "b", "dataset": "c", "stamps": []})
    )


def test_the_command_shares_its_features_with_the_linear_probe(xray_dir: Path, tmp_path: Path) -> None:
    row = find_row("demo_clip")
    run_bundle(
        write_bundle("linear_probe", tmp_path),
        "train",
        weights="tiny",
        epochs=1,
        dataset_dir=str(xray_dir),
        tracking_uri="off",
    )
    before = set((home() / "features").rglob("shards/*/features.npy"))
    table, run = attribute_table(row, str(xray_dir), weights="tiny", device="cpu")
    new = set((home() / "features").rglob("shards/*/features.npy")) - before
    assert {path.parents[2] for path in new} <= {path.parents[2] for path in before}  # only `test`, which is new
    assert sum(len(np.load(path)) for path in new) <= 48
    assert list(table.columns) == list(COLUMNS)
    assert list(table["attribute"].unique()) == ["sex", "age", "race"]
    assert list(table[table["attribute"] == "race"]["group"]) == ["all", "white", "black", "asian"]
    finite = table["value"].dropna()
    assert len(finite)
    assert finite.between(0, 1).all()
    assert run["n"] == {"train": 24, "val": 24, "test": 48}
    files = write_attributes(table, run, tmp_path / "out")
    stored = pd.read_csv(files[0])
    assert stored["stamp"].str.contains("tiny random weights").all()
    assert json.loads(files[1].read_text(encoding="utf-8"))["fm"] == "demo_clip"
    assert "tiny random weights" in "\n".join(shown(table, run))


def test_only_chosen_attributes_and_only_possible_ones(xray_dir: Path) -> None:
    row = find_row("demo_clip")
    table, _ = attribute_table(row, str(xray_dir), weights="tiny", attributes=["age"], device="cpu")
    assert list(table["attribute"]) == ["age"]
    with pytest.raises(ValueError, match="no 'agee'; did you mean 'age'"):
        attribute_table(row, str(xray_dir), weights="tiny", attributes=["agee"])
    with pytest.raises(ValueError, match="'sam' is for segmentation"):
        attribute_table(find_row("sam"), str(xray_dir))
