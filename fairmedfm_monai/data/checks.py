"""Checks of a dataset folder's files, and the table of what it holds."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pandas as pd

from fairmedfm_monai.data.card import Card
from fairmedfm_monai.data.manifest import EMPTY_CELLS
from fairmedfm_monai.data.problems import Problem, examples


def check_paths(table: pd.DataFrame, card: Card, root: Path) -> list[Problem]:
    """Whether every image and mask is a relative path inside the folder and is there."""
    problems = []
    listings: dict[str, set[str]] = {}
    for column in ["image", *(["mask"] if card.task == "segmentation" else [])]:
        paths = [path for path in table.get(column, ()) if path not in EMPTY_CELLS]
        outside = [path for path in paths if Path(path).is_absolute() or ".." in PurePosixPath(path).parts]
        if outside:
            message = f"column {column!r} must hold paths inside the folder, but got {examples(outside)}"
            problems.append(Problem("path", message))
        missing = [path for path in paths if path not in outside and not _is_there(root, path, listings)]
        if missing:
            message = f"{len(missing)} of {len(paths)} files of column {column!r} are missing: {examples(missing)}"
            problems.append(Problem("missing_file", message))
    return problems


def _is_there(root: Path, path: str, listings: dict[str, set[str]]) -> bool:
    """Look a path up in its folder's listing: one directory read instead of one system call per file."""
    folder, name = os.path.split(os.path.normpath(path))
    if folder not in listings:
        try:
            listings[folder] = set(os.listdir(root / folder))
        except OSError:
            listings[folder] = set()
    return name in listings[folder]
