"""Arrays in NumPy's ``.npz`` files: thickness maps, pictures, label maps, and single values.

Nothing in a file is ever unpickled.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairmedfm_monai.data.card import raw_text
from fairmedfm_monai.data.prepare.makers.write import write_nifti, write_png

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError)
_THREADS = 4
# NumPy parses a header with `ast`, which fails now and then in two threads at once before Python 3.11.8 and 3.12.2.
_PARSER = Lock()
Scalars = dict[str, str]


def float_map(inputs: Sequence[Path], target: Path, *, keys: Sequence[str]) -> None:
    """Maker: a map of measured values, such as thickness in micrometres, as 2D NIfTI with every value as it is.

    A picture of 8 bits would round the values, a TIFF of 32 bits those of double precision. Read back, the map lies as
    a picture does: columns are x, rows are y.

    Args:
        inputs: the one ``.npz`` file.
        target: ``.nii`` or ``.nii.gz``.
        keys: names under which releases hold the map; the first that is there counts.

    Raises:
        ValueError: a damaged file, none of the keys, or no map of numbers.
    """
    values = _array(inputs, keys)
    if values.ndim != 2 or values.dtype.kind not in "biuf" or not values.size:
        msg = f"{inputs[0].name}: expected rows x columns of numbers, but got {values.dtype} of shape {values.shape}"
        raise ValueError(msg)
    write_nifti(values.T, target)


def picture(inputs: Sequence[Path], target: Path, *, keys: Sequence[str]) -> None:
    """Maker: a picture of 8 or 16 bits as PNG.

    Args:
        inputs: the one ``.npz`` file.
        target: ``.png``.
        keys: as in `float_map`.

    Raises:
        ValueError: a damaged file, none of the keys, or values that no picture has.
    """
    values = _array(inputs, keys)
    try:
        write_png(values, target)
    except ValueError as error:
        msg = f"{inputs[0].name}: {error}"
        raise ValueError(msg) from error


def label_map(
    inputs: Sequence[Path],
    target: Path,
    *,
    keys: Sequence[str],
    values: Sequence[Sequence[int]],
    like: Sequence[str] = (),
) -> None:
    """Maker: a label map as PNG, renumbered.

    Args:
        inputs: the one ``.npz`` file.
        target: ``.png``.
        keys: as in `float_map`.
        values: pairs of raw value and label, 0 (background) included.
        like: keys of the picture that must have the same rows and columns.

    Raises:
        ValueError: a damaged file, none of the keys, values that have no label, nothing but background, or another size
            than the picture.
    """
    name = inputs[0].name
    raw = _array(inputs, keys)
    labels = np.zeros(raw.shape, np.uint8)
    known = np.zeros(raw.shape, bool)
    for value, label in values:
        there = raw == value
        labels[there] = label
        known |= there
    if not known.all():
        strange = sorted({str(value) for value in np.unique(raw[~known])})[:5]
        msg = f"{name}: the mask holds {', '.join(strange)}; known are {', '.join(str(value) for value, _ in values)}"
        raise ValueError(msg)
    if not labels.any():
        msg = f"{name}: the mask is background everywhere, so there is nothing to compare with; fetch the file again"
        raise ValueError(msg)
    if like and _array(inputs, like).shape[:2] != raw.shape:
        msg = f"{name}: the mask has the shape {raw.shape}, the picture {_array(inputs, like).shape}"
        raise ValueError(msg)
    write_png(labels, target)


def read_scalars(paths: Iterable[Path], keys: Mapping[str, Sequence[str]]) -> list[Scalars | None]:
    """The single values of many files, as text; the large arrays beside them are not read.

    Args:
        paths: ``.npz`` files.
        keys: our name -> names under which releases hold the value; the first that is there counts.

    Returns:
        Per file our name -> text (whole numbers without point; names that are absent or pickled are left out), or None
        where the file cannot be read: its maker will say why.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda path: _scalars(path, keys), paths))


def read_array(path: Path, keys: Sequence[str]) -> NDArray[Any]:
    """The array of the first of ``keys`` that is there.

    Raises:
        ValueError: a damaged file, or none of the keys.
    """
    with _opened(path) as archive:
        key = next((key for key in keys if key in archive), None)
        if key is None:
            msg = f"it holds none of {', '.join(keys)}, but {', '.join(sorted(archive)) or 'nothing'}"
            raise ValueError(msg)
        return np.asarray(archive[key])


def _array(inputs: Sequence[Path], keys: Sequence[str]) -> NDArray[Any]:
    return read_array(inputs[0], keys)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open file; whatever damage shows while it is read becomes one ValueError with its name."""
    try:
        if not zipfile.is_zipfile(path):
            msg = "it is no npz archive, or its end is missing"
            raise ValueError(msg)
        with np.load(path, allow_pickle=False) as archive:
            yield archive
    except _DAMAGE as error:
        msg = f"{path.name}: the file is damaged or not what is expected: {error}"
        raise ValueError(msg) from error


def _scalars(path: Path, keys: Mapping[str, Sequence[str]]) -> Scalars | None:
    found: Scalars = {}
    try:
        with _opened(path) as archive:
            for name, others in keys.items():
                key = next((key for key in others if key in archive), None)
                text = None if key is None else _text(archive, key)
                if text is not None:
                    found[name] = text
    except (ValueError, OSError):
        return None
    return found


def _text(archive: Any, key: str) -> str | None:
    try:
        with _PARSER:
            value = archive[key]
    except ValueError as error:
        if "allow_pickle" in str(error):
            return None  # an object array: opening it would run what the file says
        raise
    if value.size != 1:
        return None
    only = value.reshape(-1)[0]
    whole = value.dtype.kind == "f" and float(only).is_integer()
    return raw_text(float(only)) if whole else raw_text("" if only != only else str(only))  # noqa: PLR0124 (NaN)
