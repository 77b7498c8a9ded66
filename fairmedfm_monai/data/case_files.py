"""Open the files of one case and say what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairmedfm_monai.data.file_reasons import why_unreadable
from fairmedfm_monai.data.headers import Header, check_whole, mask_values, read_header
from fairmedfm_monai.data.problems import examples

Finding = tuple[str, str]  # kind of problem, text of one example
_VOXEL = 0.1  # grids may differ by this part of a voxel at a corner: affines are stored as float32


@dataclass(frozen=True)
class Rules:
    """What the files of a dataset must be.

    Attributes:
        spatial_dims: 2 for images, 3 for volumes.
        values: values that a mask may hold.
    """

    spatial_dims: int
    values: tuple[float, ...] = ()


def check_case(root: Path, image: str, mask: str, rules: Rules) -> list[Finding]:
    """Open image and mask: wholeness, number of axes, grid of the mask, values of the mask.

    Args:
        root: the dataset folder.
        image: path inside it.
        mask: path inside it, or empty.
        rules: what is expected.
    """
    findings: list[Finding] = []
    grid = _open(root, image, findings)
    if grid is not None and len(grid.shape) != rules.spatial_dims:
        findings.append(("dims", f"{image} ({_size(grid)})"))
    mask_grid = _open(root, mask, findings) if mask else None
    if mask_grid is None:
        return findings
    if mask_grid.channels != 1:
        findings.append(("mask_channels", f"{mask} ({mask_grid.channels})"))
        return findings
    difference = _grid_difference(grid, mask_grid)
    if difference:
        findings.append(("geometry", f"{image} and {mask} ({difference})"))
    unnamed = sorted(mask_values(root / mask) - {0.0, *rules.values})
    if unnamed:
        findings.append(("mask_value", f"{mask} ({examples(f'{value:g}' for value in unnamed)})"))
    return findings


def _open(root: Path, path: str, findings: list[Finding]) -> Header | None:
    file = root / path
    if not file.exists():
        return None  # `check_paths` has told it
    try:
        header = read_header(file)
        check_whole(file)
    except Exception as error:  # libraries raise anything on a damaged file
        findings.append(("unreadable", f"{path} ({why_unreadable(file, error)})"))
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
