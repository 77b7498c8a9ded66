"""Nodules of known place and size: lobulated ellipsoids inside the lungs, seen as chord lengths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fairmedfm_monai.data.demo.slabs import LUNG_LEFT, Slabs

RADIUS_MM = (6.0, 15.0)
DENSITY = (0.7, 1.8)  # x water; the upper part is denser than tissue, so that the task lands at an AUC of .85 to .93
ERODE_VOXELS = 3
FIELD_MARGIN_MM = 24.0
ZONES = ("lower", "middle", "upper")


@dataclass(frozen=True)
class NoduleInfo:
    """Where a nodule lies on one radiograph.

    Attributes:
        row: centre in pixels of the image, 0 = middle of the first row.
        column: likewise.
        radius: radius in pixels of the disc of the same area.
        mask: (128, 128) bool, pixels whose beam meets the nodule.
        radius_mm: true mean radius.
        density: attenuation relative to water.
        side: "left" or "right" lung of the patient ("left" is on image right).
        zone: "upper", "middle" or "lower" third of the lungs.
    """

    row: float
    column: float
    radius: float
    mask: NDArray[np.bool_]
    radius_mm: float
    density: float
    side: str
    zone: str


@dataclass(frozen=True)
class Nodule:
    """A lobulated ellipsoid; positions in mm from the scan's middle.

    Attributes:
        slab: index of the slab that holds its centre.
        x: centre towards the patient's left.
        z: centre towards the head.
        radius_mm: mean radius.
        stretch: (3,) semi-axes along (x, depth, z) relative to ``radius_mm``.
        lobes: (n, 2) amplitude and phase of the n-th wave (3, 4, ... per turn) of its outline.
        density: attenuation relative to water.
        side: "left" or "right".
        zone: "upper", "middle" or "lower".
    """

    slab: int
    x: float
    z: float
    radius_mm: float
    stretch: NDArray[np.float64]
    lobes: NDArray[np.float64]
    density: float
    side: str
    zone: str

    def chord(self, x: NDArray[np.float32], z: NDArray[np.float32]) -> NDArray[np.float64]:
        """Length in mm that beams at slab positions (x, z) mm run through the nodule (any shape)."""
        along_x = (x - self.x) / (self.radius_mm * self.stretch[0])
        along_z = (z - self.z) / (self.radius_mm * self.stretch[2])
        angle = np.arctan2(along_z, along_x)
        outline = np.ones_like(angle, dtype=np.float64)
        for wave, (amplitude, phase) in enumerate(self.lobes, start=3):
            outline += amplitude * np.cos(wave * angle + phase)
        distance = (along_x**2 + along_z**2) / outline**2
        return 2 * self.radius_mm * self.stretch[1] * np.sqrt(np.clip(1 - distance, 0, None))

    def describe(self, chord: NDArray[np.float64]) -> NoduleInfo:
        """The nodule on an image whose beams run ``chord`` mm through it, (128, 128)."""
        mask = chord > 0
        rows, columns = np.nonzero(mask)
        if not len(rows):
            msg = f"the nodule at x={self.x:.0f}, z={self.z:.0f} mm lies outside the image; move it towards the middle"
            raise ValueError(msg)
        return NoduleInfo(
            row=float(rows.mean()),
            column=float(columns.mean()),
            radius=float(np.sqrt(mask.sum() / np.pi)),
            mask=mask,
            radius_mm=self.radius_mm,
            density=self.density,
            side=self.side,
            zone=self.zone,
        )


class NoduleSites:
    """Places where a nodule may lie: voxels of the lungs at least three voxels from their surface.

    Heart and diaphragm overlap many of them on the film, as in life.
    """

    def __init__(self, slabs: Slabs) -> None:
        inside = ndimage.binary_erosion(slabs.lungs > 0, iterations=ERODE_VOXELS)
        self._index = np.argwhere(inside)
        if not len(self._index):
            msg = "the scan's lungs hold no voxel three voxels from their surface; expected a chest CT with lung labels"
            raise ValueError(msg)
        middle = (np.array(slabs.lungs.shape) - 1) / 2
        self._mm = (self._index - middle) * np.array(slabs.spacing)
        self._left = slabs.lungs[tuple(self._index.T)] == LUNG_LEFT
        self._slab = np.abs(self._mm[:, 1][:, None] - slabs.depth[None, :]).argmin(axis=1)
        low, high = self._mm[:, 2].min(), self._mm[:, 2].max()
        self._third = np.clip((3 * (self._mm[:, 2] - low) / (high - low)).astype(int), 0, 2)

    def draw(
        self, rng: np.random.Generator, *, scale: NDArray[np.float64], field_mm: float, centre_mm: float
    ) -> Nodule:
        """A nodule at a random place that the field shows at any pose, for a patient of size ``scale`` (x, z)."""
        limit = field_mm / 2 - FIELD_MARGIN_MM
        shown_x = np.abs(self._mm[:, 0] * scale[0]) < limit
        shown_z = np.abs(self._mm[:, 2] * scale[1] - centre_mm) < limit
        choice = rng.choice(np.flatnonzero(shown_x & shown_z))
        n_lobes = 3
        lobes = np.stack([rng.uniform(0, 0.09, n_lobes), rng.uniform(0, 2 * np.pi, n_lobes)], axis=1)
        return Nodule(
            slab=int(self._slab[choice]),
            x=float(self._mm[choice, 0]),
            z=float(self._mm[choice, 2]),
            radius_mm=float(rng.uniform(*RADIUS_MM)),
            stretch=rng.uniform(0.85, 1.15, size=3),
            lobes=lobes,
            density=float(rng.uniform(*DENSITY)),
            side="left" if self._left[choice] else "right",
            zone=ZONES[self._third[choice]],
        )
