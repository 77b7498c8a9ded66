from __future__ import annotations

import json
import logging
import math
import time

import mlflow
import pytest
import torch
from ignite.engine import Engine, Events
from monai.handlers import MLFlowHandler, StatsHandler

from fairmedfm_monai.handlers import FairnessHandler, TrackingHandler, log_output_dir, unique_run_name
from fairmedfm_monai.handlers.mlflow_values import loggable
from tests.handlers import toy


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(TrackingHandler, "_unreachable", set())


def runs_of(uri, experiment):
    client = mlflow.MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    return client, client.search_runs(found.experiment_id) if found else []


def failing_engine():
    def step(engine, batch):
        msg = "out of memory"
        raise RuntimeError(msg)

    return Engine(step)


def test_evaluation_is_one_finished_run_with_aggregates_only(xray, mlflow_uri, tmp_path):
    tracking = TrackingHandler(
        mlflow_uri,
        experiment_name="fairmedfm-toy",
        run_name=unique_run_name("toy"),
        tags={"fm": "grey", "weights": "random", "stamps": ["a", "b"], "none": None},
        iteration_log=False,
        close_on_complete=True,
    )
    fairness = FairnessHandler(xray, output_dir=str(tmp_path / "eval"), n_bootstrap=10)
    engine = toy.evaluator(xray, [fairness, tracking, StatsHandler(iteration_log=False)], "val", "test")
    engine.run()
    client, runs = runs_of(mlflow_uri, "fairmedfm-toy")
    assert len(runs) == 1
    assert runs[0].info.status == "FINISHED"
    assert runs[0].data.tags.items() >= {"fm": "grey", "weights": "random", "stamps": "a; b"}.items()
    assert "none" not in runs[0].data.tags
    logged = runs[0].data.metrics
    assert logged["test/sex/group/female/auc"] == engine.state.metrics["test/sex/group/female/auc"]
    assert all(map(math.isfinite, logged.values()))
    names = {file.path for file in client.list_artifacts(runs[0].info.run_id)}
    assert names == {"subgroups.csv", "disparities.csv", "report.html", "model_card.md", "run.json"}
    folder = client.download_artifacts(runs[0].info.run_id, "", str(tmp_path))
    ids = {*xray.table["case_id"], *xray.table["patient_id"], *xray.table["image"]}
    for name in names:
        text = (tmp_path / folder / name).read_text(encoding="utf-8")
        assert not [one for one in ids if one in text], name
    assert json.loads((tmp_path / folder / "run.json").read_text(encoding="utf-8"))["dataset"] == "toy-xray"


def test_log_cases_tracks_predictions_with_hashed_ids(xray, mlflow_uri, tmp_path):
    tracking = TrackingHandler(
        mlflow_uri, experiment_name="cases", iteration_log=False, close_on_complete=True, log_cases=True
    )
    fairness = FairnessHandler(xray, output_dir=str(tmp_path / "eval"), n_bootstrap=10, log_cases=True)
    toy.evaluator(xray, [fairness, tracking], "test").run()
    client, runs = runs_of(mlflow_uri, "cases")
    names = {file.path for file in client.list_artifacts(runs[0].info.run_id)}
    assert "predictions_hashed.parquet" in names
    assert "predictions.parquet" not in names
    content = (tmp_path / "eval" / "predictions_hashed.parquet").read_bytes()
    assert b"case0" not in content
    assert b"patient0" not in content


def test_failed_run_is_marked_and_the_error_still_comes_out(mlflow_uri):
    for others in ([], [StatsHandler()]):
        engine = failing_engine()
        handler = TrackingHandler(mlflow_uri, experiment_name="failures", iteration_log=False, close_on_complete=True)
        for part in [handler, *others]:
            part.attach(engine)
        with pytest.raises(RuntimeError, match="out of memory"):
            engine.run([1])
    _, runs = runs_of(mlflow_uri, "failures")
    assert [run.info.status for run in runs] == ["FAILED", "FAILED"]


def test_trainer_and_validator_share_one_run(mlflow_uri):
    name = unique_run_name("train")
    validator = Engine(lambda _engine, _batch: None)

    def measure(engine):
        engine.state.metrics = {"val/auc": 0.5 + engine.state.epoch / 10, "selection": -math.inf, "bad": math.nan}

    validator.add_event_handler(Events.EPOCH_COMPLETED, measure)
    TrackingHandler(mlflow_uri, experiment_name="training", run_name=name, iteration_log=False).attach(validator)
    trainer = Engine(lambda _engine, _batch: {"loss": torch.tensor(0.25)})
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: validator.run([0], max_epochs=engine.state.epoch))
    TrackingHandler(
        mlflow_uri,
        experiment_name="training",
        run_name=name,
        tag_name="train_loss",
        output_transform=lambda output: output["loss"],
        close_on_complete=True,
    ).attach(trainer)
    trainer.run([0, 1], max_epochs=2)
    client, runs = runs_of(mlflow_uri, "training")
    assert [run.info.status for run in runs] == ["FINISHED"]
    history = client.get_metric_history(runs[0].info.run_id, "val/auc")
    assert [round(point.value, 6) for point in sorted(history, key=lambda point: point.step)][-1] == 0.7
    assert runs[0].data.metrics["train_loss"] == 0.25
    assert not {"selection", "bad"} & set(runs[0].data.metrics)


def test_off_touches_nothing(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlflow, "MlflowClient", None)
    engine = Engine(lambda _engine, _batch: None)
    TrackingHandler("off", iteration_log=False, close_on_complete=True).attach(engine)
    engine.run([0])
    assert not list(tmp_path.iterdir())


