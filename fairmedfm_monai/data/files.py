"""Checks of the files that a manifest names: there, readable, whole, and mask on the grid of its image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from fairmedfm_monai.data.card import Card
from fairmedfm_monai.data.headers import Header, check_whole, mask_values, read_header
from fairmedfm_monai.data.manifest import EMPTY_CELLS
from fairmedfm_monai.data.problems import Problem, examples

_THREADS = 4
_VOXEL = 0.1  # grids may differ by this part of a voxel at a corner: affines are stored as float32

Finding = tuple[str, str]  # kind of problem, text of one example


def check_paths(table: pd.DataFrame, root: Path) -> list[Problem]:
    """Whether every image and mask is a relative path inside the folder and is there."""
    problems = []
    listings: dict[str, set[str]] = {}
    for column in [name for name in ("image", "mask") if name in table]:
        paths = [path for path in table[column] if path not in EMPTY_CELLS]
        outside = {path for path in paths if Path(path).is_absolute() or ".." in PurePosixPath(path).parts}
        if outside:
            message = f"column {column!r} must hold paths inside the folder, but got {examples(sorted(outside))}"
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


def check_files(table: pd.DataFrame, card: Card, root: Path) -> list[Problem]:
    """Open every file that is there: header, wholeness, grid of mask and image, values of masks.

    Reads headers where the format allows it; pictures, DICOM and MHA are decoded once to find damage, masks for their
    values.
    """
    if "image" not in table:
        return []
    masks = table["mask"] if card.task == "segmentation" and "mask" in table else [""] * len(table)
    pairs = [(image, mask) for image, mask in zip(table["image"], masks, strict=True) if image not in EMPTY_CELLS]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda pair: _check_case(root, pair, card), pairs))
    return _summarise([finding for findings in found for finding in findings], len(pairs))


def _check_case(root: Path, pair: tuple[str, str], card: Card) -> list[Finding]:
    image, mask = pair
    findings: list[Finding] = []
    grid = _open(root, image, findings)
    if grid is not None and len(grid.shape) != card.spatial_dims:
        findings.append(("dims", f"{image} {_size(grid)}"))
    if mask in EMPTY_CELLS:
        return findings
    mask_grid = _open(root, mask, findings)
    if mask_grid is None:
        return findings
    if mask_grid.channels != 1:
        findings.append(("mask_channels", f"{mask} ({mask_grid.channels})"))
        return findings
    difference = _grid_difference(grid, mask_grid)
    if difference:
        findings.append(("geometry", f"{image} and {mask} ({difference})"))
    unnamed = mask_values(root / mask) - {0, *card.labels.values()}
    findings += [("mask_value", f"{value:g}") for value in unnamed]
    return findings


def _open(root: Path, path: str, findings: list[Finding]) -> Header | None:
    if not (root / path).exists():
        return None  # `check_paths` has told it
    try:
        header = read_header(root / path)
        check_whole(root / path)
    except Exception as error:  # libraries raise anything on a damaged file
        reason = str(error).strip().splitlines() or [type(error).__name__]
        findings.append(("unreadable", f"{path} ({reason[-1][-160:]})"))
        return None
    return header


def _grid_difference(image: Header | None, mask: Header) -> str:
    """How the grids differ, empty where they agree (shape, and place of the corners where both files tell it)."""
    if image is None:
        return ""
    if image.shape != mask.shape:
        return f"{_size(image)} and {_size(mask)}"
    if image.affine is None or mask.affine is None:
        return ""
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in image.shape[:3]])).reshape(3, -1)
    shift = (image.affine - mask.affine) @ np.vstack([corners, np.ones(corners.shape[1])])
    furthest = float(np.linalg.norm(shift[:3], axis=0).max())
    spacing = float(np.linalg.norm(image.affine[:3, :3], axis=0).min())
    return "" if furthest <= _VOXEL * spacing else f"corners up to {furthest:.3g} mm apart"


def _size(header: Header) -> str:
    return " x ".join(map(str, header.shape))


def _summarise(findings: Iterable[Finding], total: int) -> list[Problem]:
    texts: dict[str, list[str]] = {}
    for kind, text in findings:
        texts.setdefault(kind, []).append(text)
    wording: Sequence[tuple[str, str, str]] = (
        ("unreadable", "error", "{n} files cannot be read: {list}"),
        ("dims", "error", "{n} of {total} images have not the card's number of `spatial_dims`: {list}"),
        ("geometry", "error", "{n} of {total} masks do not lie on the grid of their image: {list}"),
        ("mask_channels", "error", "{n} masks have several channels, save them as one channel of label values: {list}"),
        ("mask_value", "warning", "masks hold values that `labels` does not name; they count as background: {list}"),
    )
    problems = []
    for kind, level, words in wording:
        if kind in texts:
            shown: Iterable[Any] = sorted(set(texts[kind])) if kind == "mask_value" else texts[kind]
            message = words.format(n=len(texts[kind]), total=total, list=examples(shown))
            problems.append(Problem(kind, message, level))
    return problems
