from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from fairmedfm_monai.data.checks import count_groups, describe, validate_folder
from fairmedfm_monai.data.dataset import load_dataset

Make = Callable[..., Path]


def test_good_folder(make_folder: Make, rows: pd.DataFrame, card_dict: dict[str, Any]) -> None:
    report = validate_folder(make_folder(rows, card_dict))
    assert report.ok
    assert report.errors == []
    assert "toy: classification, xray, 2D, 12 cases of 6 patients, resampling unit patient" in report.summary
    assert str(report).endswith(f"ok: 0 errors, {len(report.warnings)} warnings")
    assert "split 'val': sex 'male' has no case: its metrics will be undefined" in report.warnings


def test_counts_add_up(make_folder: Make, rows: pd.DataFrame, card_dict: dict[str, Any]) -> None:
    info = load_dataset(make_folder(rows, card_dict))
    counts = count_groups(info)
    for (split, attribute), part in counts.groupby(["split", "attribute"]):
        assert part["cases"].sum() == (rows["split"] == split).sum(), (split, attribute)
    women = counts[(counts["split"] == "train") & (counts["group"] == "female")].iloc[0]
    assert (women["patients"], women["cases"], women["no_finding"], women["finding"]) == (1, 2, 1, 1)
    unknown = counts[(counts["split"] == "test") & (counts["group"] == "unknown")]
    assert unknown["cases"].tolist() == [2, 2]
    assert "unknown" in describe(info)


def test_all_errors_are_found(make_folder: Make, rows: pd.DataFrame, card_dict: dict[str, Any]) -> None:
    rows.loc[0, "split"] = "test"
    root = make_folder(rows, card_dict)
    (root / "images/c01.png").unlink()
    data = (root / "images/c02.png").read_bytes()
    (root / "images/c02.png").write_bytes(data[: len(data) // 2])
    report = validate_folder(root, deep=True)
    assert not report.ok
    assert len(report.errors) == 3
    text = str(report)
    assert "p0" in text
    assert "c01.png" in text
    assert "1 files cannot be read: images/c02.png" in text
    assert "not usable: 3 errors" in text
    assert len(validate_folder(root).errors) == 2


def test_broken_tables_are_reported_not_raised(
    make_folder: Make, rows: pd.DataFrame, card_dict: dict[str, Any]
) -> None:
    root = make_folder(rows.drop(columns=["label", "patient_id"]), card_dict)
    report = validate_folder(root)
    assert len(report.errors) == 2
    assert report.summary == ""


def test_no_folder(tmp_path: Path) -> None:
    report = validate_folder(tmp_path)
    assert not report.ok
    assert "is no dataset folder" in report.errors[0]


def test_broken_card(make_folder: Make, rows: pd.DataFrame, card_dict: dict[str, Any]) -> None:
    root = make_folder(rows, card_dict | {"task": "x"})
    assert len(validate_folder(root).errors) == 1
