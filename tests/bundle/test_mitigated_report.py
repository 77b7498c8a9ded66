"""Mitigation after training by one override of evaluate.json: the numbers of the command on the same predictions."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from fairmedfm_monai.fairness import read_predictions, read_table
from fairmedfm_monai.mitigation.evaluation import Evaluation
from tests.bundle.runs import chain, copy_bundle, run

OPTIONS = {"target": 0.8, "min_cases": 2}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return copy_bundle("demo_clip_classification_zero_shot", tmp_path)


def test_the_report_is_that_of_the_command(bundle: Path, xray_dir: Path, tracking_uri: str, tmp_path: Path) -> None:
    common = {"dataset_dir": str(xray_dir), "weights": "tiny", "n_bootstrap": 20, "seed": 3}
    run(bundle, "evaluate", **common, tracking_uri="off", output_dir=str(tmp_path / "plain"))
    method = {"mitigation": "threshold_per_group", "mitigation_attributes": "sex", "mitigation_options": OPTIONS}
    chosen = {"run_name": "after", "experiment_name": "after-training", "tracking_uri": tracking_uri}
    run(bundle, "evaluate", **common, **method, **chosen, output_dir=str(tmp_path / "mine"))
    table, meta = read_predictions(tmp_path / "plain" / "predictions.parquet")
    Evaluation("predictions.parquet", None, 20, 3).mitigated(
        table, meta, tmp_path / "expected", name="threshold_per_group", attributes=["sex"], options=OPTIONS
    )
    for name in ("subgroups.csv", "disparities.csv", "before/subgroups.csv"):
        pd.testing.assert_frame_equal(
            read_table(tmp_path / "mine" / name), read_table(tmp_path / "expected" / name), check_exact=True
        )
    content = json.loads((tmp_path / "mine" / "run.json").read_text(encoding="utf-8"))
    plain = json.loads((tmp_path / "plain" / "run.json").read_text(encoding="utf-8"))
    assert content["mitigation"]["name"] == "threshold_per_group"
    assert content["versions"] == plain["versions"]
    assert content["tags"]["fm"] == "demo_clip"
    assert content["title"] == f"{plain['title']}, threshold_per_group by sex"
    assert "Needs sex at inference" in (tmp_path / "mine" / "report.html").read_text(encoding="utf-8")

    client = mlflow.MlflowClient(tracking_uri=tracking_uri)
    experiment = client.get_experiment_by_name("after-training")
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.data.tags["mitigation_after_training"] == "threshold_per_group"
    finite = {key: value for key, value in content["metrics"].items() if value is not None}
    assert {key: tracked.data.metrics[key] for key in finite} == pytest.approx(finite)


def test_an_unknown_method_is_refused_before_anything_is_encoded(bundle: Path, xray_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - MONAI wraps it
        run(
            *(bundle, "evaluate"),
            dataset_dir=str(xray_dir),
            weights="tiny",
            tracking_uri="off",
            output_dir=str(tmp_path / "eval"),
            mitigation="threshold_per_grup",
        )
    assert "Did you mean 'threshold_per_group'?" in chain(caught.value)
    assert not (tmp_path / "eval").exists()


def test_a_method_that_cannot_be_fitted_leaves_the_report_as_it_was(
    bundle: Path, xray_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - MONAI wraps it
        run(
            *(bundle, "evaluate"),
            dataset_dir=str(xray_dir),
            weights="tiny",
            tracking_uri="off",
            output_dir=str(tmp_path / "eval"),
            split=["test"],
            mitigation="temperature_per_group",
        )
    assert "val" in chain(caught.value)
    content = json.loads((tmp_path / "eval" / "run.json").read_text(encoding="utf-8"))
    assert "mitigation" not in content
    assert (tmp_path / "eval" / "predictions.parquet").is_file()
