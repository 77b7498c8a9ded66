"""Label maps made of other label maps: several masks in one file, or other numbers."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairmedfm_monai.data.file_reasons import why_unreadable
from fairmedfm_monai.data.headers import kind_of
from fairmedfm_monai.data.prepare.makers.write import write_nifti, write_png
from fairmedfm_monai.data.problems import examples

_HIGHEST = 65535  # label values from here on are refused: no release has them, a damaged file may


def combine(inputs: Sequence[Path], target: Path, *, labels: Sequence[int]) -> None:
    """Maker: one label map of several masks, each in a file of its own, as PNG.

    Args:
        inputs: pictures of one size; each holds 0 and one other value.
        target: ``.png``.
        labels: the label of each input; inputs of the same label are united.

    Raises:
        ValueError: a damaged file, another size, grey values between, two labels on one pixel, or nothing but
            background.
    """
    combined: NDArray[Any] | None = None
    for path, label in zip(inputs, labels, strict=True):
        there = _binary(path)
        if combined is None:
            combined = np.zeros(there.shape, np.uint8)
        elif there.shape != combined.shape:
            msg = f"{path.name}: {_size(there)}, but {inputs[0].name} has {_size(combined)} (columns x rows)"
            raise ValueError(msg)
        others = int((there & (combined > 0) & (combined != label)).sum())
        if others:
            msg = f"{path.name}: {others} pixels are in two masks of different labels, so that neither can be given"
            raise ValueError(msg)
        combined[there] = label
    if combined is None or not combined.any():
        names = ", ".join(f"{path.parent.name}/{path.name}" for path in inputs)
        msg = f"{names}: the masks are background everywhere; fetch them again"
        raise ValueError(msg)
    write_png(combined, target)


def renumber(inputs: Sequence[Path], target: Path, *, values: Sequence[Sequence[int]]) -> None:
    """Maker: a label map with other numbers, on the same grid.

    Args:
        inputs: one label map, NIfTI or a picture of one channel.
        target: ``.nii`` or ``.nii.gz`` of a NIfTI input, else ``.png``.
        values: pairs of raw value and label, 0 (background) included; several raw values may have one label.

    Raises:
        ValueError: a damaged file, values that have no label, or nothing but background in the input.
    """
    path = inputs[0]
    raw, affine = _read(path)
    table = _lookup(path, raw, {int(value): int(label) for value, label in values})
    if affine is None:
        write_png(table[raw], target)
    else:
        write_nifti(table[raw], target, affine=affine)


def _lookup(path: Path, raw: NDArray[Any], values: dict[int, int]) -> NDArray[Any]:
    """Raw value -> label, as an array that is as small as the labels allow."""
    low, high = int(raw.min()), int(raw.max())
    if low < 0 or high > _HIGHEST:
        msg = f"{path.name}: a label map holds values from 0 to {_HIGHEST}, but this file has {low} to {high}"
        raise ValueError(msg)
    present = np.zeros(high + 1, bool)
    present[raw] = True
    found = np.flatnonzero(present)
    strange = [int(value) for value in found if int(value) not in values]
    if strange:
        msg = f"{path.name}: the mask holds {examples(strange)}; known are {', '.join(map(str, values))}"
        raise ValueError(msg)
    if found.tolist() == [0]:
        msg = f"{path.name}: the mask is background everywhere; fetch the file again"
        raise ValueError(msg)
    table = np.zeros(high + 1, np.uint8 if max(values.values()) <= np.iinfo(np.uint8).max else np.uint16)
    for value in found:
        table[value] = values[int(value)]
    return table


def _binary(path: Path) -> NDArray[Any]:
    """Where a picture is not background; rows x columns."""
    values, _ = _read(path)
    levels = np.unique(values)
    if values.ndim != 2 or len(levels[levels != 0]) > 1:
        kind = f"{values.ndim} dimensions" if values.ndim != 2 else f"the values {examples(levels.tolist())}"
        msg = f"{path.parent.name}/{path.name}: a mask has one channel with 0 and one other value, but it has {kind}"
        raise ValueError(msg)
    return np.asarray(values != 0)


def _read(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Whole numbers of a label map, and its affine (None for a picture).

    Raises:
        ValueError: with the file's name and what is wrong with it.
    """
    try:
        values, affine = _read_nifti(path) if kind_of(path) == "nifti" else (_read_picture(path), None)
    except Exception as error:  # libraries raise anything on a damaged file
        msg = f"{path.name} cannot be read: {why_unreadable(path, error)}"
        raise ValueError(msg) from error
    if values.dtype.kind == "f":
        whole = np.nan_to_num(values).astype(np.int32)
        values = whole if np.array_equal(whole, values) else values
    if values.dtype.kind not in "bui" or not values.size:
        msg = (
            f"{path.name}: a label map holds whole numbers, but this file has {values.dtype} of {_size(values)} voxels"
        )
        raise ValueError(msg)
    return values.astype(np.uint8) if values.dtype.kind == "b" else values, affine


def _read_nifti(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    import nibabel

    content = path.read_bytes()
    # Unpacked here and not by nibabel, which stops before the checksum at the end.
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(content) if path.suffix == ".gz" else content)
    return np.asanyarray(image.dataobj), np.asarray(image.affine)


def _read_picture(path: Path) -> NDArray[Any]:
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture)


def _size(values: NDArray[Any]) -> str:
    return " x ".join(map(str, values.shape[::-1]))
