"""Processes that run cells: how they end and what they share."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

import mlflow
import pytest

from fairmedfm_monai.studies import workers as working
from fairmedfm_monai.studies.execute import Setting
from fairmedfm_monai.studies.jobs import Job, job_folder, state
from fairmedfm_monai.studies.tracking import open_parent
from fairmedfm_monai.studies.workers import Workers
from tests.studies.study_cells import planned


def test_a_cell_is_interrupted_in_order_and_its_process_ends(tmp_path: Path, xray_dir: Path, tracking_uri: str) -> None:
    """What Ctrl-C does: the cell counts as interrupted, its MLflow run ends, its training can go on."""
    tracking = open_parent(tmp_path, "stopped", tracking_uri=tracking_uri)
    endless = planned(xray_dir, train={"epochs": 10_000})
    folder = job_folder(tmp_path, endless.cell.key)
    with Workers(1, Setting(output=tmp_path, weights="tiny", n_bootstrap=10, tracking=tracking)) as workers:
        assert workers.free == 1
        workers.submit(endless)
        assert workers.free == 0
        deadline = time.monotonic() + 240
        while not (folder / "train" / "progress.pt").is_file():
            assert workers.wait(0.1) == []
            assert time.monotonic() < deadline
    assert multiprocessing.active_children() == []
    assert state(folder, endless.settings_hash) == "interrupted"
    client = mlflow.MlflowClient(tracking_uri=tracking_uri)
    experiment = client.get_experiment_by_name(tracking.experiment)
    children = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{tracking.parent}'")
    assert len(children) == 1
    assert children[0].info.status in {"KILLED", "FAILED"}  # by where the signal came: between or in Ignite's handlers


class Deaf:
    """Stands for a process that has to be killed: it ends nothing in order."""

    alive = True

    def __init__(self, *_: object) -> None:
        self.joined = False

    def begin(self, planned: object) -> None: ...

    def stop(self) -> None: ...

    def join(self, seconds: float) -> None:
        self.joined = True


def test_the_run_of_a_process_that_had_to_be_killed_ends(
    tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = open_parent(tmp_path, "killed", tracking_uri=tracking_uri)
    cell = planned(tmp_path, label="deaf")
    client = mlflow.MlflowClient(tracking_uri=tracking_uri)
    experiment = client.get_experiment_by_name(tracking.experiment)
    tags = {"mlflow.parentRunId": tracking.parent, "cell": cell.cell.key}
    run = client.create_run(experiment.experiment_id, tags=tags).info.run_id
    monkeypatch.setattr(working, "_Worker", Deaf)
    with Workers(1, Setting(output=tmp_path, weights="tiny", n_bootstrap=10, tracking=tracking)) as workers:
        workers.submit(cell)
        assert client.get_run(run).info.status == "RUNNING"
    assert client.get_run(run).info.status == "KILLED"


def test_at_least_one_process_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`jobs` must be a number of processes, 1 or more, but got 0"):
        Workers(0, Setting(output=tmp_path))


@pytest.mark.parametrize(("given", "number", "threads"), [("", 2, 4), ("", 16, 1), ("3", 2, 3), ("64", 1, 8)])
def test_processes_share_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, number: int, threads: int
) -> None:
    monkeypatch.setattr(working, "usable_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert Workers(number, Setting(output=tmp_path)).threads == threads


@pytest.mark.parametrize(
    ("code", "told"), [(-9, "signal 9 (SIGKILL), as the system does when memory runs out"), (3, "exit code 3")]
)
def test_a_process_that_died_fails_its_cell_unless_that_was_done(tmp_path: Path, code: int, told: str) -> None:
    cell, setting = planned(tmp_path), Setting(output=tmp_path)
    job = Job(job_folder(tmp_path, cell.cell.key), cell.settings_hash)
    job.start(cell.cell.to_json(), {})
    outcome = working._died(cell, setting, code)
    assert outcome.status == "failed"
    assert outcome.message == f"process: its process ended by {told}"
    assert json.loads((job.folder / "failed.json").read_text())["error"] == f"its process ended by {told}"
    job.finish({})
    assert working._died(cell, setting, code).status == "done"
