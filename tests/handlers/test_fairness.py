from __future__ import annotations

import json
import logging
import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from fairmedfm_monai.fairness import read_predictions, read_table
from fairmedfm_monai.handlers import FairnessHandler
from tests.handlers import toy


@pytest.fixture(scope="module")
def full(xray, tmp_path_factory):
    """One full evaluation of val and test, shared by the tests that only look at it."""
    folder = tmp_path_factory.mktemp("full") / "eval"
    handler = FairnessHandler(xray, output_dir=str(folder), n_bootstrap=50, log_cases=True, tags={"fm": "grey"})
    engine = toy.evaluator(xray, [handler], "val", "test")
    engine.run()
    return engine, folder


def test_full_evaluation_writes_every_file_and_its_numbers_are_scikit_learns(full, xray):
    engine, folder = full
    names = ["disparities.csv", "model_card.md", "predictions.parquet", "report.html", "run.json", "subgroups.csv"]
    assert set(names) <= {path.name for path in folder.iterdir()}
    table, meta = read_predictions(folder / "predictions.parquet")
    assert list(table["case_id"]) == list(xray.table["case_id"])
    assert meta["classes"] == ["no_finding", "finding"]
    test = table[table["split"] == "test"]
    assert engine.state.metrics["test/auc"] == pytest.approx(roc_auc_score(test["label"], test["score"]), abs=1e-12)
    women = test[test["sex"] == "female"]
    expected = roc_auc_score(women["label"], women["score"])
    assert engine.state.metrics["test/sex/group/female/auc"] == pytest.approx(expected, abs=1e-12)
    subgroups = read_table(folder / "subgroups.csv")
    row = subgroups.query("split == 'test' and attribute == 'sex' and group == 'female' and metric == 'auc'").iloc[0]
    assert row["value"] == pytest.approx(expected, abs=1e-12)


def test_scores_are_the_networks_own(full, xray):
    _, folder = full
    table, _ = read_predictions(folder / "predictions.parquet")
    first = xray.cases()[0]
    from PIL import Image

    grey = np.asarray(Image.open(first["image"])).mean()
    logit = 4 * (grey / 255 - 0.5)
    assert table["score"].iloc[0] == pytest.approx(1 / (1 + math.exp(-2 * logit)), abs=1e-6)


def test_operating_point_comes_from_val_and_run_json_tells_the_run(full):
    _, folder = full
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert run["settings"]["operating_point_source"].startswith("val")
    table, _ = read_predictions(folder / "predictions.parquet")
    negatives = table[(table["split"] == "val") & (table["label"] == 0)]["score"]
    assert (negatives >= run["settings"]["operating_point"]).mean() <= 0.1
    assert run["hashes"].keys() >= {"dataset", "predictions.parquet"}
    assert run["tags"] == {"fm": "grey"}
    assert run["versions"]["monai"]
    assert run["seed"] == 0
    assert run["metrics"]["test/auc"] == full[0].state.metrics["test/auc"]


def test_finished_run_is_not_overwritten_and_overwrite_replaces_it(full, xray):
    _, folder = full
    before = (folder / "run.json").read_bytes()
    engine = toy.evaluator(xray, [FairnessHandler(xray, output_dir=str(folder), n_bootstrap=10)], "test")
    engine.run()
    assert engine.state.output_dir == f"{folder}-01"
    assert (folder / "run.json").read_bytes() == before
    again = FairnessHandler(xray, output_dir=f"{folder}-01", n_bootstrap=10, overwrite=True)
    engine = toy.evaluator(xray, [again], "test")
    engine.run()
    assert engine.state.output_dir == f"{folder}-01"


def test_ids_are_hashed_without_log_cases_the_same_way_in_every_run(xray, tmp_path):
    tables = []
    for number in range(2):
        handler = FairnessHandler(xray, output_dir=str(tmp_path / str(number)), n_bootstrap=10)
        toy.evaluator(xray, [handler], "test").run()
        assert not (tmp_path / str(number) / "predictions_hashed.parquet").exists()
        tables.append(read_predictions(tmp_path / str(number) / "predictions.parquet")[0])
    pd.testing.assert_frame_equal(*tables)
    assert not set(tables[0]["case_id"]) & set(xray.table["case_id"])
    assert not set(tables[0]["patient_id"]) & set(xray.table["patient_id"])
    assert tables[0]["patient_id"].nunique() == xray.table.query("split == 'test'")["patient_id"].nunique()


