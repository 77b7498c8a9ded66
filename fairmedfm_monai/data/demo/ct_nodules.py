"""Demo CT volumes for classification: sub-volumes of virtual patients, half of them with an inserted lung nodule."""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fairmedfm_monai.data.demo.bias import Bias, degrade_ct
from fairmedfm_monai.data.demo.ct2d import ct_bias
from fairmedfm_monai.data.demo.ct3d import draw_grid, grid_detail
from fairmedfm_monai.data.demo.deform import Affine, Sampler, draw_deformation, save_nifti
from fairmedfm_monai.data.demo.folder import building, card, in_threads, labels_notice, write_json, write_rows
from fairmedfm_monai.data.demo.patients import Patient, draw_patients
from fairmedfm_monai.data.demo.scan import ORGAN_GROUPS, Scan, load_scan
from fairmedfm_monai.data.demo.seeds import Seed, generator
from fairmedfm_monai.data.demo.slabs import LUNG_LEFT, LUNG_RIGHT, remove_nodule

logger = logging.getLogger(__name__)

PROMPTS = {
    "no_nodule": [
        "a chest CT scan with no nodule",
        "a CT of the chest without a lung nodule",
        "no nodule is seen in the lungs",
    ],
    "nodule": [
        "a chest CT scan with a nodule",
        "a CT of the chest showing a lung nodule",
        "a nodule is seen in the lung",
    ],
}
"""Prompt ensemble of each class."""

RADIUS_MM = (8.0, 15.0)  # the largest are what is still called a nodule; smaller ones vanish at 5 mm between slices
NODULE_HU = (-20.0, 80.0)
DEPTH_MM = 6.0  # of the centre below the lung's surface
EDGE_MM = 1.5  # over which a nodule fades into the lung
N_LOBES = 3
ABOUT_SCAN_MM = 20.0  # around the scan's own nodule: more than what its removal looks at


