"""Label maps made of others: every value compared with what plain numpy says; damage is named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from fairmedfm_monai.data.prepare.makers.masks import combine, renumber

AFFINE = np.array([[0, 0, -0.8, 5], [0, -0.8, 0, 6], [-2.0, 0, 0, 7], [0, 0, 0, 1]])


def _png(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values).save(path)
    return path


def _nifti(path: Path, values: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), path)
    return path


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def _masks(folder: Path, dtype: type) -> tuple[list[Path], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    where = rng.integers(0, 3, (7, 5))
    there = [where == 1, where == 2]
    values = [mask if dtype is bool else (mask * 255).astype(dtype) for mask in there]
    return [_png(folder / f"{index}.png", array) for index, array in enumerate(values)], there


@pytest.mark.parametrize("dtype", [np.uint8, bool])
def test_masks_are_combined(tmp_path: Path, dtype: type) -> None:
    paths, there = _masks(tmp_path, dtype)
    combine(paths, tmp_path / "map.png", labels=(1, 2))
    assert np.array_equal(_pixels(tmp_path / "map.png"), np.where(there[0], 1, np.where(there[1], 2, 0)))
    combine(paths, tmp_path / "both.png", labels=(1, 1))
    assert np.array_equal(_pixels(tmp_path / "both.png"), there[0] | there[1])


def test_a_pixel_in_two_masks_is_refused_unless_they_are_one_label(tmp_path: Path) -> None:
    one, other = np.zeros((4, 6), np.uint8), np.zeros((4, 6), np.uint8)
    one[:, :4], other[:, 3:] = 255, 255
    paths = [_png(tmp_path / "left.png", one), _png(tmp_path / "right.png", other)]
    with pytest.raises(ValueError, match=r"right\.png: 4 pixels are in two masks"):
        combine(paths, tmp_path / "map.png", labels=(1, 2))
    combine(paths, tmp_path / "map.png", labels=(1, 1))
    assert _pixels(tmp_path / "map.png").all()


def test_masks_that_cannot_be_combined(tmp_path: Path) -> None:
    paths, _ = _masks(tmp_path, np.uint8)
    wide = _png(tmp_path / "wide.png", np.full((7, 6), 255, np.uint8))
    grey = _png(tmp_path / "grey.png", np.arange(35, dtype=np.uint8).reshape(7, 5))
    colour = _png(tmp_path / "colour.png", np.zeros((7, 5, 3), np.uint8))
    empty = _png(tmp_path / "empty.png", np.zeros((7, 5), np.uint8))
    for other, fault in (
        (wide, r"wide\.png: 6 x 7, but 0\.png has 5 x 7"),
        (grey, r"grey\.png: a mask has one channel with 0 and one other value, but it has the values 0, 1, 2, 3, 4"),
        (colour, r"colour\.png: .* 3 dimensions"),
    ):
        with pytest.raises(ValueError, match=fault):
            combine([paths[0], other], tmp_path / "map.png", labels=(1, 2))
    with pytest.raises(ValueError, match="background everywhere"):
        combine([empty, empty], tmp_path / "map.png", labels=(1, 2))
    paths[1].write_bytes(paths[1].read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"1\.png cannot be read"):
        combine(paths, tmp_path / "map.png", labels=(1, 2))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_volumes_are_renumbered_on_their_grid(tmp_path: Path, dtype: type) -> None:
    raw = np.random.default_rng(0).choice([0, 1, 17, 200], (4, 5, 6)).astype(dtype)
    source = _nifti(tmp_path / "raw.nii.gz", raw)
    renumber([source], tmp_path / "new.nii.gz", values=((0, 0), (1, 3), (17, 513), (200, 3)))
    image = nibabel.load(tmp_path / "new.nii.gz")
    expected = np.select([raw == 1, raw == 17, raw == 200], [3, 513, 3], 0)
    assert np.array_equal(np.asanyarray(image.dataobj), expected)
    assert image.get_data_dtype() == np.uint16
    assert np.array_equal(image.affine, nibabel.load(source).affine)
    renumber([source], tmp_path / "small.nii.gz", values=((0, 0), (1, 1), (17, 1), (200, 255)))
    assert nibabel.load(tmp_path / "small.nii.gz").get_data_dtype() == np.uint8


def test_pictures_are_renumbered(tmp_path: Path) -> None:
    raw = np.array([[0, 127, 255], [255, 0, 127]], np.uint8)
    renumber([_png(tmp_path / "raw.png", raw)], tmp_path / "new.png", values=((0, 0), (127, 1), (255, 2)))
    assert _pixels(tmp_path / "new.png").tolist() == [[0, 1, 2], [2, 0, 1]]


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([0, 1, 5, 6], r"the mask holds 5, 6; known are 0, 1"),
        ([0, 0.5], "whole numbers"),
        ([0, float("nan")], "whole numbers"),
        ([0, -1], "from 0 to 65535, but this file has -1 to 0"),
        ([0, 70000], "from 0 to 65535"),
        ([0, 0], "background everywhere"),
    ],
)
def test_values_without_label_are_refused(tmp_path: Path, values: list[float], fault: str) -> None:
    array = np.resize(np.array(values, np.float32), (2, 3, 2))
    with pytest.raises(ValueError, match=rf"raw\.nii: .*{fault}"):
        renumber([_nifti(tmp_path / "raw.nii", array)], tmp_path / "new.nii", values=((0, 0), (1, 1)))


def test_a_damaged_volume_is_refused_even_at_its_end(tmp_path: Path) -> None:
    source = _nifti(tmp_path / "raw.nii.gz", np.ones((6, 6, 6), np.uint8))
    whole = source.read_bytes()
    for content in (whole[:-4], whole[:40], whole[:-8] + b"\0\0\0\0" + whole[-4:], b"<html>quota</html>"):
        source.write_bytes(content)
        with pytest.raises(ValueError, match=r"raw\.nii\.gz cannot be read"):
            renumber([source], tmp_path / "new.nii.gz", values=((0, 0), (1, 1)))
    assert not (tmp_path / "new.nii.gz").exists()


def test_the_same_values_give_the_same_bytes(tmp_path: Path) -> None:
    paths, _ = _masks(tmp_path, np.uint8)
    volume = _nifti(tmp_path / "raw.nii.gz", np.random.default_rng(0).integers(0, 3, (5, 5, 5), np.uint8))
    hashes = set()
    for name in ("one", "other"):
        combine(paths, tmp_path / f"{name}.png", labels=(1, 2))
        renumber([volume], tmp_path / f"{name}.nii.gz", values=((0, 0), (1, 2), (2, 1)))
        files = (tmp_path / f"{name}.png", tmp_path / f"{name}.nii.gz")
        hashes.add(tuple(hashlib.sha256(file.read_bytes()).hexdigest() for file in files))
    assert len(hashes) == 1
