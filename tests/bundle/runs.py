"""Copies of bundles and how to run them in this process; shared by the tests that run bundles."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch

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


def chain(error: BaseException | None) -> str:
    """The texts of an error and of what led to it: MONAI wraps what an expression raises."""
    return "" if error is None else f"{error}\n{chain(error.__cause__ or error.__context__)}"


def same(one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor]) -> bool:
    """Whether two states hold the same tensors in the same order, to the bit."""
    return list(one) == list(two) and all(torch.equal(one[key], two[key]) for key in one)
