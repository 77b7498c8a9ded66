from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairmedfm_monai.bundle.configs.common import TRAINED
from fairmedfm_monai.catalog import rows
from fairmedfm_monai.studies.cell import UNTRAINED
from fairmedfm_monai.studies.cells import study_cells
from fairmedfm_monai.studies.spec import Column, Dataset, Mitigation, Model, Study, load_study, study_names
from fairmedfm_monai.studies.spec_checks import STATISTICS
from fairmedfm_monai.studies.spec_reading import read_study
from tests.studies.small import SIZES, small_study

Change = Callable[[dict[str, Any]], object]


def read(content: Any) -> Study:
    return read_study(content, origin="small.json")


def test_parts_become_dataclasses() -> None:
    study = read(small_study())
    assert study.datasets["made"] == Dataset(demo="xray", options=SIZES)
    assert study.grids[0].fms == (Model(name="demo_clip"), Model(name="clip", variant="ViT-B-16-quickgelu"))
    assert study.grids[0].mitigations[0] == Mitigation(name="erm")
    assert study.grids[0].mitigations[2].attributes == ("sex", "age")
    assert study.tables[0].columns[1] == Column(title="gap", metric="auc", attribute="sex", statistic="gap")
    assert study.grids[1].seeds == (0,)
    assert [choice.what for choice in study.ours] == ["epochs"]


@pytest.mark.parametrize("name", study_names())
def test_studies_of_the_package_can_be_read(name: str) -> None:
    study = load_study(name)
    assert study.name == name
    assert study_cells(study)


def test_a_users_own_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    file.write_text(json.dumps(small_study()), encoding="utf-8")
    assert load_study(file) == read(small_study())


def test_unknown_names_and_broken_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"`name` must be a study \(.*\) or the path of a study file, but got 'nothing'"
    ):
        load_study("nothing")
    file = tmp_path / "broken.json"
    file.write_text('{"name": ', encoding="utf-8")
    with pytest.raises(ValueError, match="no valid JSON"):
        load_study(file)


