"""Copies of bundles and how to run them in this process; shared by the tests that run bundles."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

BUNDLES = Path(__file__).parents[2] / "bundles"


def copy_bundle(name: str, folder: Path) -> Path:
    """What a user makes of a bundle: a copy outside the repository."""
    ignored = shutil.ignore_patterns("models", "eval", "eval-*")
    return Path(shutil.copytree(BUNDLES / name, folder / name, ignore=ignored))


def run(bundle: Path, config: str, **overrides: object) -> None:
    from monai.bundle import run as run_bundle

    run_bundle(config_file=str(bundle / "configs" / f"{config}.json"), bundle_root=str(bundle), **overrides)


def tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Predictions, subgroups, disparities."""
    from fairmedfm_monai.fairness import read_table

    predictions = pd.read_parquet(folder / "predictions.parquet")
    return predictions, read_table(folder / "subgroups.csv"), read_table(folder / "disparities.csv")
