"""Cut images out of the CT of a virtual patient: any grid, a smooth deformation, labels along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fairmedfm_monai.data.demo.seeds import Seed, generator
from fairmedfm_monai.data.demo.slabs import IN_PLANE_MM, reduce_in_plane

if TYPE_CHECKING:
    from fairmedfm_monai.data.demo.scan import Scan

WAVES = 4
WAVELENGTH_MM = (150.0, 320.0)
AMPLITUDE_MM = (3.0, 3.0, 1.0)

Affine = NDArray[np.float64]


@dataclass(frozen=True)
class Deformation:
    """A smooth map from a virtual patient's world to the scan's (mm, RAS+): scale about a centre, then waves.

    Attributes:
        centre: (3,) fixed point of the scaling.
        scale: (3,) size of the patient relative to the scan.
        wave: (WAVES, 3, 3) wave vectors in rad/mm per wave and displaced axis.
        phase: (WAVES, 3) rad.
        amplitude: (WAVES, 3) mm.
    """

    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    wave: NDArray[np.float64]
    phase: NDArray[np.float64]
    amplitude: NDArray[np.float64]

    def linear(self) -> NDArray[np.float64]:
        """The scaling alone as an affine (4, 4), patient -> scan."""
        affine = np.diag([*(1 / self.scale), 1.0])
        affine[:3, 3] = self.centre - self.centre / self.scale
        return affine

    def shift(self, axis: int, affine: Affine, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The waves' displacement in mm along one world axis on a grid, float32 (I, J, K).

        A wave on a regular grid is a product of three one-dimensional complex exponentials: no sine per voxel.
        """
        total = np.zeros(shape, dtype=np.float32)
        for wave, phase, amplitude in zip(
            self.wave[:, axis], self.phase[:, axis], self.amplitude[:, axis], strict=True
        ):
            start = wave @ (affine[:3, 3] - self.centre) + phase
            steps = wave @ affine[:3, :3]
            along = [np.exp(1j * step * np.arange(size)) for step, size in zip(steps, shape, strict=True)]
            along[0] = along[0] * (amplitude * np.exp(1j * start))
            plane = (along[0][:, None] * along[1][None, :]).astype(np.complex64)
            line = along[2].astype(np.complex64)
            total += plane.imag[:, :, None] * line.real + plane.real[:, :, None] * line.imag
        return total


def draw_deformation(seed: Seed, centre: NDArray[np.float64], *, scale_z: bool = True) -> Deformation:
    """The anatomy of a virtual patient.

    Args:
        seed: of the patient.
        centre: (3,) mm, stays where it is but for the waves.
        scale_z: False keeps heights, up to 4 mm: a slice then shows the height that it was cut at.
    """
    rng = generator("volume", seed)
    scale = rng.uniform(0.92, 1.08, size=3)
    if not scale_z:
        scale[2] = 1.0
    direction = rng.normal(size=(WAVES, 3, 3))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    wave = direction * (2 * np.pi / rng.uniform(*WAVELENGTH_MM, size=(WAVES, 3, 1)))
    phase = rng.uniform(0, 2 * np.pi, size=(WAVES, 3))
    amplitude = rng.uniform(0.5, 1.0, size=(WAVES, 3)) * np.array(AMPLITUDE_MM)
    return Deformation(np.asarray(centre, dtype=np.float64), scale, wave, phase, amplitude)


class Sampler:
    """Reads HU (linear, from a copy averaged to about 1.4 mm in plane) and labels (nearest, full grid) of a scan.

    Args:
        scan: the CT.
        labels: (I, J, K) uint8 on its grid.
    """

    def __init__(self, scan: Scan, labels: NDArray[np.uint8]) -> None:
        self._factor = max(1, round(IN_PLANE_MM / scan.spacing[0]))
        self._hu = reduce_in_plane(np.clip(scan.hu, -1024, 3071), self._factor)
        self._labels = labels
        self.shape = scan.hu.shape
        self.affine = scan.affine
        self.centre = self.world((np.array(scan.hu.shape) - 1) / 2)

    def world(self, voxel: NDArray[np.float64]) -> NDArray[np.float64]:
        """World position (3,) mm of a voxel position (3,) of the scan."""
        return self.affine[:3, :3] @ voxel + self.affine[:3, 3]

    def sample(
        self, affine: Affine, shape: tuple[int, ...], deformation: Deformation
    ) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
        """HU and labels on a grid.

        Args:
            affine: (4, 4) voxel centre of the new grid -> world mm of the virtual patient.
            shape: (I, J, K) of the new grid.
            deformation: patient -> scan.

        Returns:
            int16 HU and uint8 labels of ``shape``; -1000 and 0 outside the scan.
        """
        voxel = self._voxels(affine, shape, deformation)
        at_label = [np.rint(axis).astype(np.int32) for axis in voxel]
        inside = np.logical_and.reduce([(at >= 0) & (at < size) for at, size in zip(at_label, self.shape, strict=True)])
        labels = np.where(inside, self._labels[tuple(np.where(inside, at, 0) for at in at_label)], 0).astype(np.uint8)
        for axis in (0, 1):
            voxel[axis] = (voxel[axis] - (self._factor - 1) / 2) / self._factor
        hu = ndimage.map_coordinates(self._hu, voxel, order=1, mode="constant", cval=-1000.0)
        return np.round(hu).astype(np.int16), labels

    def _voxels(self, affine: Affine, shape: tuple[int, ...], deformation: Deformation) -> NDArray[np.float32]:
        """Voxel positions of the scan that the voxels of a grid show, (3, I, J, K)."""
        to_voxel = np.linalg.inv(self.affine)
        straight = to_voxel @ deformation.linear() @ affine
        i, j, k = np.ogrid[: shape[0], : shape[1], : shape[2]]
        shifts = [deformation.shift(axis, affine, shape) for axis in range(3)]
        voxel = np.empty((3, *shape), dtype=np.float32)
        for row in range(3):
            voxel[row] = straight[row, 0] * i + straight[row, 1] * j + straight[row, 2] * k + straight[row, 3]
            for axis, shift in enumerate(shifts):
                if to_voxel[row, axis]:
                    voxel[row] += np.float32(to_voxel[row, axis]) * shift
        return voxel


def grid_affine(codes: str, spacing: tuple[float, ...], shape: tuple[int, ...], centre: NDArray[np.float64]) -> Affine:
    """Affine of an axis-aligned grid around ``centre`` (mm) whose axes point to ``codes`` (e.g. "LPS")."""
    axes = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, (code, step) in enumerate(zip(codes, spacing, strict=True)):
        row, sign = axes[code]
        affine[row, column] = sign * step
    return recentre(affine, shape, centre)


def recentre(affine: Affine, shape: tuple[int, ...], centre: NDArray[np.float64]) -> Affine:
    """The same axes with the grid's middle at ``centre`` (mm)."""
    moved = affine.copy()
    moved[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return moved


def rotation(degrees: tuple[float, float, float]) -> NDArray[np.float64]:
    """Rotation (3, 3) about the x, then y, then z axis of the world."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[[first, second], [first, second]] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def save_nifti(path: str, array: NDArray[np.int16] | NDArray[np.uint8], affine: Affine) -> None:
    """A NIfTI file in mm whose qform and sform agree, the same bytes each time."""
    import nibabel as nib

    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
