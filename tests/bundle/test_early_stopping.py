"""`patience` and `select_by` of train.json: where a training ends and which epoch it leaves behind."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fairmedfm_monai.fairness import pareto_front, selection_sign
from fairmedfm_monai.handlers import FairnessHandler, GroupCodes
from tests.bundle.runs import chain, copy_bundle, run, same

EPOCHS = 12


def train(bundle: Path, data: Path, **overrides: Any) -> Path:
    """Train; returns the folder of models."""
    options = {"weights": "tiny", "epochs": EPOCHS, "batch_size": 8, "tracking_uri": "off", **overrides}
    run(bundle, "train", dataset_dir=str(data), **options)
    return bundle / "models"


def content(folder: Path, name: str = "progress.pt") -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / name, weights_only=True)
    return found


def epochs(folder: Path) -> int:
    trainer = content(folder)["trainer"]
    return int(trainer["iteration"] // trainer["epoch_length"])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return copy_bundle("demo_clip_classification_linear_probe", tmp_path)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """The metrics of every validation."""
    found: list[dict[str, float]] = []
    publish = FairnessHandler._publish

    def note(self: FairnessHandler, engine: Any, metrics: dict[str, float]) -> None:
        publish(self, engine, metrics)
        found.append(dict(engine.state.metrics))

    monkeypatch.setattr(FairnessHandler, "_publish", note)
    return found


@pytest.mark.parametrize("killed_in", [2, 4])
def test_a_killed_training_stops_at_the_epoch_of_one_that_was_not(
    killed_in: int,
    bundle: Path,
    xray_dir: Path,
    tmp_path: Path,
    seen: list[dict[str, float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"patience": 3, "select_by": "val/sex/disparity/worst/auc"}
    one = train(bundle, xray_dir, **options)
    values = [metrics["selection"] for metrics in seen]
    best = int(np.argmax(values))  # the first of equals
    assert len(values) == epochs(one) == best + 1 + options["patience"] < EPOCHS

    plain = GroupCodes.iteration_started

    def kill(self: GroupCodes, engine: Any) -> None:
        if engine.state.epoch == killed_in:
            raise KeyboardInterrupt
        plain(self, engine)

    monkeypatch.setattr(GroupCodes, "iteration_started", kill)
    stopped = copy_bundle(bundle.name, tmp_path / "stopped")
    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        train(stopped, xray_dir, **options)
    monkeypatch.setattr(GroupCodes, "iteration_started", plain)
    assert epochs(stopped / "models") == killed_in - 1
    two = train(stopped, xray_dir, resume=str(stopped / "models" / "progress.pt"), **options)
    assert same(content(one, "model.pt"), content(two, "model.pt"))
    assert same(content(one)["model"], content(two)["model"])
    for part in ("early_stopping", "best", "trainer"):
        assert content(one)[part] == content(two)[part]


def test_what_stopped_early_trains_on_only_with_more_patience(bundle: Path, xray_dir: Path) -> None:
    models = train(bundle, xray_dir, patience=1)
    before, resume = epochs(models), str(models / "progress.pt")
    for options in ({"patience": 1}, {"patience": 1, "epochs": 2 * EPOCHS}):
        with pytest.raises((RuntimeError, ValueError)) as caught:
            train(bundle, xray_dir, resume=resume, **options)
        assert f"stopped early after epoch {before}: no better value of `select_by` in 1 validation" in chain(
            caught.value
        )
    assert epochs(train(bundle, xray_dir, resume=resume)) == EPOCHS


def test_a_training_of_masks_stops_too(ct2d_dir: Path, tmp_path: Path, seen: list[dict[str, float]]) -> None:
    bundle = copy_bundle("demo_sam_segmentation_decoder_finetune", tmp_path)
    options = {"epochs": 4, "learning_rate": 0.0, "loss_size": 32}  # nothing changes: no epoch is better
    models = train(bundle, ct2d_dir, patience=1, **options)
    assert epochs(models) == len(seen) == 2


@pytest.mark.parametrize("patience", [None, 1])
def test_without_a_defined_value_the_last_epoch_is_kept_and_a_warning_says_why(
    patience: int | None, bundle: Path, xray_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = Path(shutil.copytree(xray_dir, tmp_path / "data"))
    table = pd.read_csv(data / "manifest.csv", dtype=str)
    table.loc[table["split"] == "val", "label"] = table["label"].iloc[0]
    table.to_csv(data / "manifest.csv", index=False)
    logger = logging.getLogger(FairnessHandler.__module__)
    logger.addHandler(caplog.handler)  # a bundle sets the handlers of the root logger
    try:
        models = train(bundle, data, epochs=2, patience=patience)
    finally:
        logger.removeHandler(caplog.handler)
    told = [record.message for record in caplog.records if "is undefined at the first validation" in record.message]
    assert len(told) == 1
    assert "(val/auc: " in told[0]
    assert "positive" in told[0] or "negative" in told[0]  # of which there are none
    assert epochs(models) == 2
    assert torch.equal(content(models, "model.pt")["head.weight"], content(models)["model"]["weight"])
    resumed = train(bundle, data, epochs=3, patience=patience, resume=str(models / "progress.pt"))
    assert torch.equal(content(resumed, "model.pt")["head.weight"], content(resumed)["model"]["weight"])


def test_of_several_numbers_the_kept_epoch_is_on_their_front_and_nearest_to_the_optimum(
    bundle: Path, xray_dir: Path, seen: list[dict[str, float]]
) -> None:
    names = ["val/sex/disparity/gap/auc", "val/accuracy", "val/brier"]
    models = train(bundle, xray_dir, epochs=8, select_by=",".join(names))
    points = np.array([[metrics[name] for name in names] for metrics in seen])
    distances = np.linalg.norm(points - [0, 1, 0], axis=1)
    np.testing.assert_allclose([-metrics["selection"] for metrics in seen], distances)
    front = pareto_front(points, [selection_sign(name) for name in names])
    assert 0 < front.sum() < len(front)
    assert front[distances.argmin()]
    assert content(models)["best"]["_saved"][0][0] == -distances.min()
