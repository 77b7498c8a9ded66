"""How well patients' attributes can be read from the features of a frozen foundation model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from torch import Tensor

from fairmedfm_monai.bundle.configs import classification_parts as parts
from fairmedfm_monai.bundle.configs import common
from fairmedfm_monai.bundle.settings import stamps
from fairmedfm_monai.catalog import Row
from fairmedfm_monai.data.dataset import DatasetInfo, load_dataset
from fairmedfm_monai.data.features import FeatureDataset
from fairmedfm_monai.fairness.classification import evaluate_classification
from fairmedfm_monai.handlers.output import write_atomic
from fairmedfm_monai.usages.logistic import Logistic, fit_logistic

COLUMNS = (
    *("attribute", "group", "value", "ci_low", "ci_high", "unit"),
    *("n_patients", "n_cases", "n_positives", "n_negatives", "n_train", "n_unknown", "penalty", "reason"),
)
TABLE_FILE = "attributes.csv"
RUN_FILE = "run.json"
PENALTIES = (1.0, 0.1, 0.01, 0.001, 0.0001)
_MIDDLE = 0.01  # where there is no validation set to choose by


@dataclass(frozen=True)
class Features:
    """Features (N, D) of the cases of one split, and the table rows (N) they belong to."""

    matrix: Tensor
    table: pd.DataFrame


def read_features(dataset: DatasetInfo, split: str, *, parser: ConfigParser) -> Features | None:
    """Features of a split from the cache, which the linear probe's bundle shares; None where the split is empty."""
    if not (dataset.table["split"] == split).any():
        return None
    cases: FeatureDataset = parser.get_parsed_content(f"dataset_{split}")
    cases.encode()
    items = [cases[index] for index in range(len(cases))]
    kept = [index for index, item in enumerate(items) if not item["failed"]]
    matrix = torch.stack([items[index]["image"] for index in kept])
    # Slices of a volume: their mean.
    matrix = matrix.mean(dim=1) if matrix.ndim == 3 else matrix
    table = dataset.table[dataset.table["split"] == split].iloc[kept].reset_index(drop=True)
    return Features(matrix, table)


def feature_config(
    row: Row, dataset_dir: str, *, variant: str, weights: str, device: str | None, num_workers: int
) -> ConfigParser:
    """The parts of the linear probe's bundle that make features, so that both read one cache."""
    config: dict[str, Any] = {
        "imports": common.IMPORTS,
        "dataset_dir": dataset_dir,
        "attributes": None,
        "variant": variant,
        "weights": weights,
        "amp": False,
        "device": common.DEVICE if device is None else f"$torch.device({device!r})",
        "num_workers": num_workers,
        **common.dataset_info(),
        "modality": "$@dataset_info.modality",
        "window": "$@dataset_info.window",
        **parts.settings(row, "linear_probe"),
        "spatial_dims": "$@dataset_info.spatial_dims",
        "classes": ["any"],
        "input_spec": parts.input_spec(row, "@variant"),
        "network_def": parts.network(row, "linear_probe", stage="train"),
        "preprocessing": parts.preprocessing(row),
    }
    for split in ("train", "val", "test"):
        cases = f"$@dataset_info.cases('{split}')"
        config[f"dataset_{split}"] = parts.dataset("linear_probe", cases, "@preprocessing")
    return ConfigParser(config)


def probe_attribute(dataset: DatasetInfo, name: str, splits: dict[str, Features | None]) -> list[dict[str, Any]]:
    """Rows of the table for one attribute: the mean over groups and, with more than two groups, each against the rest.

    A logistic regression is fitted on ``train``, its penalty chosen by the cross-entropy on ``val``, and measured on
    ``test``. Cases whose group is not known, or does not occur in training, are left out and counted.
    """
    train, test = splits["train"], splits["test"]
    assert train is not None  # noqa: S101 - the caller has made sure
    assert test is not None  # noqa: S101
    groups = [group for group in dataset.attributes[name] if (train.table[name] == group).sum() >= 2]
    empty = {"attribute": name, "group": "all", "value": float("nan"), "unit": dataset.unit}
    if len(groups) < 2:
        reason = f"fewer than two groups with two training cases ({', '.join(groups) or 'none'})"
        return [empty | {"n_train": int(train.table[name].isin(groups).sum()), "reason": reason}]
    known = {split: _known(part, name, groups) for split, part in splits.items() if part is not None}
    features, labels, _ = known["train"]
    model, penalty = _best_model(features, labels, len(groups), known.get("val"))
    held_out, truth, patients = known["test"]
    counts = {"n_train": len(labels), "n_unknown": int(len(test.table) - len(truth)), "penalty": penalty}
    if len(truth) == 0:
        return [empty | counts | {"reason": "no test case of a group that occurs in training"}]
    scores = model.probabilities(held_out).double().numpy()
    found = _auc(truth, scores, groups, patients if dataset.unit == "patient" else None)
    return [empty | counts | record for record in found]


def _known(part: Features, name: str, groups: Sequence[str]) -> tuple[Tensor, NDArray[np.int64], NDArray[Any]]:
    """Features, group indices and patients of the cases of these groups."""
    codes = part.table[name].map({group: index for index, group in enumerate(groups)})
    rows = np.flatnonzero(codes.notna().to_numpy())
    patients = part.table["patient_id"].to_numpy()[rows]
    return part.matrix[torch.from_numpy(rows)], codes.to_numpy()[rows].astype(np.int64), patients