def test_other_ranks_do_nothing(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "1")
    assert TrackingHandler("sqlite:///other.db").disabled
    assert not list(tmp_path.iterdir())


def test_stands_down_for_monais_own_handler(mlflow_uri):
    engine = Engine(lambda _engine, _batch: None)
    ours = TrackingHandler(mlflow_uri, experiment_name="patched", iteration_log=False, close_on_complete=True)
    ours.attach(engine)
    MLFlowHandler(
        mlflow_uri, experiment_name="patched", run_name="monai", iteration_log=False, close_on_complete=True
    ).attach(engine)
    engine.run([0])
    _, runs = runs_of(mlflow_uri, "patched")
    assert [run.info.run_name for run in runs] == ["monai"]


def test_unreachable_server_costs_seconds_and_the_run_goes_on(xray, tmp_path, caplog):
    address = "http://127.0.0.1:9"  # the discard port: nobody listens
    handlers = [
        FairnessHandler(xray, output_dir=str(tmp_path / "eval"), n_bootstrap=10),
        TrackingHandler(address, experiment_name="nowhere", output_dir=tmp_path / "eval", iteration_log=False),
    ]
    engine = toy.evaluator(xray, handlers, "test")
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        engine.run()
    assert time.monotonic() - started < 60
    assert (tmp_path / "eval" / "report.html").is_file()
    assert "log_output_dir" in caplog.text
    assert address in caplog.text
    assert TrackingHandler(address).disabled  # the second handler of a run does not wait again


def test_broken_database_does_not_stop_the_run(tmp_path, caplog):
    file = tmp_path / "mlruns.db"
    file.write_bytes(b"this is no database" * 100)
    engine = Engine(lambda _engine, _batch: None)
    with caplog.at_level(logging.WARNING):
        TrackingHandler(f"sqlite:///{file}", iteration_log=False).attach(engine)
        assert engine.run([0]).epoch == 1
    assert "cannot be used" in caplog.text


def test_plain_path_is_refused_before_the_run(tmp_path):
    with pytest.raises(ValueError, match="SQLite"):
        TrackingHandler(str(tmp_path))


def test_argument_wins_over_environment(monkeypatch, mlflow_uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    engine = Engine(lambda _engine, _batch: None)
    TrackingHandler(mlflow_uri, experiment_name="chosen", iteration_log=False, close_on_complete=True).attach(engine)
    engine.run([0])
    _, runs = runs_of(mlflow_uri, "chosen")
    assert [run.info.status for run in runs] == ["FINISHED"]


def test_finished_folder_can_be_logged_later(xray, mlflow_uri, tmp_path):
    fairness = FairnessHandler(xray, output_dir=str(tmp_path), n_bootstrap=10, tags={"fm": "grey"})
    engine = toy.evaluator(xray, [fairness], "test")
    engine.run()
    run_id = log_output_dir(tmp_path, mlflow_uri)
    client, runs = runs_of(mlflow_uri, "fairmedfm-toy-xray")
    assert [run.info.run_id for run in runs] == [run_id]
    assert runs[0].data.metrics["test/auc"] == engine.state.metrics["test/auc"]
    assert runs[0].data.tags["fm"] == "grey"
    assert "report.html" in {file.path for file in client.list_artifacts(run_id)}
    with pytest.raises(FileNotFoundError, match=r"run\.json"):
        log_output_dir(tmp_path / "nothing", mlflow_uri)


def test_names_that_mlflow_refuses_are_replaced_and_clashes_left_out(caplog):
    metrics = {"val/auc": 0.5, "a<60": 1.0, "b>1": 2.0, "b<1": 3.0, "c": math.inf, "d": "text", "e": torch.tensor(2.5)}
    assert loggable(metrics) == {"val/auc": 0.5, "a_60": 1.0, "e": 2.5}
    assert "b>1" in caplog.text


def test_run_names_differ():
    names = {unique_run_name("bundle") for _ in range(50)}
    assert len(names) == 50
    assert all(name.startswith("bundle-") for name in names)


def test_tags_of_the_environment_make_runs_children(mlflow_uri, tmp_path, monkeypatch):
    client = mlflow.MlflowClient(tracking_uri=mlflow_uri)
    parent = client.create_run(client.create_experiment("family"), run_name="parent").info.run_id
    monkeypatch.setenv("FAIRMEDFM_RUN_TAGS", json.dumps({"mlflow.parentRunId": parent, "cell": "a/b", "fm": "theirs"}))
    engine = Engine(lambda _engine, _batch: None)
    tags = {"fm": "ours", "usage": "lora"}
    TrackingHandler(
        mlflow_uri, experiment_name="family", tags=tags, iteration_log=False, close_on_complete=True
    ).attach(engine)
    engine.run([0])
    (tmp_path / "run.json").write_text(json.dumps({"tags": {"stage": "afterwards"}}))
    log_output_dir(tmp_path, mlflow_uri, "family", tags={"stage": "never", "stamps": ["one", "two"]})
    _, runs = runs_of(mlflow_uri, "family")
    later, child = (run.data.tags for run in runs[:2])
    assert child.items() >= {"mlflow.parentRunId": parent, "cell": "a/b", "fm": "theirs", "usage": "lora"}.items()
    assert later.items() >= {"mlflow.parentRunId": parent, "stage": "afterwards", "stamps": "one; two"}.items()


@pytest.mark.parametrize("text", ["study=mine", "[]"])
def test_tags_of_the_environment_must_be_an_object(mlflow_uri, monkeypatch, text):
    monkeypatch.setenv("FAIRMEDFM_RUN_TAGS", text)
    with pytest.raises(ValueError, match="FAIRMEDFM_RUN_TAGS must hold a JSON object"):
        TrackingHandler(mlflow_uri)
