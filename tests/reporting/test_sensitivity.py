"""Sweeps of prompts in the report, on a table whose numbers are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.fairness import evaluate_segmentation
from fairmedfm_monai.reporting.sensitivity import sweeps

LOSS = {"female": 0.002, "male": 0.006}  # Dice per percent of jitter


@pytest.fixture
def report():
    rng = np.random.default_rng(0)
    rows = []
    for number in range(60):
        sex, base = ["female", "male"][number % 2], rng.uniform(0.8, 0.9)
        for kind, level in (("box-j20", 20), ("box", 0), ("box-j10", 10), ("point-d100", 0), ("point-d0", 50)):
            for label in ("kidney", "liver"):
                dice = base - LOSS[sex] * level
                rows.append((f"c{number}", f"p{number}", sex, kind, label, dice))
        rows.append((f"c{number}", f"p{number}", sex, "box-k3", "kidney", 0.95))
    table = pd.DataFrame(rows, columns=["case_id", "patient_id", "sex", "prompt", "label", "dice"])
    return evaluate_segmentation(table, groups={"sex": ["female", "male"]}, n_bootstrap=0)


def test_levels_stand_in_order_and_losses_are_those_put_in(report):
    jitter, clicks = sweeps(report.subgroups, report.disparities)
    assert (jitter.title, jitter.levels) == ("Box against jitter", ["0 %", "10 %", "20 %"])
    losses = {name: loss for name, _, loss in jitter.rows}
    assert losses["female"] == f"{LOSS['female'] * 20:.3f}"
    assert losses["male"] == f"{LOSS['male'] * 20:.3f}"
    assert losses["everyone"] == f"{(LOSS['female'] + LOSS['male']) * 10:.3f}"
    assert clicks.levels == ["0 %", "100 %"]
    assert [panel.title for panel in jitter.panels] == ["Sex"]
    assert "Dice against % jitter by sex" in jitter.panels[0].svg


def test_the_gap_is_the_one_of_the_disparity_table(report):
    jitter, _ = sweeps(report.subgroups, report.disparities)
    gap = next(values for name, values, _ in jitter.rows if name == "gap by sex")
    table = report.disparities.query("metric == 'dice' and statistic == 'gap' and label == '' and attribute == 'sex'")
    expected = table.set_index("prompt")["value"]
    assert gap == [f"{expected[kind]:.3f}" for kind in ("box", "box-j10", "box-j20")]


def test_one_level_and_foreign_kinds_are_no_sweep(report):
    table = report.subgroups[report.subgroups["prompt"].isin(["box", "box-k3"])].replace({"prompt": {"box": "my tool"}})
    assert sweeps(table, report.disparities) == []
