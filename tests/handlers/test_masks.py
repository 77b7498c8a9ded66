from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.metrics import compute_average_surface_distance, compute_dice

from fairmedfm_monai.fairness import read_predictions, read_table
from fairmedfm_monai.handlers import FairnessHandler
from fairmedfm_monai.handlers.masks import boxes_dice, segmentation_values
from tests.handlers import toy

AFFINE = torch.diag(torch.tensor([-1.0, 2.0, 3.0, 1.0], dtype=torch.float64))


def example(seed=0):
    rng = np.random.default_rng(seed)
    label = np.zeros((1, 14, 12, 9), dtype=np.int64)
    label[0, 2:8, 3:9, 2:6] = 1
    label[0, 9:12, 1:4, 5:8] = 2
    predicted = np.concatenate([label == 1, label == 2, np.roll(label, 1, 1) == 1, np.roll(label, 2, 2) == 2])
    predicted ^= rng.random(predicted.shape) < 0.01
    return {
        "pred": MetaTensor(torch.from_numpy(predicted).float(), affine=AFFINE),
        "label": MetaTensor(label, affine=AFFINE),
    }


def test_rows_follow_channel_order_and_agree_with_monai():
    output = example()
    rows = segmentation_values(output, {"kidney": 1, "tumour": 2}, ["box", "point"], axis=-1, case_id="a")
    assert {(row["prompt"], row["label"]) for row in rows} == {
        (p, k) for p in ("box", "point") for k in ("kidney", "tumour")
    }
    for row in rows:
        channel = ["box", "point"].index(row["prompt"]) * 2 + ["kidney", "tumour"].index(row["label"])
        predicted = output["pred"][channel][None, None].as_tensor()
        truth = (output["label"].as_tensor() == channel % 2 + 1).float()[None]
        assert row["dice"] == pytest.approx(float(compute_dice(predicted, truth)), abs=1e-6)
        expected = compute_average_surface_distance(
            predicted, truth, include_background=True, symmetric=True, spacing=[1.0, 2.0, 3.0]
        )
        assert row["assd"] == pytest.approx(float(expected), abs=1e-5)
        assert row["spacing"] == "1 x 2 x 3"


def test_filled_boxes_follow_the_slices_of_a_concave_object():
    mask = np.zeros((8, 8, 3), dtype=bool)
    mask[1:7, 1:3, 0] = True  # a bar: fills its own box
    mask[1:7, 1:7, 1] = True
    mask[2:5, 2:5, 1] = False  # a ring-like slice: 27 of 36 voxels
    assert boxes_dice(mask, -1) == pytest.approx(2 * (12 + 27) / (12 + 27 + 12 + 36))
    assert boxes_dice(mask, None) == pytest.approx(2 * 39 / (39 + 72))
    assert np.isnan(boxes_dice(np.zeros((4, 4, 4), dtype=bool), 0))
    ring = mask[:, :, 1]
    assert boxes_dice(ring, -1) == boxes_dice(ring, None) == pytest.approx(2 * 27 / (27 + 36))


def test_wrong_number_of_channels_names_the_case():
    with pytest.raises(ValueError, match=r"case a7.*3 prompt"):
        segmentation_values(example(), {"kidney": 1, "tumour": 2}, ["a", "b", "c"], axis=-1, case_id="a7")


def test_evaluation_of_volumes_end_to_end(ct, tmp_path):
    handler = FairnessHandler(
        ct, prompts=["box", "point"], output_dir=str(tmp_path), n_bootstrap=20, log_cases=True, stamps=["tiny weights"]
    )
    engine = toy.evaluator(ct, [handler], "test", batch_size=1)
    engine.run()
    table, meta = read_predictions(tmp_path / "predictions.parquet")
    assert len(table) == 10 * 2 * 2
    assert meta["prompts"] == ["box", "point"]
    assert engine.state.metrics["box/test/kidney/dice"] == 1.0
    assert engine.state.metrics["point/test/kidney/sex/group/female/dice"] < 1
    empty = table[(table["case_id"] == "vol4") & (table["label"] == "tumour")]
    assert empty["empty_reference"].all()
    assert empty["dice"].isna().all()
    subgroups = read_table(tmp_path / "subgroups.csv")
    assert set(subgroups["metric"]) >= {"dice", "nsd", "hd95", "filled_box_dice", "failure_rate", "false_alarm_rate"}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "tiny weights" in page
    assert "0.800" in page  # readers' agreement of the card


def test_unreadable_volume_fails_for_every_label_and_prompt(tmp_path):
    folder = toy.write_ct(tmp_path / "data")
    volume = folder / "vol3.nii.gz"
    volume.write_bytes(volume.read_bytes()[:60])
    info = toy.load(folder)
    handler = FairnessHandler(
        info, prompts=["box", "point"], output_dir=str(tmp_path / "eval"), n_bootstrap=5, log_cases=True
    )
    engine = toy.evaluator(info, [handler], "test", batch_size=1)
    engine.run()
    table, _ = read_predictions(tmp_path / "eval" / "predictions.parquet")
    assert len(table) == 10 * 2 * 2
    failed = table[table["failed"] != ""]
    assert set(failed["case_id"]) == {"vol3"}
    assert len(failed) == 4
    assert len(engine.state.failed_cases) == 1
    subgroups = read_table(tmp_path / "eval" / "subgroups.csv")
    everyone = subgroups[(subgroups["attribute"] == "overall") & (subgroups["metric"] == "dice")]
    assert (everyone["n_failed"] == 1).all()
