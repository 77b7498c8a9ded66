"""What holds for every public dataset, checked on a miniature of its release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from fairmedfm_monai.data import load_dataset, validate_folder
from fairmedfm_monai.data.dataset import DatasetInfo
from fairmedfm_monai.data.prepare import Prepared, find_dataset, prepare_dataset
from tests.bundle.runs import copy_bundle, run, tables


def prepared(name: str, source: Path, output: Path, **options: Any) -> tuple[DatasetInfo, Prepared]:
    """Prepare, validate with every file opened, and load; returns both results."""
    dataset = find_dataset(name)
    choices = {key: options.pop(key) for key in ("rule", "protocol", "seed") if key in options}
    result = prepare_dataset(
        dataset, source, output, choice=dataset.choose(**choices), workers=1, progress=False, **options
    )
    report = validate_folder(result.folder, deep=True)
    assert report.ok, str(report)
    info = load_dataset(result.folder)
    assert info.card.release == dataset.name
    provenance = json.loads((result.folder / "provenance.json").read_text(encoding="utf-8"))
    assert provenance["counts"]["cases"] == len(info.table)
    # A second run finds everything there and gives the same folder, split and hashes.
    prepare_dataset(dataset, source, output, choice=dataset.choose(**choices), workers=1, progress=False, **options)
    assert json.loads((result.folder / "provenance.json").read_text(encoding="utf-8")) == provenance
    return info, result


def evaluate(
    info: DatasetInfo, folder: Path, tracking_uri: str, *, bundle: str | None = None, **overrides: Any
) -> pd.DataFrame:
    """Run one bundle's evaluation on a prepared folder with demo weights; its subgroup table."""
    name = bundle or (
        "demo_clip_classification_zero_shot" if info.task == "classification" else "demo_sam_segmentation_prompted"
    )
    copy = copy_bundle(name, folder)
    run(copy, "evaluate", dataset_dir=str(info.root), tracking_uri=tracking_uri, n_bootstrap=10, **overrides)
    predictions, subgroups, _ = tables(copy / "eval")
    evaluated = info.table[info.table["split"].isin(["val", "test"])]
    assert set(predictions["split"]) <= {"val", "test"}
    assert len(set(zip(predictions["split"], predictions["patient_id"], strict=True))) == len(
        evaluated[["split", "patient_id"]].drop_duplicates()
    )
    assert set(info.attributes) <= set(subgroups["attribute"])
    return subgroups
