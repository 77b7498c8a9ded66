from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from fairmedfm_monai.cli.main import main
from fairmedfm_monai.mitigation.postprocess import Postprocess
from tests.mitigation.scored import scored, table_of


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "table.csv"
    table, _ = table_of(scored(800))
    table["age"] = table["age"].mask(table.index % 9 == 0)
    table.to_csv(path, index=False)
    return path


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", *arguments])
    printed = capsys.readouterr()
    return int(stop.value.code or 0), printed.out, printed.err


def flags(csv: Path, *more: str) -> list[str]:
    return [str(csv), "--attributes", "age,sex", "--split", "split", "--n_bootstrap", "30", *more]


def read(folder: Path) -> dict[tuple[str, tuple[str, str, str]], float]:
    table = pd.read_csv(folder / "disparities.csv")
    what = list(zip(table["attribute"], table["metric"], table["statistic"], strict=True))
    return dict(zip(zip(table["split"], what, strict=True), table["value"], strict=True))


def test_mitigated_report_stands_beside_the_one_before(
    capsys: pytest.CaptureFixture[str], csv: Path, tmp_path: Path
) -> None:
    plain, mine = tmp_path / "plain", tmp_path / "mine"
    assert call(capsys, *flags(csv, "--output", str(plain)))[0] == 0
    wanted = ["--mitigation", "threshold_per_group", "--mitigation_attributes", "age"]
    code, out, err = call(capsys, *flags(csv, "--output", str(mine), *wanted, "--mitigation_options", "{target: 0.8}"))
    assert code == 0, err
    before = mine / "before"
    assert (before / "subgroups.csv").read_bytes() == (plain / "subgroups.csv").read_bytes()
    gap = ("age", "specificity", "gap")
    assert read(mine)["val", gap] < read(before)["val", gap]
    told = f"gap by age {read(before)['test', gap]:.3f} before and {read(mine)['test', gap]:.3f} after"
    assert f"Specificity, test: {told}" in out
    for file in ("report.html", "model_card.md", "predictions.parquet", "before/report.html"):
        assert str(mine / file) in out
    run = json.loads((mine / "run.json").read_text(encoding="utf-8"))
    assert run["mitigation"]["fitted_on"] == "val"
    assert run["mitigation"]["needs_attribute_at_inference"] is True
    assert run["mitigation"]["options"]["target"] == 0.8
    unknown = run["mitigation"]["pooled_cases"]["test"]["groups"]["unknown"]
    for file in ("report.html", "model_card.md"):
        text = (mine / file).read_text(encoding="utf-8")
        assert "must be told the age of each patient" in text
        assert f"(unknown {unknown})" in text
        assert "not fitted anew for intervals" in text
    assert "mitigation" not in json.loads((before / "run.json").read_text(encoding="utf-8"))
    fitted = Postprocess.from_json(run["mitigation"])
    table = pd.read_parquet(mine / "predictions.parquet")
    done = fitted.apply(table["score"], table["age"])
    assert (done.thresholds == table["threshold"]).all()
    # The mitigated predictions are a table like any other: the same report without a flag.
    again = tmp_path / "again"
    assert call(capsys, str(mine / "predictions.parquet"), "--n_bootstrap", "30", "--output", str(again))[0] == 0
    assert (again / "subgroups.csv").read_bytes() == (mine / "subgroups.csv").read_bytes()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--mitigation", "group_dro"], "must be one of the methods below, but got 'group_dro'"),
        (["--mitigation", "equalised_odds", "--mitigation_attributes", "race"], "expected some of age, sex"),
        (["--mitigation", "equalised_odds", "--mitigation_options", "7"], "must be a mapping such as"),
        (["--mitigation", "threshold_per_group", "--operating_point", "0.5"], "both set thresholds; give one"),
        (["--mitigation_attributes", "age"], "name a `--mitigation` too"),
    ],
)
def test_what_cannot_be_done_is_said(
    capsys: pytest.CaptureFixture[str], csv: Path, tmp_path: Path, more: list[str], message: str
) -> None:
    code, _, err = call(capsys, *flags(csv, "--output", str(tmp_path / "out"), *more))
    assert code == 3
    assert message in err
    assert not (tmp_path / "out").exists()


def test_missing_fairlearn_is_no_crash(
    capsys: pytest.CaptureFixture[str], csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fairlearn.postprocessing", None)
    code, _, err = call(capsys, *flags(csv, "--output", str(tmp_path / "out"), "--mitigation", "equalised_odds"))
    assert code == 3
    assert "pip install fairlearn" in err
