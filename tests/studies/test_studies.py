"""The studies of this package from their files to their pages, on made data with tiny weights and few epochs."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fairmedfm_monai.cli.main import main
from tests.miniatures import fairseg, nih_chestxray14

Change = Callable[[dict[str, Any]], None]


def changed(name: str, folder: Path, change: Change) -> Path:
    """A study of this package with less to do."""
    content = json.loads(
        (files("fairmedfm_monai.studies") / "definitions" / f"{name}.json").read_text(encoding="utf-8")
    )
    change(content)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def ended(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def results(study: Path, output: Path, *options: str | Path) -> pd.DataFrame:
    """The long table after a whole call."""
    assert ended("study", study, "--output", output, "--n_bootstrap", "20", "--tracking_uri", "off", *options) == 0
    page = (output / "index.html").read_text(encoding="utf-8")
    assert json.loads(study.read_text())["title"] in page
    return pd.read_parquet(output / "results.parquet")


def values(table: pd.DataFrame, **where: Any) -> pd.Series:
    """Values of the rows that the fields select."""
    for field, wanted in where.items():
        table = table[table[field] == wanted]
    return table["value"]


def fewer_epochs(content: dict[str, Any]) -> None:
    grid = content["grids"][0]
    grid["train"] |= {"epochs": 3, "stop_epoch": 2, "batch_size": 8, "warmup_steps": 2}
    for method in grid["mitigations"]:
        if "train" in method:
            method["train"] |= {"epochs": 2, "stop_epoch": 1, "batch_size": 8}


def test_fairseg(tmp_path: Path) -> None:
    raw = fairseg.make(tmp_path / "raw")
    ready = tmp_path / "data" / "fairseg"
    assert ended("prepare", "fairseg", "--source", raw, "--output", ready, "--protocol", "fairseg") == 0
    study = changed("fairseg", tmp_path, fewer_epochs)
    only = "*/erm/*,*/febs-race/*,*/febs_published-race/*"
    table = results(
        study, tmp_path / "out", "--data", tmp_path / "data", "--weights", "tiny", "--only", only, "--jobs", "1"
    )
    done = table[table["status"] == "done"]
    assert sorted(done["mitigation"].unique()) == ["erm", "febs", "febs_published"]
    assert (table[table["attributes"] == "sex"]["status"] == "left out").all()
    for method in ("erm", "febs", "febs_published"):
        for label in ("rim", "cup", "disc"):
            chosen = {"mitigation": method, "label": label, "split": "test"}
            assert len(values(done, **chosen, metric="hd95", attribute="overall", group="all")) == 1
            assert len(values(done, **chosen, metric="nsd", attribute="overall", group="all")) == 1
            for statistic in ("es_sum", "es_std", "es_std_sample"):
                assert len(values(done, **chosen, metric="dice", attribute="race", statistic=statistic)) == 1
                assert len(values(done, **chosen, metric="iou", attribute="race", statistic=statistic)) == 1


def one_model(content: dict[str, Any]) -> None:
    for grid in content["grids"]:
        grid["fms"] = grid["fms"][:1]
        grid |= {"seeds": [0]}
        if "linear_probe" in grid["usages"]:
            grid["train"] = {**grid.get("train", {}), "epochs": 1}


def test_xray_clip(tmp_path: Path) -> None:
    raw = nih_chestxray14.make(tmp_path / "raw", patients=120)
    ready = tmp_path / "data" / "nih_six"
    assert ended("prepare", "nih_chestxray14", "--source", raw, "--output", ready, "--rule", "six_diseases") == 0
    study = changed("xray_clip", tmp_path, one_model)
    table = results(study, tmp_path / "out", "--data", tmp_path / "data", "--weights", "tiny", "--jobs", "1")
    usages = ["full_finetune", "linear_probe", "lora", "mlp_probe", "zero_shot"]
    assert sorted(table["usage"].unique()) == usages
    assert (table["status"] == "done").all()
    test = table[table["split"] == "test"]
    for usage in usages:
        over_all = {"usage": usage, "label": "", "attribute": "overall", "group": "all"}
        for metric in ("accuracy", "f1", "f1_variance", "ece_top_label"):
            assert len(values(test, **over_all, metric=metric)) == 1
        of_classes = test[(test["usage"] == usage) & (test["label"] != "") & (test["attribute"] == "overall")]
        assert of_classes[of_classes["metric"] == "f1"]["label"].nunique() == 6
        for attribute in ("sex", "age"):
            chosen = {"usage": usage, "label": "", "attribute": attribute}
            assert len(values(test, **chosen, metric="f1", statistic="gap")) == 1
            assert len(values(test, **chosen, metric="ece_top_label", statistic="gap")) == 1
            assert len(values(test, **chosen, statistic="equalized_odds_class_mean")) == 1


def smaller(content: dict[str, Any]) -> None:
    for dataset in content["datasets"].values():
        few = {"n_train": 12, "n_val": 12, "n_test": 24}
        dataset["options"] = {**dataset.get("options", {}), **few}
    for grid in content["grids"]:
        if "train" in grid:
            grid["train"] |= {"epochs": 1, "val_interval": 1}


REDUCED = "xray-*/*/zero_shot/*,xray-*/*/linear_probe/*,ct-*/*/prompted/*"


@pytest.mark.parametrize("only", [REDUCED, pytest.param("*", marks=pytest.mark.full)])
def test_demo(tmp_path: Path, only: str) -> None:
    study = changed("demo", tmp_path, smaller)
    output = tmp_path / "out"
    table = results(study, output, "--weights", "tiny", "--only", only, "--jobs", "2")
    assert set(table["status"]) <= {"done", "left out"}
    wanted = {"zero_shot", "linear_probe", "prompted"} if only == REDUCED else set(table["usage"])
    assert set(table[table["status"] == "done"]["usage"]) == wanted
    content = json.loads(study.read_text())
    assert {path.stem for path in (output / "tables").glob("*.csv")} == {one["name"] for one in content["tables"]}
    assert len(list((output / "figures").glob("*.svg"))) == len(content["figures"])
