"""Geometry of segmenters of volumes through the whole chain, from the file to the file's own grid.

What the segmenter answers is known: the prompt's own mask, a ball of known size in mm around a click, or the bright
object that a prompt touches. The result is compared in the grid of the file. Where voxels are only flipped and permuted
(SegVol's windows, or a file that has the model's spacing already) it must be equal. Where the model has another
spacing, resampling costs something: no more than MONAI's ``Spacingd`` takes from the same mask on its way to that
spacing and back, at the worst of several positions of the model's voxels (`round_trip`).
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, Invertd, LoadImaged, Orientationd, Spacing
from nibabel.affines import apply_affine
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from scipy.spatial.transform import Rotation

from fairmedfm_monai.inferers.prompted import PromptedInferer
from fairmedfm_monai.transforms.prompt_masks import encode_mask
from fairmedfm_monai.transforms.prompts import add_prompts
from fairmedfm_monai.transforms.prompts_to_meta import PromptsToMetad
from tests.inferers.volumes import BRIGHT, Oracle, dice, ellipsoid, prompt

LABELS = {"kidney": 1}
WINDOWS = {"window": (32, 32, 32), "axcodes": "RAS", "spacing": 1.5}
ZOOM = {"window": (8, 24, 24), "axcodes": "SAR", "spacing": None, "zoom": True}
ALL_48 = [
    "".join(pair[sign] for pair, sign in zip(order, signs, strict=True))
    for order in itertools.permutations(("LR", "PA", "IS"))
    for signs in itertools.product((0, 1), repeat=3)
]
TURN = Rotation.from_euler("zyx", [14, -9, 6], degrees=True).as_matrix()


def affine_of(spacing: Any, *, turn: np.ndarray | None = None, flips: Any = (1, 1, 1)) -> np.ndarray:
    turn = np.eye(3) if turn is None else turn
    return nib.affines.from_matvec(turn @ np.diag(np.array(spacing) * flips), [-40, 25, 60])


def turned(mask: np.ndarray, affine: np.ndarray, axcodes: str) -> tuple[np.ndarray, np.ndarray]:
    """The same object in the same place, with the file's axes in another order and direction; by nibabel."""
    change = ornt_transform(nib.orientations.io_orientation(affine), axcodes2ornt(axcodes))
    array = nib.orientations.apply_orientation(mask, change)
    return array, affine @ inv_ornt_aff(change, mask.shape)


class AddPrompts:
    """Stands for the writers of prompts: they work in the grid of the file."""

    def __init__(self, prompts: list[dict[str, Any]]) -> None:
        self.prompts = prompts

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        result = dict(data)
        add_prompts(result, self.prompts)
        return result


def through(
    folder: Path, mask: np.ndarray, affine: np.ndarray, prompts: list[dict[str, Any]], network: Oracle, **settings: Any
) -> np.ndarray:
    """The mask (bool) in the file's grid, after checks of grid, affine and orientation."""
    path = folder / "case.nii.gz"
    nib.save(nib.Nifti1Image((mask * BRIGHT).astype(np.float32), affine), path)
    chain = Compose(
        [
            LoadImaged("image", ensure_channel_first=True),
            AddPrompts(prompts),
            Orientationd("image", axcodes=network.volume_spec.axcodes, labels=None),
            PromptsToMetad(),
        ]
    )
    (batch,) = DataLoader(Dataset([{"image": str(path)}], chain), batch_size=1)
    inferer = PromptedInferer(LABELS, sorted({entry["kind"] for entry in prompts}), **settings)
    with torch.no_grad():
        batch["pred"] = inferer(batch["image"], network)
    (data,) = decollate_batch(batch)
    codes = nib.aff2axcodes(np.asarray(data["pred"].affine))
    assert "".join(codes) == network.volume_spec.axcodes
    back = Invertd("pred", chain, orig_keys="image", nearest_interp=False)(data)["pred"]
    np.testing.assert_allclose(back.affine, affine, atol=1e-5)
    assert back.shape == (1, *mask.shape)
    return np.asarray(back[0] > 0)