def test_training_mode_gives_the_same_values_and_writes_nothing(full, xray, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    engine = toy.evaluator(xray, [FairnessHandler(xray, select_by="val/sex/disparity/gap/auc")], "val")
    engine.run(1)
    assert not list(tmp_path.iterdir())
    assert engine.state.metrics["val/auc"] == full[0].state.metrics["val/auc"]
    assert engine.state.metrics["selection"] == -engine.state.metrics["val/sex/disparity/gap/auc"]


def test_undefined_selection_is_minus_infinity_and_the_later_checkpoint_is_kept(xray, tmp_path):
    from monai.handlers import CheckpointSaver

    handler = FairnessHandler(xray, select_by="val/auc")
    saver = CheckpointSaver(
        str(tmp_path), {"model": torch.nn.Linear(1, 1)}, save_key_metric=True, key_metric_name="selection"
    )
    engine = toy.evaluator(xray, [handler, saver], "val")
    broken = {"on": True}
    original = handler._table

    def one_class(rows):
        table = original(rows)
        return table[table["label"] == 0] if broken["on"] else table

    handler._table = one_class
    seen = []
    for epoch, on in enumerate([True, False, True], start=1):
        broken["on"] = on
        engine.run(epoch)
        seen.append(engine.state.metrics["selection"])
        assert ("val/auc" in engine.state.metrics) is not on  # nothing is left over from the epoch before
    assert seen[0] == -math.inf
    assert 0.5 < seen[1] < 1
    assert seen[2] == -math.inf
    kept = [path.name for path in tmp_path.iterdir()]
    assert len(kept) == 1
    assert f"{seen[1]:.4f}" in kept[0]


def test_wrong_selection_name_stops_before_any_engine_exists(xray):
    with pytest.raises(ValueError, match=r"val/sex/disparity/worst/auc.*") as caught:
        FairnessHandler(xray, select_by="val/sex/worst/auc")
    assert "'val/sex/worst/auc'" in str(caught.value)
    assert "val/age/group/lt60/sensitivity" in str(caught.value)


def test_of_several_names_the_distance_to_the_optimum_is_selected_by(xray):
    for names in ("val/auc, val/sex/disparity/gap/auc", ["val/auc", "val/sex/disparity/gap/auc"]):
        engine = toy.evaluator(xray, [FairnessHandler(xray, select_by=names)], "val")
        engine.run(1)
        auc, gap = engine.state.metrics["val/auc"], engine.state.metrics["val/sex/disparity/gap/auc"]
        assert engine.state.metrics["selection"] == pytest.approx(-math.hypot(1 - auc, gap))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("val/auc,val/acu", "'val/acu' is not reported"),
        ("val/auc,val/bce", "'val/bce' cannot be one of several"),
        ("val/auc,val/auc", "several that differ"),
        ([], "expected one name"),
    ],
)
def test_several_names_are_looked_at_before_any_training(xray, names, message):
    with pytest.raises(ValueError, match=message):
        FairnessHandler(xray, select_by=names)


def test_unreadable_case_is_listed_counted_in_its_groups_and_its_stand_in_counts_once(tmp_path, caplog):
    folder = toy.write_xray(tmp_path / "data")
    (folder / "img004.png").write_bytes(b"\x89PNG broken")
    info = toy.load(folder)
    handler = FairnessHandler(info, output_dir=str(tmp_path / "eval"), n_bootstrap=10, log_cases=True)
    engine = toy.evaluator(info, [handler], "val", "test")
    with caplog.at_level(logging.WARNING):
        engine.run()
    table, _ = read_predictions(tmp_path / "eval" / "predictions.parquet")
    assert len(table) == table["case_id"].nunique() == 90
    failed = table.set_index("case_id").loc["case004"]
    known = info.table.set_index("case_id").loc["case004"]
    assert failed["failed"]
    assert math.isnan(failed["score"])
    assert failed["patient_id"] == known["patient_id"]
    assert failed["sex"] == known["sex"]
    assert [line.split(": ")[0] for line in engine.state.failed_cases] == ["case004"]
    assert "case004" in caplog.text
    subgroups = read_table(tmp_path / "eval" / "subgroups.csv")
    rows = subgroups[(subgroups["split"] == known["split"]) & (subgroups["metric"] == "auc")]
    assert rows.set_index(["attribute", "group"]).loc[("sex", known["sex"]), "n_failed"] == 1
    shared = [
        (tmp_path / "eval" / name).read_text(encoding="utf-8") for name in ("report.html", "run.json", "model_card.md")
    ]
    assert not any("case004" in text for text in shared)


def test_score_that_is_no_number_is_a_failed_case(xray, tmp_path):
    handler = FairnessHandler(xray, output_dir=str(tmp_path), n_bootstrap=10)
    engine = toy.evaluator(xray, [handler], "test")

    class Sometimes(toy.GreyNet):
        def forward(self, image):
            logits = super().forward(image)
            return torch.where(image.amax(dim=(1, 2, 3))[:, None] > 190, torch.nan, logits)

    engine.network = Sometimes()
    engine.run()
    assert 0 < len(engine.state.failed_cases) < 60
    assert all("not finite" in line for line in engine.state.failed_cases)


def test_failing_report_keeps_the_predictions(xray, tmp_path, monkeypatch):
    import fairmedfm_monai.handlers.evaluation as module

    def broken(*_args, **_kwargs):
        msg = "no ink"
        raise OSError(msg)

    monkeypatch.setattr(module, "write_report", broken)
    engine = toy.evaluator(xray, [FairnessHandler(xray, output_dir=str(tmp_path), n_bootstrap=10)], "test")
    with pytest.raises(RuntimeError, match=r"no ink.*predictions\.parquet"):
        engine.run()
    assert len(read_predictions(tmp_path / "predictions.parquet")[0]) == (xray.table["split"] == "test").sum()


def test_cases_need_nothing_but_an_image_with_a_file_name(xray):
    handler = FairnessHandler(xray, split="val")
    engine = toy.evaluator(xray, [handler], "val")
    data = engine.data_loader.dataset
    data.data = [{"image": case["image"], "label": case["label"]} for case in data.data]
    engine.run()
    assert "val/auc" in engine.state.metrics
    assert not [key for key in engine.state.metrics if "/group/female/" in key]
    assert [key for key in engine.state.metrics if "sex/group/unknown/auc" in key]


def test_empty_loader_says_what_to_check(xray):
    handler = FairnessHandler(xray)
    engine = toy.evaluator(xray, [handler], "val")
    handler.iteration_completed = lambda _: None
    with pytest.raises(ValueError, match="dataset_dir"):
        handler.epoch_completed(engine)
