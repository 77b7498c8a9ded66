"""A procedural chest of the real scan's layout, for machines that cannot fetch it: geometry, not a patient."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fairmedfm_monai.data.demo.scan import Scan
from fairmedfm_monai.data.demo.seeds import generator

EXTENT_MM = (360.0, 360.0, 332.0)
SHAPE = (160, 160, 100)
CITATION = "Procedural phantom of fairmedfm_monai; no patient data."
LICENCE = "Apache-2.0 (procedural phantom)"

ORGANS = (
    "spleen", "kidney_right", "kidney_left", "liver", "lung_upper_lobe_left", "lung_lower_lobe_left",
    "lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right", "heart", "aorta", "spine", "ribs",
)  # fmt: skip
TISSUE_HU = {
    "spleen": 120,
    "kidney_right": 170,
    "kidney_left": 170,
    "liver": 110,
    "heart": 140,
    "aorta": 200,
    "spine": 350,
    "ribs": 450,
}
FAT_HU, SOFT_HU, LUNG_HU, AIR_HU, NODULE_HU = -80, 45, -850, -1000, 30
NODULE_MM = (70.0, -60.0, -20.0)
NODULE_RADIUS_MM = 12.0
READERS = 4

Mask = NDArray[np.bool_]


def make_phantom(shape: tuple[int, int, int] = SHAPE) -> Scan:
    """The phantom on a grid of ``shape``, axes LAS, about 360 x 360 x 332 mm; the same bytes each time."""
    spacing = np.array(EXTENT_MM) / np.array(shape)
    # Positions in mm from the middle: x to the patient's left, y forward, z up.
    axes = [(np.arange(size) - (size - 1) / 2) * step for size, step in zip(shape, spacing, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    names = {name: value for value, name in enumerate(ORGANS, start=1)}
    organs, body = _draw_organs(x, y, z, names)
    hu = _fill(organs, body, names, spacing)
    bits = _draw_readers(x, y, z)
    hu[bits > 0] = NODULE_HU
    affine = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Scan(
        name="phantom",
        hu=hu,
        affine=affine,
        organs=organs,
        organ_names={name: value for name, value in names.items() if (organs == value).any()},
        reader_bits=bits,
        n_readers=READERS,
        citation=CITATION,
        licence=LICENCE,
    )


def _ellipsoid(grid: tuple[NDArray[np.float64], ...], centre: tuple[float, ...], radii: tuple[float, ...]) -> Mask:
    return np.asarray(sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, centre, radii, strict=True)) <= 1)


def _draw_organs(
    x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64], names: dict[str, int]
) -> tuple[NDArray[np.uint8], Mask]:
    """Organ labels and the body's outline; later organs cover earlier ones."""
    grid = (x, y, z)
    everywhere = np.ones_like(x + y + z, dtype=bool)
    body = everywhere & (np.abs(x / 168) ** 2.6 + np.abs(y / 112) ** 2.6 <= 1)
    organs = np.zeros(body.shape, dtype=np.uint8)

    def put(name: str, mask: Mask) -> None:
        organs[mask & body] = names[name]

    shell = (np.abs(x / 150) ** 2.4 + np.abs(y / 96) ** 2.4 <= 1) & (np.abs(x / 139) ** 2.4 + np.abs(y / 85) ** 2.4 > 1)
    put("ribs", shell & (((z + 0.45 * y + 400) % 27) < 8) & (z > -90) & (z < 140))
    dome = -35 - ((x + 20) / 75) ** 2 * 22
    put("liver", _ellipsoid(grid, (-55, 10, -75), (88, 78, 75)) & (z < dome + 12))
    put("spleen", _ellipsoid(grid, (105, -35, -70), (28, 45, 45)))
    put("kidney_left", _ellipsoid(grid, (62, -52, -125), (26, 26, 48)))
    put("kidney_right", _ellipsoid(grid, (-66, -52, -135), (26, 26, 48)))
    left = _ellipsoid(grid, (72, -2, 35), (62, 80, 108)) & (z > -45 - ((x - 70) / 62) ** 2 * 35)
    right = _ellipsoid(grid, (-74, -2, 35), (64, 80, 108)) & (z > -28 - ((x + 72) / 64) ** 2 * 35)
    put("lung_upper_lobe_left", left & (z > 30 - 0.6 * y))
    put("lung_lower_lobe_left", left & (z <= 30 - 0.6 * y))
    put("lung_upper_lobe_right", right & (z > 45))
    put("lung_middle_lobe_right", right & (z <= 45) & (y > 15))
    put("lung_lower_lobe_right", right & (z <= 45) & (y <= 15))
    put("heart", _ellipsoid(grid, (32, 28, -5), (60, 45, 52)))
    put("aorta", everywhere & ((x - 18) ** 2 + (y + 38) ** 2 <= 13**2) & (z < 72))
    put("spine", everywhere & (x**2 + (y + 72) ** 2 <= 20**2) & (((z + 400) % 26) < 22))
    return organs, body


def _fill(
    organs: NDArray[np.uint8], body: Mask, names: dict[str, int], spacing: NDArray[np.float64]
) -> NDArray[np.int16]:
    """HU with texture: noise everywhere, vessels in the lungs, fat under the skin."""
    rng = generator("phantom", 1)
    hu = np.where(body, float(SOFT_HU), float(AIR_HU))
    depth = ndimage.distance_transform_edt(body, sampling=spacing)
    hu[body & (depth < 14)] = FAT_HU
    table = np.full(256, np.nan)
    for name, value in names.items():
        table[value] = TISSUE_HU.get(name, LUNG_HU)
    inside = organs > 0
    hu[inside] = table[organs[inside]]
    vessels = ndimage.gaussian_filter(rng.normal(size=hu.shape), 1.6)
    branches = np.clip(vessels / vessels.std() - 1.4, 0, None) * 250
    hu += np.where(hu == LUNG_HU, branches, 0) + np.where(body, rng.normal(scale=12, size=hu.shape), 0)
    return np.round(np.clip(hu, -1000, 1500)).astype(np.int16)


def _draw_readers(x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Four outlines of one nodule in the left lung that differ in place and size; bit r = reader r."""
    rng = generator("phantom", 2)
    bits = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), dtype=np.uint8)
    for reader in range(READERS):
        x0, y0, z0 = (at + rng.normal(scale=0.6) for at in NODULE_MM)
        radius = NODULE_RADIUS_MM * rng.uniform(0.95, 1.05)
        bits[_ellipsoid((x, y, z), (x0, y0, z0), (radius, radius, radius))] |= 1 << reader
    return bits
