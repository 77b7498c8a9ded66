"""Every bundle runs as its users run it: train, evaluate, infer, with tiny weights on small phantom data."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fairmedfm_monai.bundle.configs.common import TRAINED as TRAINED_USAGES
from fairmedfm_monai.bundle.render import bundle_names
from fairmedfm_monai.catalog import Row, input_spec, rows
from tests.bundle.runs import chain, copy_bundle, run, tables

FMS = [row for row in rows().values() if row.task == "classification"]


def covering() -> set[str]:
    """The bundles that train without ``--full``: all usages of demo_clip; of each other FM one, dealt out in turn."""
    chosen = {f"demo_clip_classification_{usage}" for usage in TRAINED_USAGES}
    for number, row in enumerate(FMS):
        usages = [usage for usage in row.usages if usage in TRAINED_USAGES]
        chosen |= (
            {f"{row.name}_classification_{usage}" for usage in usages[number % len(usages) :][:1]} if usages else set()
        )
    return chosen


TRAINED = [
    pytest.param(name, marks=() if name in covering() else pytest.mark.full)
    for name in bundle_names()
    if "_classification_" in name and not name.endswith("zero_shot")
]
ZERO_SHOT = [name for name in bundle_names() if name.endswith("zero_shot")]


Copy = Callable[[str], Path]


@pytest.fixture
def bundle_copy(tmp_path: Path) -> Copy:
    return lambda name: copy_bundle(name, tmp_path)


@pytest.mark.parametrize("name", [row.bundles[0] for row in FMS if row.is_volumetric and row.bundles])
def test_a_model_of_ct_volumes_refuses_pictures(name: str, bundle_copy: Copy, xray_dir: Path) -> None:
    bundle = bundle_copy(name)
    options = {"weights": "tiny", "variant": smallest_variant(row_of(name)), "dataset_dir": str(xray_dir)}
    for config in ("train", "evaluate"):
        with pytest.raises((RuntimeError, ValueError)) as caught:
            run(bundle, config, tracking_uri="off", **options)
        assert "but got 2D 'xray'; take a bundle of a model of pictures" in chain(caught.value)


@pytest.mark.parametrize("name", ZERO_SHOT)
def test_zero_shot_evaluates_and_is_stamped(name: str, bundle_copy: Copy, xray_dir: Path, tracking_uri: str) -> None:
    bundle = bundle_copy(name)
    run(bundle, "evaluate", weights="tiny", dataset_dir=str(xray_dir), tracking_uri=tracking_uri, n_bootstrap=20)
    predictions, subgroups, disparities = tables(bundle / "eval")
    assert sorted(predictions["split"].unique()) == ["test", "val"]
    assert len(predictions) == 24 + 48
    assert predictions["score"].between(0, 1).all()
    assert {"sex", "age", "race"} <= set(subgroups["attribute"])
    assert "gap" in set(disparities["statistic"])
    report = (bundle / "eval" / "report.html").read_text(encoding="utf-8")
    assert "tiny random weights" in report
    assert "semi-synthetic" in report
    assert json.loads((bundle / "eval" / "run.json").read_text(encoding="utf-8"))


def row_of(name: str) -> Row:
    return next(row for row in FMS if name in row.bundles)


def smallest_variant(row: Row) -> str:
    """Of a model of volumes, the variant of the fewest voxels; else the default."""
    sizes = {name: np.prod(input_spec(row.name, name).get("window", 0)) for name in row.variants}
    return min(sizes, key=lambda name: (sizes[name], name != row.default_variant))


@pytest.mark.parametrize("name", TRAINED)
def test_trained_usages_train_evaluate_and_infer(
    name: str, bundle_copy: Copy, xray_dir: Path, ct_nodules_dir: Path, tracking_uri: str
) -> None:
    row, bundle = row_of(name), bundle_copy(name)
    data, classes = (xray_dir, ["no_finding", "finding"])
    options: dict[str, object] = {"epochs": 2, "batch_size": 8}
    if row.is_volumetric:
        data, classes = (ct_nodules_dir, ["no_nodule", "nodule"])
        options = {"epochs": 1, "variant": smallest_variant(row)}
    common = {"dataset_dir": str(data), "tracking_uri": tracking_uri}
    run(bundle, "train", weights="tiny", **options, **common)
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert any(key.startswith("encoder.") for key in state)
    assert any(key.startswith("head.") for key in state)
    assert not any("lora" in key or "base_model" in key for key in state)
    info = json.loads((bundle / "models" / "model.json").read_text(encoding="utf-8"))
    assert (info["weights"], list(info["classes"])) == ("tiny", classes)
    if name.endswith("lora"):
        assert (bundle / "models" / "adapter.safetensors").exists()

    run(bundle, "evaluate", n_bootstrap=20, **common)
    predictions, _, _ = tables(bundle / "eval")
    assert "tiny random weights" in (bundle / "eval" / "report.html").read_text(encoding="utf-8")

    run(bundle, "inference", output_dir=str(bundle / "inferred"), **common)
    inferred = pd.read_csv(bundle / "inferred" / "predictions.csv")
    assert inferred["stamp"].str.contains("tiny").all()
    test = predictions[predictions["split"] == "test"]
    # Cached features and images give the same scores, whatever the order of the rows.
    np.testing.assert_allclose(sorted(inferred[f"probability_{classes[1]}"]), sorted(test["score"]), atol=1e-5)


def test_a_finished_run_is_never_overwritten(bundle_copy: Copy, xray_dir: Path) -> None:
    bundle = bundle_copy("demo_clip_classification_zero_shot")
    options = {
        "weights": "tiny",
        "dataset_dir": str(xray_dir),
        "tracking_uri": "off",
        "n_bootstrap": 0,
        "split": ["test"],
    }
    run(bundle, "evaluate", **options)
    before = (bundle / "eval" / "subgroups.csv").read_bytes()
    run(bundle, "evaluate", seed=1, **options)
    assert (bundle / "eval" / "subgroups.csv").read_bytes() == before
    assert (bundle / "eval-01" / "subgroups.csv").exists()


def test_two_runs_agree_to_the_bit(bundle_copy: Copy, xray_dir: Path) -> None:
    bundle = bundle_copy("demo_clip_classification_zero_shot")
    for name in ("one", "two"):
        run(
            bundle,
            "evaluate",
            weights="tiny",
            dataset_dir=str(xray_dir),
            tracking_uri="off",
            n_bootstrap=50,
            output_dir=str(bundle / name),
        )
    for table in ("subgroups.csv", "disparities.csv"):
        assert (bundle / "one" / table).read_bytes() == (bundle / "two" / table).read_bytes()


def test_a_checkpoint_of_another_model_is_refused_with_names(bundle_copy: Copy, xray_dir: Path) -> None:
    bundle = bundle_copy("demo_clip_classification_linear_probe")
    common = {"dataset_dir": str(xray_dir), "tracking_uri": "off"}
    run(bundle, "train", weights="tiny", epochs=1, **common)
    torch.save({"backbone.weight": torch.zeros(3)}, bundle / "models" / "model.pt")
    with pytest.raises(RuntimeError) as caught:
        run(bundle, "evaluate", **common)
    assert "backbone.weight" in chain(caught.value)


def test_an_untrained_bundle_says_to_train_first(bundle_copy: Copy, xray_dir: Path) -> None:
    with pytest.raises((RuntimeError, FileNotFoundError)) as caught:
        run(
            bundle_copy("demo_clip_classification_linear_probe"),
            "evaluate",
            weights="tiny",
            dataset_dir=str(xray_dir),
            tracking_uri="off",
        )
    assert "train this bundle first" in chain(caught.value)


def test_a_wrong_select_by_stops_before_the_first_epoch(bundle_copy: Copy, xray_dir: Path) -> None:
    bundle = bundle_copy("demo_clip_classification_linear_probe")
    with pytest.raises((RuntimeError, ValueError)) as caught:
        run(bundle, "train", weights="tiny", dataset_dir=str(xray_dir), tracking_uri="off", select_by="val/acu")
    assert "val/auc" in chain(caught.value)
    assert not (bundle / "models" / "model.pt").exists()


def _command(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "monai.bundle", "run", *arguments, "--tracking_uri", "off", "--weights", "tiny"]
    return subprocess.run(command, cwd=bundle, capture_output=True, encoding="utf-8", check=False, timeout=300)


def test_the_command_line_refuses_a_misspelt_override(bundle_copy: Copy, xray_dir: Path) -> None:
    bundle = bundle_copy("demo_clip_classification_zero_shot")
    arguments = ("--config_file", "configs/evaluate.json", "--dataset_dir", str(xray_dir), "--n_botstrap", "5")
    done = _command(bundle, *arguments)
    assert done.returncode != 0
    assert "--n_botstrap (did you mean n_bootstrap" in done.stderr
    assert not (bundle / "eval").exists()


def test_an_image_that_fails_is_reported_and_the_rest_goes_on(
    bundle_copy: Copy, xray_dir: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(xray_dir, tmp_path / "data"))
    broken = pd.read_csv(data / "manifest.csv").query("split == 'test'").iloc[3]
    (data / broken["image"]).write_bytes((data / broken["image"]).read_bytes()[:200])
    bundle = bundle_copy("demo_clip_classification_zero_shot")
    done = _command(bundle, "--config_file", "configs/evaluate.json", "--dataset_dir", str(data), "--n_bootstrap", "0")
    assert done.returncode == 4, done.stderr[-2000:]
    assert broken["case_id"] in done.stdout
    predictions, subgroups, _ = tables(bundle / "eval")
    assert (predictions["failed"] != "").sum() == 1
    assert len(predictions) == 72
    assert subgroups.query("attribute == 'overall' and split == 'test'")["n_failed"].eq(1).all()
