"""The workflow's own run by Snakemake is in scripts/test_integrations.sh; here is what it is made of."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from fairmedfm_monai.studies.cell import Cell
from fairmedfm_monai.studies.plan import DONE, FAILED, LEFT_OUT, NO_DATA, NOT_OFFERED, READY, PlannedCell
from fairmedfm_monai.studies.snakemake import export_workflow

COMMAND = ["study", "small", "--output=/a folder/out", '--overrides={"train": {"epochs": 1}}']


def planned(fm: str, status: str, *, mitigation: str = "erm", base: str | None = None, seconds: float = 0.0):
    cell = Cell(dataset="made", task="classification", fm=fm, usage="lora", mitigation=mitigation, base=base)
    return PlannedCell(cell, status, "", Path("data"), seconds, "hash")


@pytest.fixture
def content(tmp_path: Path) -> dict:
    first = planned("clip", READY, seconds=7200.0)
    plan = [
        first,
        planned("clip", FAILED, mitigation="equalised_odds", base=first.cell.key),
        planned("dinov2", DONE),
        planned("plip", NO_DATA),
        planned("flair", NOT_OFFERED),
        planned("blip", LEFT_OUT),
    ]
    snakefile = export_workflow(plan, tmp_path / "flow", output=tmp_path / "out", command=COMMAND)
    assert snakefile == tmp_path / "flow" / "Snakefile"
    return json.loads((tmp_path / "flow" / "plan.json").read_text(encoding="utf-8"))


def test_jobs_are_the_cells_that_can_run_after_what_they_build_on(content: dict, tmp_path: Path) -> None:
    base, after, done = "made/clip/lora/erm/seed0", "made/clip/lora/equalised_odds/seed0", "made/dinov2/lora/erm/seed0"
    assert set(content["cells"]) == {base, after, done}
    assert content["cells"][after]["after"] == [content["done"].format(key=base)]
    assert content["cells"][base]["after"] == []
    assert content["done"].format(key=base) == str(tmp_path / "out" / "cells" / base / "done.json")
    assert content["cells"][base]["minutes"] == 360
    assert content["cells"][done]["minutes"] == 30


def test_the_command_survives_the_shell(content: dict) -> None:
    assert shlex.split(content["command"]) == [sys.executable, "-m", "fairmedfm_monai", *COMMAND]


def test_the_files_are_valid(content: dict, tmp_path: Path) -> None:
    local = yaml.safe_load((tmp_path / "flow" / "profiles" / "local" / "config.yaml").read_text(encoding="utf-8"))
    slurm = yaml.safe_load((tmp_path / "flow" / "profiles" / "slurm" / "config.yaml").read_text(encoding="utf-8"))
    assert local["keep-going"] is True
    assert slurm["executor"] == "slurm"
    assert all("=" in resource for resource in slurm["default-resources"])
    assert content["page"] == str(tmp_path / "out" / "index.html")


def test_a_plan_without_runnable_cells_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no cell of this plan can run"):
        export_workflow([planned("plip", NO_DATA)], tmp_path, output=tmp_path, command=COMMAND)
    assert not (tmp_path / "Snakefile").exists()
