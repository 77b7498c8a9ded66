"""Whole studies in processes of their own: failures, kills, features, second calls."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from fairmedfm_monai.studies.execute import Setting, execute
from fairmedfm_monai.studies.jobs import job_folder, read_done, read_failed, state
from fairmedfm_monai.studies.plan import PlannedCell
from fairmedfm_monai.studies.run import run_study
from fairmedfm_monai.studies.spec import Study
from tests.studies.study_cells import STUDY, planned, results, to_be_killed

# What a user's call is, with a plan that needs no study file.
CALL = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.studies.study_cells import STUDY, to_be_killed
from fairmedfm_monai.studies.run import run_study

if __name__ == "__main__":
    output, data = map(Path, sys.argv[1:])
    done = run_study(STUDY, to_be_killed(data), output=output, weights="tiny", n_bootstrap=10, tracking_uri="off")
    sys.exit(0 if done else 1)
"""


def call(plan: Sequence[PlannedCell], output: Path, *, tracking_uri: str = "off") -> bool:
    return run_study(STUDY, plan, output=output, weights="tiny", n_bootstrap=10, jobs=2, tracking_uri=tracking_uri)


def encodings(home: Path) -> list[str]:
    """Content keys of all images that were ever encoded, as often as they were."""
    return [key for file in home.glob("features/*/shards/*/keys.json") for key in json.loads(file.read_text())]


def test_a_study_goes_on_after_failures_and_encodes_once(
    tmp_path: Path, xray_dir: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("FAIRMEDFM_HOME", str(tmp_path / "home"))
    output = tmp_path / "study"
    good = [planned(xray_dir, seed=seed, label="twin") for seed in (0, 1)]
    died = planned(
        xray_dir, label="died", train={"num_workers": "$__import__('os').kill(__import__('os').getpid(), 9)"}
    )
    after_good = planned(
        xray_dir, label="twin", mitigation="temperature_per_group", attributes=("sex",), base=good[0].cell.key, train={}
    )
    after_bad = planned(xray_dir, label="after", base=died.cell.key)
    nowhere = planned(xray_dir, label="nowhere", status="no data")
    plan = [*good, died, after_good, after_bad, nowhere]
    assert not call(plan, output, tracking_uri=tracking_uri)

    told = capfd.readouterr().out
    assert "3 cells done, 1 failed, 1 not run" in told
    assert f"FAILED {died.cell.key}: process: its process ended by signal 9 (SIGKILL)" in told
    assert f"not run {after_bad.cell.key}: base not ready: {died.cell.key} (failed)" in told
    for cell in (*good, after_good):
        assert read_done(job_folder(output, cell.cell.key))["failed_cases"] == 0
    assert read_failed(job_folder(output, died.cell.key))["stage"] == "process"
    assert not job_folder(output, after_bad.cell.key).exists()
    assert not job_folder(output, nowhere.cell.key).exists()

    keys = encodings(tmp_path / "home")
    assert len(keys) == len(set(keys)) == 24 + 24 + 48

    parent = next(iter(json.loads((output / "study.json").read_text())["mlflow"].values()))
    client = mlflow.MlflowClient(tracking_uri=tracking_uri)
    assert client.get_run(parent).info.status == "FAILED"
    experiment = client.get_experiment_by_name("fairmedfm-study-toy")
    children = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert {run.data.tags["cell"] for run in children} == {cell.cell.key for cell in (*good, after_good)}

    with pytest.raises(ValueError, match="holds the study 'toy'"):
        run_study(Study(name="other", title="", datasets={}, grids=()), [], output=output)
    done = [planned(xray_dir, seed=seed, label="twin", status="done") for seed in (0, 1)]
    monkeypatch.setattr("fairmedfm_monai.studies.run.Workers", lambda *_: pytest.fail("nothing is to be run"))
    assert call(done, output)


def test_a_study_that_is_killed_ends_as_one_that_is_not(tmp_path: Path, xray_dir: Path) -> None:
    """kill -9 in the middle of a training, then the same call again: equal to the bit."""
    script = tmp_path / "call.py"
    script.write_text(CALL.format(root=str(Path(__file__).parents[2])))
    command = [sys.executable, str(script), str(tmp_path / "killed"), str(xray_dir)]
    plan = to_be_killed(xray_dir)
    folders = [job_folder(tmp_path / "killed", cell.cell.key) for cell in plan]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        _wait_for(folders[0] / "train" / "progress.pt", process)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert state(folders[0], plan[0].settings_hash) == "interrupted"
    assert state(folders[1], plan[1].settings_hash) == "new"
    subprocess.run(command, check=True, stdout=subprocess.PIPE)
    assert read_done(folders[0])["resumed"]
    assert not read_done(folders[1])["resumed"]

    whole = Setting(output=tmp_path / "whole", weights="tiny", n_bootstrap=10)
    for cell in plan:
        assert execute(cell, whole).status == "done"
        pairs = zip(
            results(tmp_path / "killed", cell.cell.key), results(tmp_path / "whole", cell.cell.key), strict=True
        )
        for ours, theirs in pairs:
            pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


def _wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not file.is_file():
        assert process.poll() is None, "the study ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
