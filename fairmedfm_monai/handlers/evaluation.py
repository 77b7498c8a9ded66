"""The full evaluation of a predictions table: predictions to disk first, then numbers, then the report."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from fairmedfm_monai.fairness.predictions import evaluate_predictions, write_predictions
from fairmedfm_monai.fairness.report import FairnessReport
from fairmedfm_monai.reporting import wording
from fairmedfm_monai.reporting.files import HASHED_FILE, PREDICTIONS_FILE
from fairmedfm_monai.reporting.html import write_report

from .privacy import hide_ids

if TYPE_CHECKING:
    from fairmedfm_monai.data.dataset import DatasetInfo

_PACKAGES = ("fairmedfm-monai", "monai", "torch", "pytorch-ignite", "numpy", "scipy", "pandas", "mlflow")


@dataclass(frozen=True)
class Settings:
    """How an evaluation is made and described.

    Attributes:
        operating_point: given threshold (one per class for multi-label); None = from the validation split.
        n_bootstrap: bootstrap replicates.
        seed: of everything random.
        stamps: sentences on the weights or data that head every output.
        title: of the report; empty = made from ``tags`` and the dataset.
        tags: what the model is (fm, usage, variant, weights, ...).
        files: files whose SHA-256 identifies the run (checkpoint, config, ...).
    """

    operating_point: float | Mapping[str, float] | None = None
    n_bootstrap: int = 1000
    seed: int = 0
    stamps: Sequence[str] = ()
    title: str = ""
    tags: Mapping[str, Any] = field(default_factory=dict)
    files: Sequence[str] = ()


def predictions_meta(info: DatasetInfo, prompts: Sequence[str], stamps: Sequence[str]) -> dict[str, Any]:
    """What a predictions table needs beside its columns to be evaluated again without the dataset."""
    return {
        "task": info.task,
        "classes": list(info.classes),
        "positive_class": info.positive_class,
        "multi_label": info.multi_label,
        "labels": dict(info.labels),
        "prompts": list(prompts),
        "attributes": {name: list(groups) for name, groups in info.attributes.items()},
        "attribute_titles": {
            name: title for name in info.attributes if (title := info.card.attributes[name].title) != name
        },
        "intersections": [list(names) for names in info.intersections],
        "unit": info.unit,
        "dataset": info.name,
        "stamps": list(stamps),
        "notice": info.notice,
    }


def write_evaluation(
    table: pd.DataFrame,
    meta: Mapping[str, Any],
    output_dir: str | Path,
    *,
    settings: Settings,
    info: DatasetInfo | None = None,
    log_cases: bool = False,
    salt: str = "",
) -> FairnessReport:
    """Write the predictions, evaluate them and write the report.

    Args:
        table: predictions with real ids.
        meta: from :func:`predictions_meta`.
        output_dir: created when absent.
        settings: how to evaluate and describe.
        info: adds the dataset's title, hash and readers' agreement to ``run.json``.
        log_cases: keep real ids in ``predictions.parquet`` and make a copy with hashed ids that may be tracked.
        salt: for hashed ids.

    Returns:
        The evaluation.

    Raises:
        RuntimeError: when evaluation or report fail; the predictions are on disk and the message says so.
    """
    folder = Path(output_dir)
    hidden = hide_ids(table, salt)
    kept = table if log_cases else hidden
    file = write_predictions(kept, meta, folder / PREDICTIONS_FILE)
    (folder / HASHED_FILE).unlink(missing_ok=True)  # of an overwritten run
    if log_cases:
        write_predictions(hidden, meta, folder / HASHED_FILE)
    try:
        report = evaluate_predictions(
            table,
            meta,
            operating_point=settings.operating_point,
            n_bootstrap=settings.n_bootstrap,
            seed=settings.seed,
        )
        write_report(
            report,
            folder,
            title=settings.title or _title(settings.tags, meta, info),
            banners=_banners(meta),
            predictions=table,
            run=_run(table, meta, settings, info, file),
        )
    except Exception as error:
        msg = (
            f"the evaluation failed ({type(error).__name__}: {error}), but the predictions of all "
            f"{table['case_id'].nunique()} cases are in {file}; evaluate them again with "
            f"`python -m fairmedfm_monai evaluate {file}`"
        )
        raise RuntimeError(msg) from error
    return report


def _banners(meta: Mapping[str, Any]) -> list[str]:
    return [*meta.get("stamps", []), *([meta["notice"]] if meta.get("notice") else [])]


def _title(tags: Mapping[str, Any], meta: Mapping[str, Any], info: DatasetInfo | None) -> str:
    model = ", ".join(wording.readable(str(tags[key])) for key in ("fm", "usage") if tags.get(key))
    dataset = info.card.title if info else str(meta.get("dataset", ""))
    return f"{model} on {dataset}" if model else f"Subgroup evidence on {dataset}"


def _run(
    table: pd.DataFrame, meta: Mapping[str, Any], settings: Settings, info: DatasetInfo | None, predictions: Path
) -> dict[str, Any]:
    failed = table[table["failed"] != ""]["case_id"].nunique()
    hashes = {PREDICTIONS_FILE: sha256(predictions)}
    hashes |= {Path(file).name: sha256(file) for file in settings.files if Path(file).is_file()}
    source: Mapping[str, Any] = info.card.source if info else {}
    return {
        "dataset": meta.get("dataset"),
        "dataset_title": info.card.title if info else None,
        "citation": info.card.citation if info else None,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "task": meta.get("task"),
        "attributes": meta.get("attributes", {}),
        "attribute_titles": meta.get("attribute_titles", {}),
        "reader_dice": source.get("reader_dice") or {},
        "n_cases": int(table["case_id"].nunique()),
        "n_failed": int(failed),
        "tags": dict(settings.tags),
        "seed": settings.seed,
        "n_bootstrap": settings.n_bootstrap,
        "hashes": {**({"dataset": info.fingerprint} if info else {}), **hashes},
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that produce the numbers."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package.replace("-", "_")] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def sha256(file: str | Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with Path(file).open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
