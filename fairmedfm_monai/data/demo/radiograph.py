"""Chest radiographs projected from one CT: deformed anatomy, varied pose, a nodule of known place and size.

The CT is summed into coronal slabs once. An image is one bilinear resampling of all slabs (deformation, perspective
and pose in one step), their sum, and the processing of a digital film. Anatomy comes from the patient's seed, pose and
noise from the image's seed; each image draws from its own generator, so images do not depend on what was made before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fairmedfm_monai.data.demo.nodules import Nodule, NoduleInfo, NoduleSites
from fairmedfm_monai.data.demo.seeds import Seed, generator
from fairmedfm_monai.data.demo.slabs import Slabs, make_slabs

if TYPE_CHECKING:
    from fairmedfm_monai.data.demo.scan import Scan

SIZE = 128
FIELD_MM = 275.0
FIELD_CENTRE_MM = 18.0  # above the middle of the scan: apices in, most of the abdomen out
SOURCE_MM = 1800.0  # focus-detector distance of a chest film
WATER_PER_MM = 0.02  # linear attenuation of water at diagnostic energies
WARP_GRID = 33
WARP_EXTENT_MM = 180.0
WARP_CONTROL = 5

Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Anatomy:
    """What makes one patient differ from another (lengths in mm).

    Attributes:
        scale: size along (x, z), 1 = the scan's own.
        shift: (slabs, 2) smooth displacement of each slab along (x, z).
        warp: (4, 33, 33) displacement maps over +-180 mm: x, z, and x, z once more per unit of relative depth.
    """

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    warp: NDArray[np.float32]


@dataclass(frozen=True)
class Pose:
    """How one exposure was taken: rotation about the long axis, tilt, in-plane rotation (rad), zoom, offset (mm)."""

    turn: float
    tilt: float
    roll: float
    zoom: float
    offset: NDArray[np.float64]


class Projector:
    """Makes radiographs from a scan; build it once (about 4 s), then call :meth:`image` (a few ms each).

    Args:
        scan: the CT to project.
        slabs: what :func:`fairmedfm_monai.data.demo.slabs.make_slabs` made of it, when another process already did.
    """

    def __init__(self, scan: Scan | None = None, *, slabs: Slabs | None = None) -> None:
        if (scan is None) == (slabs is None):
            msg = "give either `scan` or `slabs`, got both or neither"
            raise ValueError(msg)
        self.slabs = slabs if slabs is not None else make_slabs(scan)  # type: ignore[arg-type]
        self.sites = NoduleSites(self.slabs)
        axis = (np.arange(SIZE) - (SIZE - 1) / 2) * (FIELD_MM / SIZE)
        # Columns grow to the patient's left (image right on an AP film), rows grow downwards (z falls).
        self._x, self._z = np.meshgrid(axis, -axis)
        # Cubic interpolation of 5 control points at 33 places, as a matrix.
        self._spline = ndimage.zoom(np.eye(WARP_CONTROL), (WARP_GRID / WARP_CONTROL, 1), order=3, mode="nearest")

    def image(
        self, seed: Seed, patient_seed: Seed, nodule: bool | Nodule | None = None
    ) -> tuple[NDArray[np.uint8], NoduleInfo | None]:
        """One radiograph.

        Args:
            seed: decides pose and noise; an int or a tuple of at most 3 ints.
            patient_seed: decides the anatomy, and the nodule where ``nodule`` is True.
            nodule: True draws the patient's nodule, a :class:`Nodule` is put in as it is, False or None leaves it out.

        Returns:
            (128, 128) uint8, row 0 = head end, column 0 = the patient's right side; and where the nodule lies on it.
        """
        if nodule is True:
            nodule = self.draw_nodule(patient_seed)
        x, z = self._source_coordinates(self._draw_anatomy(patient_seed), self._draw_pose(seed))
        line = self._project(x, z)
        info = None
        if isinstance(nodule, Nodule):
            chord = nodule.chord(x[nodule.slab], z[nodule.slab])
            line += WATER_PER_MM * nodule.density * chord
            info = nodule.describe(chord)
        return develop(line, generator("film", seed)), info

    def draw_nodule(self, patient_seed: Seed) -> Nodule:
        """The nodule of a patient: place, size, shape and density depend on ``patient_seed`` alone."""
        scale = self._draw_anatomy(patient_seed).scale
        return self.sites.draw(
            generator("nodule", patient_seed), scale=scale, field_mm=FIELD_MM, centre_mm=FIELD_CENTRE_MM
        )

    def _draw_anatomy(self, seed: Seed) -> Anatomy:
        rng = generator("anatomy", seed)
        scale = rng.uniform(0.90, 1.10, size=2)
        rough = rng.normal(size=(len(self.slabs.depth), 2))
        smooth = ndimage.gaussian_filter1d(rough, 3.0, axis=0, mode="nearest")
        shift = 3.0 * smooth / (smooth.std() + 1e-6)
        control = rng.normal(scale=4.5, size=(4, WARP_CONTROL, WARP_CONTROL))
        warp = self._spline @ control @ self._spline.T
        return Anatomy(scale=scale, shift=shift, warp=warp.astype(np.float32))

    def _draw_pose(self, seed: Seed) -> Pose:
        rng = generator("pose", seed)
        turn, tilt, roll = np.radians(np.clip(rng.normal(size=3), -2.5, 2.5) * (5.0, 4.0, 3.0))
        zoom = rng.uniform(0.95, 1.06)
        offset = np.clip(rng.normal(scale=8.0, size=2), -18.0, 18.0)
        return Pose(turn=float(turn), tilt=float(tilt), roll=float(roll), zoom=float(zoom), offset=offset)

    def _source_coordinates(self, anatomy: Anatomy, pose: Pose) -> tuple[Plane, Plane]:
        """Where each image pixel looks in each slab: x and z in mm from the scan's middle, (slabs, 128, 128) each."""
        u = (self._x - pose.offset[0]) / pose.zoom
        v = (self._z - pose.offset[1]) / pose.zoom
        cos, sin = np.cos(pose.roll), np.sin(pose.roll)
        u, v = cos * u + sin * v, -sin * u + cos * v + FIELD_CENTRE_MM
        warp = self._sample_warp(anatomy.warp, u, v)
        u, v = (u / anatomy.scale[0]).astype(np.float32), (v / anatomy.scale[1]).astype(np.float32)
        depth = self.slabs.depth
        bend = (depth / np.abs(depth).max()).astype(np.float32)[:, None, None]
        magnification = (1 / (1 + depth / SOURCE_MM)).astype(np.float32)[:, None, None]
        move_x = (np.tan(pose.turn) * depth + anatomy.shift[:, 0]).astype(np.float32)[:, None, None]
        move_z = (np.tan(pose.tilt) * depth + anatomy.shift[:, 1]).astype(np.float32)[:, None, None]
        x = u * magnification + (warp[0] + bend * warp[2]) + move_x
        z = v * magnification + (warp[1] + bend * warp[3]) + move_z
        return x, z

    def _sample_warp(self, warp: NDArray[np.float32], u: NDArray[np.float64], v: NDArray[np.float64]) -> Plane:
        """Displacements (4, 128, 128) at plane positions (u, v) mm: the warp belongs to the patient, not the film."""
        grid = np.stack([u, v], axis=-1)[None].astype(np.float32) / WARP_EXTENT_MM
        return _read(warp[None], grid)[0]

    def _project(self, x: Plane, z: Plane) -> NDArray[np.float64]:
        """Line integrals (128, 128): every slab read at (x, z) mm, summed along the beam."""
        half_x, half_z = self.slabs.half_extent
        grid = np.stack([x / np.float32(half_x), z / np.float32(half_z)], axis=-1)
        # Above and below the scan its end slices go on; a black band would be a cut that no film has.
        return _read(self.slabs.attenuation[:, None], grid)[:, 0].sum(axis=0, dtype=np.float64)


