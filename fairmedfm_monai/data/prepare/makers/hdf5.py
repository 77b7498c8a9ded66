"""Frames of HDF5 files that hold many pictures in one array, and the columns of text and numbers beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairmedfm_monai.data.card import raw_text
from fairmedfm_monai.data.prepare.makers.write import write_png

_BLOCK = 1 << 28  # bytes; frames that are stored together are read together up to this size


def frame(inputs: Sequence[Path], target: Path, *, key: str, index: int, values: Sequence[int] = ()) -> None:
    """Maker: one frame of an array (frames, rows, columns) or (frames, rows, columns, 3) as PNG.

    Args:
        inputs: the one HDF5 file.
        target: ``.png``.
        key: name of the array.
        index: number of the frame, from 0.
        values: the only values that the frame may hold, e.g. those of a mask; empty = any.

    Raises:
        ValueError: a damaged file, no such array or frame, other values, or values that no picture has.
    """
    path = inputs[0]
    picture = read_frame(path, key, index)
    strange = sorted(set(np.unique(picture).tolist()) - set(values)) if values else []
    if strange:
        listed, known = ", ".join(map(str, strange[:5])), ", ".join(map(str, values))
        msg = f"{path.name}: frame {index} of {key!r} holds {listed}; known are {known}"
        raise ValueError(msg)
    try:
        write_png(picture, target)
    except ValueError as error:
        msg = f"{path.name}: frame {index} of {key!r}: {error}"
        raise ValueError(msg) from error


def read_frame(path: Path, key: str, index: int) -> NDArray[Any]:
    """One frame of an array, shape (rows, columns) or (rows, columns, 3).

    Raises:
        ValueError: a damaged file, or no such array or frame.
    """
    with _opened(path) as file:
        array = _array(file, key)
        if array.ndim < 3 or not 0 <= index < len(array):
            msg = f"{key!r} has the shape {array.shape}, so there is no frame {index}"
            raise ValueError(msg)
        depth = array.chunks[0] if array.chunks else 1
        if depth == 1 or array.nbytes // len(array) * depth > _BLOCK:
            return np.asarray(array[index])
    stat = path.stat()
    block = _block(path, (stat.st_size, stat.st_mtime_ns), key, index - index % depth, depth)
    return block[index % depth]


def read_column(path: Path, key: str) -> list[str]:
    """An array of one text or number per frame, shape (frames,) or (frames, 1), as text; whole numbers without point.

    Raises:
        ValueError: a damaged file, no such array, or one of another shape.
    """
    with _opened(path) as file:
        array = _array(file, key)
        if array.size != len(array):
            msg = f"{key!r} must hold one value per frame, but has the shape {array.shape}"
            raise ValueError(msg)
        values = np.asarray(array).reshape(-1).tolist()
    return [raw_text(value.decode("utf-8", "replace") if isinstance(value, bytes) else value) for value in values]


def read_shape(path: Path, key: str) -> tuple[int, ...]:
    """Shape of an array, the number of frames first.

    Raises:
        ValueError: a damaged file, or no such array.
    """
    with _opened(path) as file:
        return tuple(_array(file, key).shape)


@lru_cache(maxsize=1)
def _block(path: Path, stamp: tuple[int, int], key: str, first: int, depth: int) -> NDArray[Any]:
    """Frames that are compressed together: reading each on its own would decompress all of them every time."""
    with _opened(path) as file:
        return np.asarray(_array(file, key)[first : first + depth])


def _array(file: Any, key: str) -> Any:
    import h5py

    found = file.get(key)
    if not isinstance(found, h5py.Dataset) or not found.shape:
        msg = f"it holds no array {key!r}, but {', '.join(sorted(file)) or 'nothing'}"
        raise ValueError(msg)
    return found


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open file; whatever damage shows while it is read becomes one ValueError with its name."""
    import h5py

    try:
        # Nothing is written here, and many read-only file systems have no locks.
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, RuntimeError, ValueError) as error:
        msg = f"{path.name}: the file is damaged or not what is expected: {error}"
        raise ValueError(msg) from error
