"""The CT as coronal slabs of attenuation, from which radiographs are projected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fairmedfm_monai.data.demo.seeds import generator

if TYPE_CHECKING:
    from fairmedfm_monai.data.demo.scan import Scan

N_SLABS = 32
PIXEL_MM = 2.0
IN_PLANE_MM = 1.4
LUNG_LEFT, LUNG_RIGHT = 1, 2


@dataclass(frozen=True)
class Slabs:
    """Attenuation by depth, and the lungs on the grid it came from.

    Attributes:
        attenuation: (S, Z, X) float32 line integrals of the slabs that hold more than air (S <= 32); x grows to the
            patient's left, z upwards.
        depth: (S,) mm from the middle of the scan, positive = anterior (nearer to the focus of an AP film).
        half_extent: mm from the middle of the scan to the outermost pixel centres along (x, z).
        lungs: (I, J, K) uint8, 1 left and 2 right lung, on a grid of ``spacing`` mm centred on the scan's middle.
        spacing: voxel edges of ``lungs`` in mm.
    """

    attenuation: NDArray[np.float32]
    depth: NDArray[np.float64]
    half_extent: tuple[float, float]
    lungs: NDArray[np.uint8]
    spacing: tuple[float, float, float]


def make_slabs(scan: Scan) -> Slabs:
    """Slabs of a scan, without its table and without its own nodule (else every "no nodule" image held one)."""
    factor = max(1, round(IN_PLANE_MM / scan.spacing[0]))
    hu = reduce_in_plane(np.clip(scan.hu, -1000, 1500), factor)
    lungs = np.zeros(scan.organs.shape, dtype=np.uint8)
    lungs[scan.organ("lung_upper_lobe_left", "lung_lower_lobe_left")] = LUNG_LEFT
    lungs[scan.organ("lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right")] = LUNG_RIGHT
    spacing = (scan.spacing[0] * factor, scan.spacing[1] * factor, scan.spacing[2])
    lungs = _pick(lungs, factor)
    hu = np.where(body_mask(hu), hu, -1000.0)
    solid = _pick(scan.organs, factor) > 0
    hu = remove_nodule(
        hu,
        _pick((scan.reader_bits > 0).astype(np.uint8), factor) > 0,
        lungs > 0,
        solid=solid & (lungs == 0),
        spacing=spacing,
    )
    attenuation = np.where(hu < -950, 0.0, np.clip((hu + 1000) / 1000, 0, 2.5) * 0.02).astype(np.float32)
    return _sum_slabs(attenuation, lungs, spacing)


def reduce_in_plane(volume: NDArray[np.int16], factor: int) -> NDArray[np.float32]:
    """Mean over ``factor`` x ``factor`` voxels of the first two axes, (I, J, K) -> (I/factor, J/factor, K)."""
    size_i, size_j = (volume.shape[0] // factor * factor, volume.shape[1] // factor * factor)
    parts = [volume[a:size_i:factor, b:size_j:factor].astype(np.float32) for a in range(factor) for b in range(factor)]
    return np.asarray(sum(parts) / np.float32(factor**2), dtype=np.float32)


def body_mask(hu: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The patient without the table, holes filled slice by slice, on a reduced grid (I, J, K)."""
    tissue = ndimage.binary_opening(hu > -300, iterations=2)
    components, _ = ndimage.label(tissue)
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    body = components == sizes.argmax()
    for k in range(body.shape[2]):
        body[:, :, k] = ndimage.binary_fill_holes(body[:, :, k])
    # The opening shaves the skin off; give it back.
    return ndimage.binary_dilation(body, iterations=2)


def remove_nodule(
    hu: NDArray[np.float32],
    nodule: NDArray[np.bool_],
    lungs: NDArray[np.bool_],
    *,
    solid: NDArray[np.bool_],
    spacing: tuple[float, float, float],
) -> NDArray[np.float32]:
    """Replace the nodule and 4 mm around it (organs excepted) by HU drawn from the lung 4 to 15 mm around it."""
    if not nodule.any():
        return hu
    distance = ndimage.distance_transform_edt(~nodule, sampling=spacing)
    hole = (distance <= 4.0) & ~solid
    ring = (distance > 4.0) & (distance <= 15.0) & lungs
    filled = hu.copy()
    filled[hole] = generator("phantom", 0).choice(hu[ring], size=int(hole.sum()))
    return filled


def _pick(labels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Every ``factor``-th label in plane, on the grid of :func:`reduce_in_plane`."""
    size_i, size_j = (labels.shape[0] // factor * factor, labels.shape[1] // factor * factor)
    return np.ascontiguousarray(labels[factor // 2 : size_i : factor, factor // 2 : size_j : factor])


def _sum_slabs(
    attenuation: NDArray[np.float32], lungs: NDArray[np.uint8], spacing: tuple[float, float, float]
) -> Slabs:
    size_i, size_j, size_k = attenuation.shape
    edges = np.linspace(0, size_j, N_SLABS + 1).round().astype(int)
    sums = np.add.reduceat(attenuation, edges[:-1], axis=1) * np.float32(spacing[1])
    depth = ((edges[:-1] + edges[1:] - 1) / 2 - (size_j - 1) / 2) * spacing[1]
    half = ((size_i - 1) / 2 * spacing[0], (size_k - 1) / 2 * spacing[2])
    columns, rows = (round(2 * extent / PIXEL_MM) + 1 for extent in half)
    # (I, slab, K) -> (slab, K, I), resampled so that first and last pixel centres stay where they are.
    stacked = np.transpose(sums, (1, 2, 0))
    shown = stacked.any(axis=(1, 2))
    resampled = ndimage.zoom(stacked[shown], (1, rows / size_k, columns / size_i), order=1, mode="nearest")
    return Slabs(np.ascontiguousarray(resampled, dtype=np.float32), depth[shown], half, lungs, spacing)
