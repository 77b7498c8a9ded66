"""Frames of HDF5 files come out value for value, however they are stored; damage is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from fairmedfm_monai.data.prepare.makers import hdf5
from fairmedfm_monai.data.prepare.makers.hdf5 import frame, read_column, read_shape

FRAMES = np.random.default_rng(0).integers(0, 256, (7, 9, 5), dtype=np.uint8)


def _file(folder: Path, values: np.ndarray = FRAMES, **storage: Any) -> Path:
    with h5py.File(folder / "a.hdf5", "w") as file:
        file.create_dataset("image", data=values, **storage)
    return folder / "a.hdf5"


def _made(path: Path, index: int, **options: Any) -> np.ndarray:
    target = path.with_name(f"{index}.png")
    frame([path], target, key="image", index=index, **options)
    with Image.open(target) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize(
    "storage",
    [
        {},
        {"chunks": (1, 9, 5), "compression": "gzip"},
        {"chunks": (3, 4, 2), "compression": "gzip", "shuffle": True},
        {"chunks": (7, 9, 5), "compression": "lzf"},
    ],
)
@pytest.mark.parametrize(
    "values",
    [FRAMES, FRAMES.astype(np.uint16) * 257, FRAMES.astype(np.float32), np.stack([FRAMES] * 3, axis=3)],
)
def test_a_frame_keeps_every_value(tmp_path: Path, values: np.ndarray, storage: dict[str, Any]) -> None:
    if values.ndim == 4 and storage:
        storage = {**storage, "chunks": (*storage["chunks"], 3)}
    path = _file(tmp_path, values, **storage)
    for index in (6, 0, 3):
        assert np.array_equal(_made(path, index), values[index])


def test_frames_stored_together_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file(tmp_path, chunks=(4, 9, 5), compression="gzip")
    hdf5._block.cache_clear()
    for index in range(7):
        _made(path, index)
    assert hdf5._block.cache_info().misses == 2
    path.unlink()
    _file(tmp_path, 255 - FRAMES, chunks=(4, 9, 5), compression="gzip")
    assert np.array_equal(_made(path, 6), 255 - FRAMES[6])  # another file of the same name
    monkeypatch.setattr(hdf5, "_BLOCK", 10)
    hdf5._block.cache_clear()
    assert np.array_equal(_made(path, 2), 255 - FRAMES[2])
    assert hdf5._block.cache_info().misses == 0


def test_the_same_bytes_each_time(tmp_path: Path) -> None:
    path = _file(tmp_path)
    for name in ("first.png", "second.png"):
        frame([path], tmp_path / name, key="image", index=2)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_columns_of_text_and_numbers(tmp_path: Path) -> None:
    path = _file(tmp_path)
    with h5py.File(path, "a") as file:
        file["text"] = ["3_", "4_"]
        file["bytes"] = np.array([b"3_", b"40_"])
        file["column"] = np.array([[1.0], [2.5]])
        file["wide"] = np.zeros((2, 2))
    assert read_column(path, "text") == ["3_", "4_"]
    assert read_column(path, "bytes") == ["3_", "40_"]
    assert read_column(path, "column") == ["1", "2.5"]
    assert read_shape(path, "image") == (7, 9, 5)
    with pytest.raises(ValueError, match=r"a\.hdf5.*'wide' must hold one value per frame"):
        read_column(path, "wide")


def test_damage_is_named(tmp_path: Path) -> None:
    path = _file(tmp_path, chunks=(1, 9, 5), compression="gzip", fletcher32=True)
    content = path.read_bytes()
    with h5py.File(path) as file:
        place = file["image"].id.get_chunk_info(2)
    flipped = bytearray(content)
    flipped[place.byte_offset + place.size // 2] ^= 255
    for name, data in {"cut": content[:-40], "empty": b"", "page": b"<html>sign in</html>", "flipped": flipped}.items():
        file = tmp_path / f"{name}.hdf5"
        file.write_bytes(bytes(data))
        with pytest.raises(ValueError, match=rf"{name}\.hdf5: the file is damaged or not what is expected"):
            frame([file], tmp_path / "out.png", key="image", index=2)
    with pytest.raises(ValueError, match="holds no array 'picture', but image"):
        frame([path], tmp_path / "out.png", key="picture", index=0)
    with pytest.raises(ValueError, match=r"has the shape \(7, 9, 5\), so there is no frame 7"):
        frame([path], tmp_path / "out.png", key="image", index=7)


def test_strange_values_are_told(tmp_path: Path) -> None:
    path = _file(tmp_path, np.array([[[0, 255], [3, 128]]], np.uint8))
    with pytest.raises(ValueError, match=r"a\.hdf5: frame 0 of 'image' holds 3, 128; known are 0, 255"):
        _made(path, 0, values=(0, 255))
    path = _file(tmp_path, np.full((1, 2, 2), 0.5))
    with pytest.raises(ValueError, match=r"a\.hdf5: frame 0 of 'image': a picture must hold whole numbers"):
        _made(path, 0)