def round_trip(mask: np.ndarray, affine: np.ndarray, spacing: float = 1.5) -> float:
    """Worst Dice of a mask with itself after MONAI's resampling to `spacing` mm and back, over shifts of the grid."""
    worst = 1.0
    for shift in ((0, 0, 0), (1, 1, 1), (1, 0, 2), (2, 1, 0)):
        padded = np.pad(mask, [(3 + step, 3) for step in shift]).astype(np.float32)
        image = MetaTensor(torch.from_numpy(padded)[None], affine=torch.from_numpy(affine))
        there = Spacing(pixdim=(spacing,) * 3, mode="bilinear", padding_mode="border")
        decided = (there(image) > 0.5).float()
        back = there.inverse(decided)[0] > 0.5
        worst = min(worst, dice(back, padded))
    return worst


SHAPE, SPACING = (40, 34, 12), (0.7, 1.1, 3.0)


@pytest.mark.parametrize("axcodes", ALL_48)
def test_every_orientation(tmp_path: Path, axcodes: str) -> None:
    """A box, its mask, a click and a word, in all 48 orientations; SegVol's way without loss."""
    whole = np.zeros(SHAPE, dtype=bool)
    whole[9:31, 5:22, 3:9] = True
    mask, affine = turned(whole, affine_of(SPACING), axcodes)
    places = np.argwhere(mask)
    box = [places.min(axis=0).tolist(), places.max(axis=0).tolist()]
    click = [np.round(places.mean(axis=0)).astype(int).tolist()]
    bound = round_trip(whole, affine_of(SPACING))
    assert 0.9 < bound < 1
    network = Oracle("box", accepts=("box",), **WINDOWS)
    assert dice(through(tmp_path, mask, affine, [prompt("kidney", box=box)], network), mask) >= bound
    network = Oracle("connected", **WINDOWS)
    assert dice(through(tmp_path, mask, affine, [prompt("kidney", points=click)], network), mask) >= bound
    for entry in (prompt("kidney", box=box), prompt("kidney", points=click), prompt("kidney", text="kidney")):
        network = Oracle("connected", accepts=("point", "box", "text"), **ZOOM)
        np.testing.assert_array_equal(through(tmp_path, mask, affine, [entry], network), mask)


GEOMETRIES = {
    "model's own": affine_of((1.5, 1.5, 1.5)),
    "flipped": affine_of((0.8, 0.8, 2.5), flips=(-1, 1, -1)),
    "thick": affine_of((0.7, 0.7, 5.0)),
    "long": affine_of((3.0, 1.0, 1.0)),
    "coarse": affine_of((2.5, 2.2, 2.0)),
    "oblique": affine_of((0.8, 0.8, 2.5), turn=TURN, flips=(-1, 1, 1)),
    "oblique and thick": affine_of((0.7, 0.7, 5.0), turn=TURN[:, [2, 0, 1]]),
}


def scene(affine: np.ndarray, millimetres: float = 30.0) -> tuple[np.ndarray, list[int]]:
    """An ellipsoid with radii of 14, 11 and 12 mm, and a voxel near its middle, in a volume of some millimetres."""
    voxel = nib.affines.voxel_sizes(affine)
    shape = np.ceil(np.array([millimetres, millimetres + 4, millimetres + 8]) / voxel).astype(int)
    centre = (shape - 1) / 2 + 0.3
    return ellipsoid(shape.tolist(), centre, np.array([14, 11, 12]) / voxel), np.round(centre).astype(int).tolist()


@pytest.mark.parametrize("affine", GEOMETRIES.values(), ids=GEOMETRIES)
def test_windows_at_any_spacing(tmp_path: Path, affine: np.ndarray) -> None:
    mask, centre = scene(affine)
    bound = round_trip(mask, affine)
    click = [prompt("kidney", points=[centre])]
    found = through(tmp_path, mask, affine, click, Oracle("connected", **WINDOWS))
    assert dice(found, mask) >= bound
    own = [prompt("kidney", mask=encode_mask(mask), kind="mask")]
    found = through(tmp_path, mask * 0, affine, own, Oracle("mask", accepts=("mask",), **WINDOWS))
    assert dice(found, mask) >= bound
    if np.allclose(nib.affines.voxel_sizes(affine), 1.5):
        np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize("affine", GEOMETRIES.values(), ids=GEOMETRIES)
