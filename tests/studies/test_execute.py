"""One cell in this process: its stages, its folder, its MLflow runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from filelock import FileLock
from ignite.engine import Events
from monai.engines import SupervisedTrainer

from fairmedfm_monai.studies.bundles import starts_from_model, study_bundle
from fairmedfm_monai.studies.execute import Outcome, Setting, execute
from fairmedfm_monai.studies.jobs import job_folder, lock_file, read_done, read_failed, state
from fairmedfm_monai.studies.plan import PlannedCell
from fairmedfm_monai.studies.tracking import Tracking, close_parent, open_parent
from tests.studies.study_cells import planned, results


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(output=tmp_path, weights="tiny", n_bootstrap=10)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, xray_dir: Path, tracking_uri: str) -> tuple[Setting, PlannedCell]:
    """A linear probe that was run with tracking; nothing else is run in its output."""
    output = tmp_path_factory.mktemp("tracked")
    tracking = open_parent(output, "toy", title="A toy", tracking_uri=tracking_uri)
    setting = Setting(output=output, weights="tiny", n_bootstrap=10, tracking=tracking)
    base = planned(xray_dir)
    assert execute(base, setting) == Outcome(base.cell.key, "done", pytest.approx(0, abs=600))
    return setting, base


def runs(tracking: Tracking) -> list[mlflow.entities.Run]:
    client = mlflow.MlflowClient(tracking_uri=tracking.uri)
    experiment = client.get_experiment_by_name(tracking.experiment)
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    return [run for run in found if tracking.parent in (run.info.run_id, run.data.tags.get("mlflow.parentRunId"))]


def test_a_trained_cell_leaves_model_report_and_words(tracked: tuple[Setting, PlannedCell]) -> None:
    setting, base = tracked
    folder = job_folder(setting.output, base.cell.key)
    assert state(folder, base.settings_hash) == "done"
    assert {"model.pt", "model.json", "progress.pt"} <= {file.name for file in (folder / "train").iterdir()}
    assert (folder / "eval" / "report.html").is_file()
    done = read_done(folder)
    assert set(done["seconds"]) == {"train", "evaluate"}
    assert done["stamps"] == ["tiny random weights: the numbers say nothing about the model"]
    assert done["failed_cases"] == 0
    assert done["versions"]["torch"] == torch.__version__.split("+")[0]
    about = json.loads((folder / "cell.json").read_text())
    assert about["cell"]["usage"] == "linear_probe"
    assert about["settings"] == {"dataset_dir": str(base.dataset_dir), "weights": "tiny", "n_bootstrap": 10}


def test_a_done_cell_is_left_alone(tracked: tuple[Setting, PlannedCell], monkeypatch: pytest.MonkeyPatch) -> None:
    setting, base = tracked
    monkeypatch.setattr("monai.bundle.run", lambda **_: pytest.fail("a done cell was run again"))
    assert execute(base, setting).message == "was done already"


def test_runs_are_children_of_one_parent(tracked: tuple[Setting, PlannedCell], tracking_uri: str) -> None:
    setting, base = tracked
    after = planned(
        base.dataset_dir, mitigation="temperature_per_group", attributes=("sex",), base=base.cell.key, train={}
    )
    assert execute(after, setting).status == "done"
    parent, *children = runs(setting.tracking)
    assert parent.data.tags["title"] == "A toy"
    assert [run.data.tags["stage"] for run in children] == ["train", "evaluate", "postprocess"]
    assert {run.info.status for run in children} == {"FINISHED"}
    assert [run.data.tags["cell"] for run in children] == [base.cell.key] * 2 + [after.cell.key]
    assert all(run.data.tags["study"] == "toy" and "tiny" in run.data.tags["stamps"] for run in children)
    again = open_parent(setting.output, "toy", tracking_uri=tracking_uri)
    assert again == setting.tracking
    close_parent(again, "FINISHED")
    assert runs(again)[0].info.status == "FINISHED"
    told = (setting.output / "study.json").read_text()
    assert setting.tracking.parent in told
    assert tracking_uri not in told


def test_a_method_after_training_takes_the_predictions_of_its_base(
    tracked: tuple[Setting, PlannedCell], setting: Setting
) -> None:
    base = tracked[1]
    shutil.copytree(tracked[0].output / "cells", setting.output / "cells")
    fields = {"attributes": ("sex",), "base": base.cell.key, "train": {}}
    method = planned(base.dataset_dir, mitigation="threshold_per_group", options={"target": 0.8}, **fields)
    assert execute(method, setting).status == "done"
    before, after = results(setting.output, base.cell.key), results(setting.output, method.cell.key)
    assert list(before[0]["score"]) == list(after[0]["score"])
    assert after[0]["threshold"].notna().all()
    folder = job_folder(setting.output, method.cell.key)
    assert any("mitigated after training" in stamp for stamp in read_done(folder)["stamps"])
    assert "gap by sex" in (folder / "log.txt").read_text()
    missing = planned(base.dataset_dir, mitigation="threshold_per_group", **{**fields, "base": "a/b/c/erm/seed0"})
    outcome = execute(missing, setting)
    assert outcome.status == "failed"
    assert "builds on a/b/c/erm/seed0, which is not done" in outcome.message


def test_an_interrupted_training_goes_on_and_ends_the_same(
    tracked: tuple[Setting, PlannedCell], setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal to the bit, with the predictions of the run that nobody interrupted."""
    whole, base = tracked

    def interrupted(self: SupervisedTrainer) -> None:
        @self.on(Events.EPOCH_STARTED(once=3))
        def stop() -> None:
            raise KeyboardInterrupt

        started(self)

    started = SupervisedTrainer.run
    with monkeypatch.context() as patch:
        patch.setattr(SupervisedTrainer, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            execute(base, setting)
    folder = job_folder(setting.output, base.cell.key)
    assert state(folder, base.settings_hash) == "interrupted"
    assert torch.load(folder / "train" / "progress.pt", weights_only=True)["trainer"]["iteration"] == 2
    assert execute(base, setting).status == "done"
    assert read_done(folder)["resumed"]
    assert "The training goes on from" in (folder / "log.txt").read_text()
    for ours, theirs in zip(results(setting.output, base.cell.key), results(whole.output, base.cell.key), strict=True):
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


@pytest.mark.parametrize("left", ["marker lost", "stopped early", "progress damaged"])
def test_a_kill_between_two_stages_loses_nothing(
    tracked: tuple[Setting, PlannedCell], setting: Setting, left: str
) -> None:
    whole, base = tracked
    shutil.copytree(whole.output / "cells", setting.output / "cells")
    folder = job_folder(setting.output, base.cell.key)
    (folder / "done.json").unlink()
    (folder / "train" / "trained.json").unlink()
    progress = folder / "train" / "progress.pt"
    if left == "progress damaged":
        progress.write_bytes(b"half a file")
    if left == "stopped early":
        content = torch.load(progress, weights_only=True)
        content["trainer"]["max_epochs"] = 100
        content["early_stopping"]["waited"] = 7
        torch.save(content, progress)
        base = planned(base.dataset_dir, train={"epochs": 100, "patience": 7})
        about = json.loads((folder / "cell.json").read_text())
        (folder / "cell.json").write_text(json.dumps(about | {"hash": base.settings_hash}))
    written = (folder / "train" / "model.pt").stat().st_mtime_ns
    assert execute(base, setting).status == "done"
    trained_again = (folder / "train" / "model.pt").stat().st_mtime_ns != written
    assert trained_again == (left == "progress damaged")
    for ours, theirs in zip(results(setting.output, base.cell.key), results(whole.output, base.cell.key), strict=True):
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


def test_a_failed_cell_says_why_and_is_tried_again(setting: Setting, xray_dir: Path) -> None:
    bad = planned(xray_dir, train={"epochs": 1, "solver": "nonsense"})
    folder = job_folder(setting.output, bad.cell.key)
    for attempt in (1, 2):
        outcome = execute(bad, setting)
        assert outcome.status == "failed"
        assert outcome.message.startswith("train: ValueError: Unsupported option 'nonsense'")
        assert "Traceback" in read_failed(folder)["tail"]
        assert (folder / "log.txt").read_text().count("=====") == 2 * attempt


def test_a_second_training_starts_from_the_model_of_its_base(
    tracked: tuple[Setting, PlannedCell], setting: Setting
) -> None:
    """With a learning rate of 0 it ends with the very model; a bundle without the key is refused."""
    base = tracked[1]
    shutil.copytree(tracked[0].output / "cells", setting.output / "cells")
    second = planned(
        base.dataset_dir, label="second", base=base.cell.key, train={"epochs": 1, "learning_rate": 0.0}, seed=5
    )
    assert starts_from_model(second.cell.bundle)
    assert not starts_from_model("demo_clip_classification_zero_shot")
    assert execute(second, setting).status == "done"
    states = [
        torch.load(job_folder(setting.output, each.cell.key) / "train" / "model.pt", weights_only=True)
        for each in (base, second)
    ]
    heads = [{name: value for name, value in state.items() if name.startswith("head")} for state in states]
    assert heads[0]
    torch.testing.assert_close(heads[0], heads[1], rtol=0, atol=0)
    config = setting.output / "bundles" / base.cell.bundle / "configs" / "train.json"
    config.write_text(config.read_text().replace('"start_from": null,', ""))
    third = planned(base.dataset_dir, label="third", base=base.cell.key)
    assert execute(third, setting).message == (
        f"train: ValueError: bundle {third.cell.bundle} cannot start from the model of {base.cell.key}: its train.json "
        "has no `start_from`"
    )


def test_a_cell_that_another_process_runs_is_busy(setting: Setting, xray_dir: Path) -> None:
    cell = planned(xray_dir)
    with FileLock(lock_file(setting.output, cell.cell.key)):
        assert execute(cell, setting, wait=False) == Outcome(cell.cell.key, "busy")
    assert not job_folder(setting.output, cell.cell.key).exists()


def test_a_store_that_cannot_be_used_is_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="the study goes on"):
        tracking = open_parent(tmp_path, "toy", tracking_uri="http://127.0.0.1:9")
    assert tracking == Tracking()
    close_parent(tracking, "FINISHED")


def test_a_bundle_is_rendered_once_and_replaced_when_it_differs(tmp_path: Path) -> None:
    folder = study_bundle("demo_clip_classification_zero_shot", tmp_path)
    config, about = folder / "configs" / "evaluate.json", folder / "configs" / "metadata.json"
    text = config.read_text()
    config.write_text("{}")
    about.write_text('{"changed": "by a training"}')
    study_bundle.cache_clear()
    assert study_bundle("demo_clip_classification_zero_shot", tmp_path) == folder
    assert config.read_text() == text
    assert about.read_text() == '{"changed": "by a training"}'