def _read(images: NDArray[np.float32], grid: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bilinear values (N, C, H, W) of images (N, C, h, w) at grid (N, H, W, 2), -1 to 1 between outer pixel centres."""
    import torch

    read = torch.nn.functional.grid_sample(
        torch.from_numpy(images), torch.from_numpy(grid), mode="bilinear", padding_mode="border", align_corners=True
    )
    return np.asarray(read.numpy(), dtype=np.float32)


def develop(line: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turn line integrals into an 8-bit film: noise, multi-scale enhancement, window, gamma.

    Without the subtraction of a blurred copy (the enhancement that digital films get) nodules are nearly invisible.
    """
    size = line.shape[0]
    exposed = line + 0.06 * pink_noise(size, rng)
    exposed -= 0.65 * ndimage.gaussian_filter(exposed, 11.0 * size / SIZE, mode="nearest")
    margin = size // 8
    low, high = np.percentile(exposed[margin:-margin, margin:-margin], [1, 98])
    grey = np.clip((exposed - low) / (high - low), 0, 1) ** rng.uniform(0.8, 1.05)
    grey += rng.normal(scale=0.012, size=grey.shape)
    return np.round(np.clip(grey, 0, 1) * 255).astype(np.uint8)


def pink_noise(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise (size, size) of power spectrum 1/f^3, mean 0 and standard deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(size, size))) * frequency**-1.5
    noise = np.fft.irfft2(spectrum, s=(size, size))
    return noise / noise.std()