@dataclass(frozen=True)
class LungNodule:
    """A lobulated ellipsoid, in mm of the virtual patient's world (RAS+).

    Attributes:
        centre: (3,) mm.
        semi_axes: (3,) mm along x, y and z.
        lobes: (n, 2) amplitude and phase of the n-th wave (3, 4, ... per turn about z) of its outline.
        hu: Hounsfield units inside.
        side: "left" or "right" lung.
    """

    centre: NDArray[np.float64]
    semi_axes: NDArray[np.float64]
    lobes: NDArray[np.float64]
    hu: float
    side: str

    @property
    def radius_mm(self) -> float:
        """Mean radius in mm."""
        return float(self.semi_axes.mean())

    def share(self, affine: Affine, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """How much of each voxel of a grid it fills, (I, J, K) in 0..1; falls from 1 to 0 over ``EDGE_MM``."""
        index = np.indices(shape, dtype=np.float32)
        offset = np.tensordot(affine[:3, :3], index, axes=1) + (affine[:3, 3] - self.centre)[:, None, None, None]
        scaled = offset / self.semi_axes[:, None, None, None]
        angle = np.arctan2(scaled[1], scaled[0])
        outline = np.ones(shape)
        for wave, (amplitude, phase) in enumerate(self.lobes, start=3):
            outline += amplitude * np.cos(wave * angle + phase)
        beyond = (np.linalg.norm(scaled, axis=0) / outline - 1) * self.radius_mm
        return np.clip(0.5 - beyond / EDGE_MM, 0, 1).astype(np.float32)

    def insert(self, hu: NDArray[np.int16], affine: Affine) -> NDArray[np.int16]:
        """A copy of a volume (I, J, K) in HU that holds the nodule."""
        voxel = np.linalg.inv(affine) @ np.array([*self.centre, 1.0])
        steps = np.linalg.norm(affine[:3, :3], axis=0)
        reach = np.ceil((1.5 * self.semi_axes.max() + EDGE_MM) / steps).astype(int)
        first = np.maximum(np.rint(voxel[:3]).astype(int) - reach, 0)
        last = np.minimum(np.rint(voxel[:3]).astype(int) + reach + 1, hu.shape)
        box = tuple(slice(start, end) for start, end in zip(first, last, strict=True))
        moved = affine.copy()
        moved[:3, 3] += affine[:3, :3] @ first
        share = self.share(moved, tuple(last - first))
        filled = hu.copy()
        filled[box] = np.round(hu[box] + share * (self.hu - hu[box]))
        return filled


def make_ct_nodules(
    output: str | Path,
    *,
    seed: int = 0,
    bias: str = "degrade",
    strength: float | None = None,
    n_train: int = 16,
    n_val: int = 8,
    n_test: int = 16,
    scan: Scan | None = None,
) -> Path:
    """Make a dataset folder of chest CT volumes (NIfTI, HU), half of each sex with one inserted lung nodule.

    Sub-volumes at the height of the lungs are cut from deformed copies of the scan, whose own nodule is taken out
    before, on grids of varied spacing and orientation. One volume per patient.

    Args:
        output: folder to make; must not exist, or be empty.
        seed: decides every byte.
        bias: ``degrade`` (noise and less contrast for female patients) or ``none``.
        strength: of the rule; 0 is the control.
        n_train: volumes of the training split.
        n_val: volumes of the validation split.
        n_test: volumes of the test split.
        scan: where the volumes come from; default :func:`fairmedfm_monai.data.demo.scan.load_scan`.

    Returns:
        ``output``, with manifest.csv, dataset.json, images/, and details.csv (grid, degradation, nodule per case).
    """
    start = time.perf_counter()
    rule = ct_bias(bias, strength)
    scan = scan or load_scan()
    maker = _VolumeMaker.of(scan, rule, seed)
    sizes = {"train": n_train, "val": n_val, "test": n_test}
    patients = draw_patients(seed, sizes=sizes, prevalence=0.5, images_per_patient=(1.0,))
    with building(output) as folder:
        (folder / "images").mkdir()
        rows = in_threads(lambda patient: maker.make(folder, patient), patients)
        write_rows(folder / "manifest.csv", [row for row, _ in rows])
        write_rows(folder / "details.csv", [detail for _, detail in rows])
        write_json(folder / "dataset.json", _card(scan))
    logger.info("made %d CT volumes in %s, %.1f s", len(rows), output, time.perf_counter() - start)
    return Path(output)


def lung_labels(scan: Scan) -> NDArray[np.uint8]:
    """The lungs (I, J, K) on the scan's grid: 1 left, 2 right, 0 elsewhere."""
    lungs = np.zeros(scan.organs.shape, dtype=np.uint8)
    lungs[scan.organ(*ORGAN_GROUPS["lung_left"])] = LUNG_LEFT
    lungs[scan.organ(*ORGAN_GROUPS["lung_right"])] = LUNG_RIGHT
    return lungs


def without_nodule(scan: Scan) -> Scan:
    """The scan with lung in place of its own nodule, which else every volume without a nodule would show."""
    if not scan.reader_bits.any():
        return scan
    found = [np.flatnonzero(scan.reader_bits.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    margins = [int(np.ceil(ABOUT_SCAN_MM / step)) for step in scan.spacing]
    box = tuple(slice(max(0, at[0] - margin), at[-1] + margin + 1) for at, margin in zip(found, margins, strict=True))
    lungs = lung_labels(scan)[box] > 0
    hu = scan.hu.copy()
    hu[box] = remove_nodule(
        hu[box].astype(np.float32),
        scan.reader_bits[box] > 0,
        lungs,
        solid=(scan.organs[box] > 0) & ~lungs,
        spacing=scan.spacing,
    )
    return dataclasses.replace(scan, hu=hu, reader_bits=np.zeros_like(scan.reader_bits))


def draw_nodule(
    seed: Seed, lungs: NDArray[np.uint8], affine: Affine, *, margin_mm: float = RADIUS_MM[1] + EDGE_MM
) -> LungNodule:
    """A nodule at a random place of the lungs that a grid shows whole.

    Args:
        seed: of the volume.
        lungs: (I, J, K) labels as from :func:`lung_labels`.
        affine: (4, 4) of their grid.
        margin_mm: least distance of the centre from the faces of the grid.

    Raises:
        ValueError: the grid shows no lung deep enough.
    """
    rng = generator("nodule", seed)
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    # Every other voxel in plane: a quarter of the work for the distances.
    depth = ndimage.distance_transform_edt(lungs[::2, ::2] > 0, sampling=steps * (2, 2, 1))
    for axis, step in enumerate(steps * (2, 2, 1)):
        size = depth.shape[axis]
        outside = np.minimum(np.arange(size), size - 1 - np.arange(size)) * step < margin_mm
        depth[(slice(None),) * axis + (outside,)] = 0
    sites = np.argwhere(depth >= DEPTH_MM)
    if not len(sites):
        msg = f"no lung lies {DEPTH_MM:g} mm deep inside the volume; expected a chest CT with lung labels"
        raise ValueError(msg)
    voxel = rng.choice(sites) * (2, 2, 1)
    radius = rng.uniform(*RADIUS_MM)
    return LungNodule(
        centre=affine[:3, :3] @ voxel + affine[:3, 3],
        semi_axes=radius * rng.uniform(0.85, 1.15, size=3),
        lobes=np.stack([rng.uniform(0, 0.09, N_LOBES), rng.uniform(0, 2 * np.pi, N_LOBES)], axis=1),
        hu=float(rng.uniform(*NODULE_HU)),
        side="left" if lungs[tuple(voxel)] == LUNG_LEFT else "right",
    )


@dataclass(frozen=True)
class _VolumeMaker:
    sampler: Sampler
    between: tuple[float, float]
    rule: Bias
    seed: int

    @classmethod
    def of(cls, scan: Scan, rule: Bias, seed: int) -> _VolumeMaker:
        lungs = lung_labels(scan)
        shown = np.flatnonzero(lungs.any(axis=(0, 1)))
        if not len(shown):
            msg = "the scan has no lung labels; expected a chest CT with lung labels"
            raise ValueError(msg)
        sampler = Sampler(without_nodule(scan), lungs)
        low, high = (float(sampler.world(np.array([0.0, 0.0, k]))[2]) for k in (shown[0], shown[-1]))
        return cls(sampler, (low, high), rule, seed)

    def make(self, folder: Path, patient: Patient) -> tuple[dict[str, Any], dict[str, Any]]:
        """Write one volume; its manifest row, and what is known about it."""
        patient_seed = (self.seed, patient.index)
        grid = draw_grid(patient_seed, patient.index, self.sampler, between=self.between)
        hu, lungs = self.sampler.sample(grid.affine, grid.shape, draw_deformation(patient_seed, self.sampler.centre))
        nodule = draw_nodule(patient_seed, lungs, grid.affine) if patient.positive else None
        if nodule is not None:
            hu = nodule.insert(hu, grid.affine)
        degraded = self.rule.degrades(in_minority=patient.in_minority)
        if degraded:
            hu = degrade_ct(hu, self.rule.strength, generator("noise", patient_seed))
        row = _manifest_row(patient)
        save_nifti(str(folder / row["image"]), hu, grid.affine)
        return row, {**grid_detail(row["case_id"], grid, degraded=degraded), **_nodule_detail(nodule)}


def _manifest_row(patient: Patient) -> dict[str, Any]:
    case_id = f"{patient.patient_id}-0"
    return {
        "case_id": case_id,
        "patient_id": patient.patient_id,
        "split": patient.split,
        "image": f"images/{case_id}.nii.gz",
        "label": "nodule" if patient.positive else "no_nodule",
        "sex": patient.sex,
        "age": patient.age,
        "race": patient.race,
    }


def _nodule_detail(nodule: LungNodule | None) -> dict[str, Any]:
    """Centre in world mm, mean radius, Hounsfield units and side; empty where there is no nodule."""
    if nodule is None:
        return dict.fromkeys(("nodule_x_mm", "nodule_y_mm", "nodule_z_mm", "radius_mm", "nodule_hu", "side"), "")
    place = {f"nodule_{axis}_mm": f"{at:.2f}" for axis, at in zip("xyz", nodule.centre, strict=True)}
    return {**place, "radius_mm": f"{nodule.radius_mm:.2f}", "nodule_hu": f"{nodule.hu:.1f}", "side": nodule.side}


def _card(scan: Scan) -> dict[str, Any]:
    return card(
        scan,
        name="demo-ct-nodules",
        title="Demo chest CT volumes of deformed copies of one CT, with and without an inserted nodule",
        notices=[f"nodules were placed inside the scan's lung labels; {labels_notice(scan)}"],
        task="classification",
        modality="ct",
        spatial_dims=3,
        classes=PROMPTS,
        positive_class="nodule",
        window="lung",
    )