def test_a_ball_of_millimetres_around_the_click(tmp_path: Path, affine: np.ndarray) -> None:
    """Independent of any image: distances in mm from the click's place in the world. Beyond half the diagonal of a
    model voxel, on either side of the surface, nothing may be wrong."""
    mask, centre = scene(affine)
    found = through(tmp_path, mask, affine, [prompt("kidney", points=[centre])], Oracle("ball", radius=13.0, **WINDOWS))
    world = apply_affine(affine, np.stack(np.indices(mask.shape), axis=-1))
    distance = np.linalg.norm(world - apply_affine(affine, centre), axis=-1)
    slack = np.sqrt(3) * 1.5 / 2
    assert found[distance <= 13 - slack].all()
    assert not found[distance > 13 + slack].any()
    # Not shifted: half a voxel of any of these grids is 0.35 mm or more.
    offset = world[found].mean(axis=0) - world[distance <= 13].mean(axis=0)
    assert np.abs(offset).max() < 0.3


@pytest.mark.parametrize("affine", GEOMETRIES.values(), ids=GEOMETRIES)
def test_zoom_at_any_spacing(tmp_path: Path, affine: np.ndarray) -> None:
    """SegVol sees the file's voxels: an object smaller than its window comes back to the voxel."""
    voxel = nib.affines.voxel_sizes(affine)
    shape = np.ceil(np.array([70, 90, 60]) / voxel).astype(int).tolist()
    order = nib.orientations.io_orientation(affine)[:, 0].astype(int)
    radii = np.array([10.0, 10.0, 3.5])[order]  # 24 x 24 x 8 along R, A and S
    centre = [size // 2 - 3 for size in shape]
    mask = ellipsoid(shape, centre, radii)
    places = np.argwhere(mask)
    box = [places.min(axis=0).tolist(), places.max(axis=0).tolist()]
    for entry in (prompt("kidney", points=[centre]), prompt("kidney", box=box), prompt("kidney", text="kidney")):
        network = Oracle("connected", accepts=("point", "box", "text"), **ZOOM)
        np.testing.assert_array_equal(through(tmp_path, mask, affine, [entry], network), mask)


@pytest.mark.parametrize("kind", ["point", "box", "mask"])
@pytest.mark.parametrize("name", ["flipped", "thick", "oblique"])
def test_windows_on_objects_bigger_than_a_window(tmp_path: Path, name: str, kind: str) -> None:
    """130 x 90 x 75 mm, in windows of 48 mm."""
    affine = GEOMETRIES[name]
    voxel = nib.affines.voxel_sizes(affine)
    shape = np.ceil(np.array([150, 100, 90]) / voxel).astype(int).tolist()
    mask = np.zeros(shape, dtype=bool)
    low, high = (np.round(np.array(ends) / voxel).astype(int).tolist() for ends in ([8, 5, 10], [138, 95, 85]))
    mask[tuple(map(slice, low, high))] = True
    bound = round_trip(mask, affine)
    entries = {
        "point": prompt("kidney", points=[low]),
        "box": prompt("kidney", box=[low, [end - 1 for end in high]]),
        "mask": prompt("kidney", mask=encode_mask(mask)),
    }
    answer = "connected" if kind == "point" else kind
    network = Oracle(answer, accepts=(kind,), **WINDOWS)
    found = through(tmp_path, mask, affine, [entries[kind]], network, max_windows=200)
    assert dice(found, mask) >= bound
    assert 12 <= len(network.embedded) <= 200


@pytest.mark.parametrize("name", ["flipped", "thick", "oblique"])
def test_zoom_on_objects_bigger_than_a_window(tmp_path: Path, name: str) -> None:
    """What shrinking misses of the object's rim lies outside the windows: no worse than a shrunk mask."""
    affine = GEOMETRIES[name]
    voxel = nib.affines.voxel_sizes(affine)
    shape = np.ceil(np.array([150, 100, 90]) / voxel).astype(int).tolist()
    mask = ellipsoid(shape, [size / 2 for size in shape], np.array([60, 40, 38]) / voxel)
    small = torch.nn.functional.interpolate(
        torch.from_numpy(mask)[None, None].float(), size=(24, 24, 8), mode="nearest-exact"
    )
    coarse = torch.nn.functional.interpolate(small, size=mask.shape, mode="nearest-exact")[0, 0] > 0
    entry = prompt("kidney", points=[[size // 2 for size in shape]])
    network = Oracle("connected", accepts=("point", "box"), **ZOOM)
    found = through(tmp_path, mask, affine, [entry], network, max_windows=1000)
    assert not (found & ~mask & ~coarse.numpy()).any()
    assert dice(found, mask) >= dice(coarse, mask)
    places = np.argwhere(coarse.numpy())
    inner = tuple(slice(a, b + 1) for a, b in zip(places.min(axis=0), places.max(axis=0), strict=True))
    np.testing.assert_array_equal(found[inner], mask[inner])


@pytest.mark.parametrize("spec", [WINDOWS, ZOOM], ids=["windows", "zoom"])
@pytest.mark.parametrize("corner", itertools.product((0, 1), repeat=3))
def test_objects_at_the_border(tmp_path: Path, spec: dict[str, Any], corner: tuple[int, ...]) -> None:
    affine = GEOMETRIES["flipped"]
    shape = (50, 44, 20)
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(0, 7) if side == 0 else slice(-7, None) for side in corner)] = True
    click = [[0 if side == 0 else size - 1 for side, size in zip(corner, shape, strict=True)]]
    found = through(
        tmp_path, mask, affine, [prompt("kidney", points=click)], Oracle("connected", accepts=("point", "box"), **spec)
    )
    if spec is ZOOM:
        np.testing.assert_array_equal(found, mask)
    else:
        assert dice(found, mask) >= round_trip(mask, affine)


@pytest.mark.parametrize("spec", [WINDOWS, ZOOM], ids=["windows", "zoom"])
@pytest.mark.parametrize("shape", [(9, 8, 3), (12, 10, 1), (1, 30, 30), (1, 1, 1), (60, 1, 40)])
def test_volumes_smaller_than_the_window_and_of_one_slice(
    tmp_path: Path, spec: dict[str, Any], shape: tuple[int, ...]
) -> None:
    affine = affine_of((1.5, 1.5, 1.5), flips=(1, -1, 1))
    mask = np.ones(shape, dtype=bool)
    mask[: shape[0] // 3] = False
    mask[:, shape[1] - shape[1] // 4 :] = False
    click = np.argwhere(mask)[mask.sum() // 2].tolist()
    network = Oracle("connected", accepts=("point", "box"), **spec)
    found = through(tmp_path, mask, affine, [prompt("kidney", points=[click])], network)
    np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize("thickness", [0.2, 0.7, 4.0, 9.0])
def test_one_slice_of_any_thickness_in_windows(tmp_path: Path, thickness: float) -> None:
    mask = np.zeros((30, 26, 1), dtype=bool)
    mask[6:20, 5:16] = True
    entry = prompt("kidney", points=[(12, 9, 0)])
    found = through(tmp_path, mask, affine_of((1.5, 1.5, thickness)), [entry], Oracle("connected", **WINDOWS))
    np.testing.assert_array_equal(found, mask)


def test_voxels_without_size_are_refused() -> None:
    affine = torch.diag(torch.tensor([1.0, 1.0, 0.0, 1.0]))
    image = MetaTensor(torch.zeros(1, 1, 40, 40, 40), affine=affine)
    with pytest.raises(ValueError, match=r"voxels of positive size.*mend the file's header"):
        PromptedInferer(LABELS)(image, Oracle("connected", **WINDOWS))
