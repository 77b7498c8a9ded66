"""The state of a cell is what its files say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fairmedfm_monai.studies.jobs import Job, job_folder, read_done, read_failed, settings_hash, state

CELL = {"dataset": "xray"}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    made = Job(job_folder(tmp_path, "xray/clip/lora/erm/seed0"), "a" * 16)
    made.start(CELL, {"weights": "tiny"})
    return made


def test_a_hash_knows_values_but_not_the_order_of_keys() -> None:
    one = settings_hash({"a": 1, "b": {"c": [1, 2]}})
    assert one == settings_hash({"b": {"c": [1, 2]}, "a": 1})
    assert one != settings_hash({"a": 1, "b": {"c": [2, 1]}})
    assert len(one) == 16


def test_the_state_follows_the_files(job: Job, tmp_path: Path) -> None:
    assert state(tmp_path / "cells" / "other", job.hash) == "new"
    assert state(job.folder, job.hash) == "interrupted"
    job.log.write_text("\n".join(f"line {number}" for number in range(100)))
    job.fail("train", "ValueError: no")
    assert state(job.folder, job.hash) == "failed"
    assert read_failed(job.folder)["error"] == "ValueError: no"
    assert read_failed(job.folder)["tail"].splitlines()[-1] == "line 99"
    assert len(read_failed(job.folder)["tail"].splitlines()) == 40
    job.start(CELL, {})
    assert state(job.folder, job.hash) == "interrupted"
    job.finish({"seconds": {"train": 1.0}})
    assert state(job.folder, job.hash) == "done"
    assert read_done(job.folder) == {"hash": job.hash, "seconds": {"train": 1.0}}


@pytest.mark.parametrize("ending", ["finish", "fail", "kill"])
def test_results_of_other_settings_move_aside(job: Job, ending: str) -> None:
    (job.eval_dir).mkdir()
    (job.eval_dir / "report.html").write_text("old")
    if ending == "finish":
        job.finish({})
    elif ending == "fail":
        job.fail("train", "no")
    for number, new in enumerate(["b" * 16, "c" * 16], start=1):
        assert state(job.folder, new) == "new"
        Job(job.folder, new).start(CELL, {})
        aside = job.folder.with_name(f"seed0~{number}")
        assert json.loads((aside / "cell.json").read_text())["hash"] != new
    assert (job.folder.with_name("seed0~1") / "eval" / "report.html").read_text() == "old"
    assert not job.eval_dir.exists()


def test_a_second_start_drops_the_unfinished_evaluation_and_keeps_the_training(job: Job) -> None:
    for folder in (job.train_dir, job.eval_dir):
        folder.mkdir()
        (folder / "progress.pt").write_text("")
    job.start(CELL, {})
    assert (job.train_dir / "progress.pt").exists()
    assert not job.eval_dir.exists()


def test_a_training_counts_as_ended_with_its_model_only(job: Job) -> None:
    assert job.trained is None
    job.mark_trained(2.5)
    assert job.trained is None
    (job.train_dir / "model.pt").write_text("")
    assert job.trained == 2.5


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_file_is_a_cell_to_run_again(job: Job, content: str) -> None:
    (job.folder / "done.json").write_text(content)
    assert state(job.folder, job.hash) == "interrupted"
    (job.folder / "cell.json").write_text(content)
    assert state(job.folder, job.hash) == "new"
