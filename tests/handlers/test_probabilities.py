from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from ignite.engine import Engine

from fairmedfm_monai.handlers import ProbabilityWriter, log_headline


def _run(folder: Path) -> Engine:
    batches = [
        [
            {"case_id": "a", "image": torch.zeros(1), "failed": ""},
            {"case_id": "b", "image": torch.zeros(1), "failed": ""},
        ],
        # `c` could not be read: `b` stands in for it.
        [{"case_id": "b", "image": torch.zeros(1), "failed": "c: truncated"}],
    ]
    scores = [[torch.tensor([0.25, 0.75]), torch.tensor([0.9, 0.1])], [torch.tensor([0.9, 0.1])]]

    def step(engine: Engine, number: int) -> list[dict[str, torch.Tensor]]:
        engine.state.batch = batches[number]
        return [{"pred": score} for score in scores[number]]

    engine = Engine(step)
    ProbabilityWriter(folder, classes=["no", "yes"], stamps=["tiny"]).attach(engine)
    engine.run([0, 1], max_epochs=1)
    return engine


def test_every_case_has_one_row_and_a_failed_one_its_reason(tmp_path: Path) -> None:
    engine = _run(tmp_path)
    table = pd.read_csv(tmp_path / "predictions.csv").set_index("case_id")
    assert list(table.index) == ["a", "b", "c"]
    assert table.loc["a", ["prediction", "probability_yes"]].tolist() == ["yes", 0.75]
    assert table.loc["b", "prediction"] == "no"
    assert table.loc["c", "failed"] == "c: truncated"
    assert table["probability_no"].isna().tolist() == [False, False, True]
    assert set(table["stamp"]) == {"tiny"}
    assert engine.state.failed_cases == ["c: truncated"]
    content = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    assert content["classes"] == ["no", "yes"]
    assert [case["case_id"] for case in content["cases"]] == ["a", "b", "c"]


def test_independent_labels_are_all_named(tmp_path: Path) -> None:
    cases = [{"case_id": name, "image": torch.zeros(1), "failed": ""} for name in "abc"]
    cases.append({"case_id": "a", "image": torch.zeros(1), "failed": "d: truncated"})
    scores = [[0.5, 0.9, 0.1], [0.49, 0.2, 0.3], [0.1, 0.6, 0.4], [0.5, 0.9, 0.1]]

    def step(engine: Engine, batch: list[dict[str, object]]) -> list[dict[str, torch.Tensor]]:
        return [{"pred": torch.tensor(values)} for values in scores]

    engine = Engine(step)
    ProbabilityWriter(tmp_path, classes=["edema", "effusion", "mass"], multi_label=True).attach(engine)
    engine.run([cases], max_epochs=1)
    content = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    assert [case["prediction"] for case in content["cases"]] == [["edema", "effusion"], [], ["effusion"], None]
    table = pd.read_csv(tmp_path / "predictions.csv", keep_default_na=False)
    assert table["prediction"].tolist() == ["edema;effusion", "", "effusion", ""]
    assert table["failed"].tolist() == ["", "", "", "d: truncated"]


def test_the_headline_is_one_line_per_overall_value(caplog: pytest.LogCaptureFixture) -> None:
    metrics = {
        "val/auc": 0.8,
        "val/accuracy": 0.7,
        "val/sex/group/female/auc": 0.75,
        "val/sex/disparity/gap/auc": 0.125,
        "box/test/liver/dice": 0.9,
    }
    with caplog.at_level(logging.INFO, logger="fairmedfm_monai.handlers.headline"):
        log_headline(SimpleNamespace(state=SimpleNamespace(metrics=metrics, epoch=3)))
    assert [record.message.split() for record in caplog.records] == [
        ["epoch", "3", "box/test/liver/dice", "0.900"],
        ["epoch", "3", "val/auc", "0.800", "sex", "gap", "0.125"],
    ]