def _best_model(
    features: Tensor,
    labels: NDArray[np.int64],
    count: int,
    val: tuple[Tensor, NDArray[np.int64], NDArray[Any]] | None,
) -> tuple[Logistic, float]:
    target = torch.from_numpy(labels)
    if val is None or len(val[1]) == 0:
        return fit_logistic(features, target, count, penalty=_MIDDLE), _MIDDLE
    held_out, truth, _ = val
    fitted = [(fit_logistic(features, target, count, penalty=penalty), penalty) for penalty in PENALTIES]
    losses = [_cross_entropy(model.probabilities(held_out), truth) for model, _ in fitted]
    return fitted[int(np.argmin(losses))]


def _cross_entropy(probabilities: Tensor, truth: NDArray[np.int64]) -> float:
    chosen = probabilities[torch.arange(len(truth)), torch.from_numpy(truth)]
    return float(-chosen.clamp_min(1e-12).log().mean())


def _auc(
    truth: NDArray[np.int64], scores: NDArray[np.float64], groups: Sequence[str], patients: NDArray[Any] | None
) -> list[dict[str, Any]]:
    report = evaluate_classification(
        truth, scores, attributes={}, patient_id=patients, classes=groups, n_bootstrap=0, metrics=["auc"]
    )
    table = report.subgroups
    table = table[(table["attribute"] == "overall") & (table["metric"] == "auc")].copy()
    table["group"] = table["label"].where(table["label"] != "", "all")
    columns = ["group", "value", "ci_low", "ci_high", "unit", "n_patients", "n_cases", "n_positives", "n_negatives"]
    if len(groups) > 2:  # a mean over groups has no positives of its own
        table.loc[table["group"] == "all", ["n_positives", "n_negatives"]] = np.nan
    found = table.sort_values("group", key=lambda names: names != "all", kind="stable")[[*columns, "reason"]]
    return [{str(key): value for key, value in record.items()} for record in found.to_dict("records")]


def attribute_table(
    row: Row,
    dataset_dir: str,
    *,
    variant: str | None = None,
    weights: str = "pretrained",
    attributes: Sequence[str] | None = None,
    device: str | None = None,
    num_workers: int = 0,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """How well each attribute can be read from the features of a frozen FM, and what was done.

    Args:
        row: the FM.
        dataset_dir: dataset folder with the splits ``train`` and ``test`` (and ``val``, to choose the penalty by), or
            a built-in name; labels are not needed.
        variant: of the FM, default the catalog's.
        weights: ``pretrained``, a path, ``random`` or ``tiny``.
        attributes: names of the attributes; None = all.
        device: default the GPU where there is one.
        num_workers: processes that read images.

    Returns:
        Columns ``COLUMNS``: one row per attribute (``group`` is ``all``; of more than two groups the mean of one
        against the rest) and, of more than two groups, one per group. ``value`` is the AUC on ``test`` with a 95 %
        interval that counts patients; NaN with a reason where there is none. And the record of the run.

    Raises:
        ValueError: an FM of segmentation, an unknown attribute, or a dataset without training or test cases.
    """
    if row.task != "classification":
        msg = f"`fm` must be an FM for classification, but {row.name!r} is for {row.task}"
        raise ValueError(msg)
    chosen = variant or row.default_variant
    parser = feature_config(row, dataset_dir, variant=chosen, weights=weights, device=device, num_workers=num_workers)
    dataset: DatasetInfo = parser.get_parsed_content("dataset_info")
    names = list(load_dataset(dataset_dir, attributes=attributes).attributes) if attributes else [*dataset.attributes]
    missing = [split for split in ("train", "test") if not (dataset.table["split"] == split).any()]
    if missing or not names:
        lacks = f"cases of split {' and '.join(missing)}" if missing else "attributes"
        msg = f"dataset {dataset.name!r} has no {lacks}: a probe is fitted on train and measured on test"
        raise ValueError(msg)
    splits = {split: read_features(dataset, split, parser=parser) for split in ("train", "val", "test")}
    rows = [record for name in names for record in probe_attribute(dataset, name, splits)]
    table = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    table["reason"] = table["reason"].fillna("")
    sizes = {split: len(part.table) for split, part in splits.items() if part is not None}
    stamped = stamps(weights, fm=row.name, release=dataset.card.release)
    run: dict[str, Any] = {"fm": row.name, "variant": chosen, "weights": weights, "stamps": stamped, "n": sizes}
    run |= {"dataset": dataset.name, "dataset_sha256": dataset.fingerprint, "penalties": list(PENALTIES)}
    return table, run


def write_attributes(table: pd.DataFrame, run: dict[str, Any], folder: Path) -> list[Path]:
    """Write ``attributes.csv`` and ``run.json``; return both."""
    files = [folder / TABLE_FILE, folder / RUN_FILE]
    stamped = table.assign(stamp="; ".join(run["stamps"]))
    write_atomic(files[0], lambda path: stamped.to_csv(path, index=False))
    write_atomic(files[1], lambda path: path.write_text(json.dumps(run, indent=4) + "\n", encoding="utf-8"))
    return files


def shown(table: pd.DataFrame, run: dict[str, Any]) -> list[str]:
    """Lines for people."""
    lines = [f"AUC of reading attributes from {run['fm']} {run['variant']} on {run['dataset']} (0.5 = cannot be read)"]
    lines += [f"  {stamp}" for stamp in run["stamps"]]
    for record in table.to_dict("records"):
        name = record["attribute"] if record["group"] == "all" else f"  {record['group']}"
        if not np.isfinite(record["value"]):
            lines.append(f"  {name:24} not estimated: {record['reason']}")
            continue
        interval = f"[{record['ci_low']:.3f}, {record['ci_high']:.3f}]"
        cases = f"{record['n_patients']:.0f} patients" if record["unit"] == "patient" else f"{record['n_cases']} images"
        unknown = f", {record['n_unknown']:.0f} unknown" if record["n_unknown"] else ""
        lines.append(f"  {name:24} {record['value']:.3f} {interval} ({cases}{unknown})")
    return lines
