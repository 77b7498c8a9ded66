"""The pooled table of slices, against a loop over slices with MONAI's Dice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice

from fairmedfm_monai.fairness import read_table
from fairmedfm_monai.handlers.slice_table import slice_rows, write_slices

LABELS = {"kidney": 1, "liver": 3}


def test_every_slice_with_a_reference_counts_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows, expected = [], []
    for number in range(3):
        reference = rng.choice([0, 1, 3], size=(8, 9, 5), p=[0.6, 0.3, 0.1])
        reference[..., number] = 0  # a slice without reference
        predicted = rng.random((4, 8, 9, 5)) > 0.5  # box kidney, box liver, point kidney, point liver
        output = {"pred": predicted, "label": reference[None]}
        row = {
            "case_id": f"c{number}",
            "patient_id": f"p{number}",
            "split": "test",
            "sex": ["female", "male"][number % 2],
        }
        rows += [row | part for part in slice_rows(output, LABELS, ["box", "point"], -1)]
        truth = torch.from_numpy(reference == 3)
        for index in range(5):
            if truth[..., index].any():
                pair = torch.from_numpy(predicted[3, ..., index])[None, None], truth[None, None, ..., index]
                expected.append((row["sex"], float(compute_dice(*pair))))
    table = read_table(write_slices([*rows, *rows], {"sex": ["female", "male"]}, tmp_path))
    found = table[(table.prompt == "point") & (table.label == "liver")].set_index(["attribute", "group"])
    assert found.loc[("overall", "all"), "dice"] == pytest.approx(np.mean([dice for _, dice in expected]), abs=1e-6)
    assert found.loc[("overall", "all"), "n_slices"] == len(expected)
    women = [dice for sex, dice in expected if sex == "female"]
    assert found.loc[("sex", "female"), "dice"] == pytest.approx(np.mean(women), abs=1e-6)
    assert found.loc[("sex", "female"), "n_patients"] == 2
    assert table["note"].str.contains("independent images").all()


def test_an_image_is_one_slice() -> None:
    mask = np.zeros((6, 6), dtype=int)
    mask[2:4, 2:4] = 1
    rows = slice_rows({"pred": (mask == 1)[None], "label": mask[None]}, {"kidney": 1}, ["box"], -1)
    assert rows == [{"label": "kidney", "prompt": "box", "slice": 0, "dice": 1.0}]