FAULTS: dict[str, tuple[Change, str]] = {
    "unknown key": (lambda s: s.update(tabels=[]), "has no key 'tabels'; did you mean 'tables'?"),
    "missing key": (lambda s: s.pop("title"), "the key 'title' is missing"),
    "unknown key inside": (
        lambda s: s["grids"][0].update(seed=1),
        "grids[0]: has no key 'seed'; did you mean 'seeds'?",
    ),
    "wrong kind": (lambda s: s["grids"][0].update(seeds="0"), "grids[0].seeds: must be a list of whole numbers"),
    "no list": (lambda s: s.update(tables={}), "tables: must be a list"),
    "FM": (lambda s: s["grids"][0].update(fms=["clipp"]), "but got 'clipp'; did you mean"),
    "variant": (lambda s: s["grids"][0].update(fms=[{"name": "clip", "variant": "B"}]), "grids[0].fms.clip.variant"),
    "usage": (lambda s: s["grids"][0].update(usages=["linear"]), "grids[0].usages: each must be one of"),
    "method": (lambda s: s["grids"][0].update(mitigations=["group_drop"]), "did you mean 'group_dro'?"),
    "option of a method": (
        lambda s: s["grids"][0].update(mitigations=[{"name": "group_dro", "options": {"etta": 1}}]),
        "group_dro has no option 'etta'",
    ),
    "option after training": (
        lambda s: s["grids"][0].update(mitigations=["erm", {"name": "equalised_odds", "options": {"rulle": 1}}]),
        "equalised_odds has no option 'rulle'",
    ),
    "start_from": (
        lambda s: s["grids"][0].update(mitigations=[{"name": "group_dro", "attributes": ["sex"], "start_from": "erm"}]),
        "starts from 'erm', but no cell",
    ),
    "dataset": (lambda s: s["grids"][0].update(datasets=["xray"]), "grids[0].datasets: each must be one of made"),
    "task": (lambda s: s["grids"][0].update(datasets=["lungs"]), "'lungs' is for segmentation"),
    "release": (lambda s: s["datasets"]["lungs"].update(release="lungs"), "datasets.lungs.release: it must be one of"),
    "protocol": (
        lambda s: s["datasets"]["lungs"].update(options={"protocol": "none"}),
        "datasets.lungs.options: `protocol` of montgomery must be one of",
    ),
    "both sources": (lambda s: s["datasets"]["lungs"].update(demo="xray"), "must have either `release` or `demo`"),
    "demo": (lambda s: s["datasets"]["made"].update(demo="mri"), "must be one of xray, ct2d, ct3d, ct-nodules"),
    "demo option": (lambda s: s["datasets"]["made"].update(options={"n": 1}), "each option must be one of seed, "),
    "bias": (
        lambda s: s["datasets"].update(ct={"demo": "ct2d", "bias": "shortcut"}),
        "datasets.ct.bias: it must be one of degrade, none",
    ),
    "metric": (lambda s: s["tables"][0]["columns"][0].update(metric="auk"), "tables[0].columns[0].metric"),
    "statistic": (lambda s: s["figures"][0]["gap"].update(statistic="gapp"), "figures[0].gap.statistic"),
    "statistic without attribute": (
        lambda s: s["tables"][0]["columns"][0].update(statistic="gap"),
        "a `statistic` is about an `attribute`",
    ),
    "rows": (lambda s: s["tables"][0].update(rows=["model"]), "tables[0].rows: each must be one of dataset"),
    "where": (lambda s: s["tables"][0].update(where={"fm": ["clip", "klip"]}), "tables[0].where.fm"),
    "figure": (lambda s: s["figures"][0].update(kind="pie"), "figures[0].kind: it must be one of tradeoff"),
    "figure's columns": (lambda s: s["figures"][0].pop("gap"), "a figure of kind 'tradeoff' needs `gap`"),
    "source": (
        lambda s: s["choices"][0].update(source="mine"),
        "choices[0].source: it must be one of paper, code, ours",
    ),
    "published": (lambda s: s["published"][0].pop("source"), "published[0]: the key 'source' is missing"),
    "setting": (lambda s: s["grids"][0].update(train={"epoch": 1}), "has no key 'epoch'; did you mean 'epochs'?"),
    "setting of the study": (lambda s: s["grids"][0].update(train={"seed": 1}), "which the study itself sets"),
    "same key": (
        lambda s: s["grids"].append({**s["grids"][0], "usages": ["linear_probe"], "train": {"epochs": 9}}),
        "give one of them a `label`",
    ),
    "name": (lambda s: s.update(name="a b"), "name: must consist of letters"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_told_with_place_and_choice(fault: str) -> None:
    change, told = FAULTS[fault]
    content = small_study()
    change(content)
    with pytest.raises(ValueError, match=r"study small\.json:") as caught:
        read(content)
    assert told in str(caught.value)


def test_all_faults_are_told_at_once() -> None:
    content = small_study()
    content["grids"][0]["usages"] = ["linear"]
    content["tables"][0]["rows"] = ["model"]
    with pytest.raises(ValueError, match=r"(?s)grids\[0\]\.usages.*tables\[0\]\.rows"):
        read(content)


@pytest.mark.parametrize("content", [[], None, "study"])
def test_other_json_is_no_study(content: Any) -> None:
    with pytest.raises(ValueError, match="must be an object"):
        read(content)


def test_every_usage_of_the_catalog_is_trained_or_not() -> None:
    usages = {usage for row in rows().values() for usage in row.usages}
    assert usages == {*TRAINED, *UNTRAINED}


def test_statistics_are_those_of_the_reports() -> None:
    from fairmedfm_monai.fairness.disparities import ODDS_OVER_CLASSES, ODDS_STATISTICS, statistics_of
    from fairmedfm_monai.fairness.registry import METRICS

    reported = {name for metric in METRICS.values() for name in statistics_of(metric)} | {
        *ODDS_STATISTICS,
        ODDS_OVER_CLASSES,
    }
    assert reported == set(STATISTICS)
