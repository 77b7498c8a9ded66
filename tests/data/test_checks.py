from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fairmedfm_monai.cli.main import main
from fairmedfm_monai.data.checks import count_groups, describe, validate_folder
from fairmedfm_monai.data.dataset import load_dataset

Make = Callable[..., Path]


def test_good_folder(make_folder: Make, rows: pd.DataFrame, card_dict: dict[str, Any]) -> None:
    report = validate_folder(make_folder(rows, card_dict))
    assert report.ok
    assert report.errors == []
    assert "toy: classification, xray, 2D, 12 cases of 6 patients, resampling unit patient" in report.summary
    assert f"\nok: 0 errors, {len(report.warnings)} warnings\nno image was opened: " in str(report)
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
    shallow = validate_folder(root)
    assert len(shallow.errors) == 2
    assert f"no image was opened: `python -m fairmedfm_monai validate {root} --deep`" in str(shallow).splitlines()[-1]
    assert str(report).endswith("images and masks were opened")


def test_broken_tables_are_reported_not_raised(
    make_folder: Make, rows: pd.DataFrame, card_dict: dict[str, Any]
) -> None:
    root = make_folder(rows.drop(columns=["label", "patient_id"]), card_dict)
    report = validate_folder(root)
    assert len(report.errors) == 2
    assert report.summary == ""


def test_deep_opens_what_can_be_opened(make_folder: Make, rows: pd.DataFrame, card_dict: dict[str, Any]) -> None:
    root = make_folder(rows, card_dict)
    assert validate_folder(root, deep=True, workers=2).ok
    (root / "images/c03.png").write_bytes(b"")
    (root / "images/c04.png").unlink()
    errors = validate_folder(root, deep=True, workers=2).errors
    assert len(errors) == 2
    assert "1 of 12 files of column 'image' are missing: images/c04.png" in errors[0]
    assert errors[1] == "1 files cannot be read: images/c03.png (the file is empty)"


def test_a_made_split_is_told(make_folder: Make, rows: pd.DataFrame, card_dict: dict[str, Any]) -> None:
    report = validate_folder(make_folder(rows.drop(columns="split"), card_dict))
    assert report.ok
    assert any("the manifest has no column 'split'" in warning for warning in report.warnings)


def test_the_command(
    make_folder: Make, rows: pd.DataFrame, card_dict: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(rows, card_dict)

    def call(*arguments: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["validate", str(root), *arguments])
        return ended.value.code, *capfd.readouterr()

    code, out, err = call()
    assert (code, err) == (0, "")
    assert "--deep` opens every one" in out
    code, out, err = call("--deep", "--workers", "1")
    assert code == 0
    assert "12/12" in err
    assert "--deep" not in out
    (root / "images/c00.png").write_bytes(b"")
    assert [call()[0], call("--deep")[0]] == [0, 1]
    for wrong in (("--quick",), ("--deep", "yes"), ("--deep", "--workers=0")):
        assert call(*wrong)[0] == 3, wrong


def test_no_folder(tmp_path: Path) -> None:
    report = validate_folder(tmp_path)
    assert not report.ok
    assert "is no dataset folder" in report.errors[0]


def test_broken_card(make_folder: Make, rows: pd.DataFrame, card_dict: dict[str, Any]) -> None:
    root = make_folder(rows, card_dict | {"task": "x"})
    assert len(validate_folder(root).errors) == 1
