"""Demo CT volumes: sub-volumes of virtual patients on varied grids, and the scan itself with the readers' nodule."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairmedfm_monai.data.demo.bias import Bias, degrade_ct
from fairmedfm_monai.data.demo.ct2d import ct_bias, manifest_row
from fairmedfm_monai.data.demo.deform import (
    Affine,
    Sampler,
    draw_deformation,
    grid_affine,
    recentre,
    rotation,
    save_nifti,
)
from fairmedfm_monai.data.demo.folder import building, card, in_threads, labels_notice, write_json, write_rows
from fairmedfm_monai.data.demo.patients import Patient, draw_patients
from fairmedfm_monai.data.demo.scan import ORGAN_GROUPS, Scan, load_scan
from fairmedfm_monai.data.demo.seeds import generator

logger = logging.getLogger(__name__)

LABELS = {**{name: value for value, name in enumerate(ORGAN_GROUPS, start=1)}, "nodule": len(ORGAN_GROUPS) + 1}
ORIENTATIONS = ("RAS", "LPS", "LAS", "oblique")
SPACINGS_MM = ((2.0, 2.0, 2.5), (2.4, 2.4, 5.0), (1.8, 2.2, 3.0))
FIELD_MM = (330.0, 270.0)
HEIGHT_MM = (70.0, 110.0)
SCAN_CASE = "scan-0"
SCAN_MARGIN_MM = 20.0
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Grid:
    """The grid of one sub-volume: axis codes (or "oblique"), affine (4, 4) and shape (I, J, K)."""

    orientation: str
    affine: Affine
    shape: tuple[int, int, int]


def make_ct3d(
    output: str | Path,
    *,
    seed: int = 0,
    bias: str = "degrade",
    strength: float | None = None,
    n_train: int = 8,
    n_val: int = 4,
    n_test: int = 12,
    scan: Scan | None = None,
) -> Path:
    """Make a dataset folder of CT volumes (NIfTI, HU) with eight organs and the nodule.

    Sub-volumes are cut from deformed copies of the scan, on grids of varied spacing and orientation (RAS, LPS, LAS,
    oblique). One more test case is the scan as it is, on its own voxels (cut to the organs and 20 mm around in plane),
    whose patient's sex, age and race are unknown.

    Args:
        output: folder to make; must not exist, or be empty.
        seed: decides every byte.
        bias: ``degrade`` (noise and less contrast for female patients) or ``none``.
        strength: of the rule; 0 is the control.
        n_train: sub-volumes of the training split.
        n_val: sub-volumes of the validation split.
        n_test: sub-volumes of the test split, without the scan itself.
        scan: where the volumes come from; default :func:`fairmedfm_monai.data.demo.scan.load_scan`.

    Returns:
        ``output``, with manifest.csv, dataset.json, images/, masks/, details.csv (spacing, axes, degradation) and
        readers.json (how well the human readers agree on the nodule).
    """
    start = time.perf_counter()
    rule = ct_bias(bias, strength)
    scan = scan or load_scan()
    labels = label_volume(scan)
    sampler = Sampler(scan, labels)
    sizes = {"train": n_train, "val": n_val, "test": n_test}
    patients = draw_patients(seed, sizes=sizes, prevalence=0.0, images_per_patient=(1.0,))
    with building(output) as folder:
        (folder / "images").mkdir()
        (folder / "masks").mkdir()
        rows = in_threads(lambda patient: _make_volume(folder, sampler, rule, seed, patient), patients)
        rows.append(_write_scan(folder, scan, labels))
        write_rows(folder / "manifest.csv", [row for row, _ in rows])
        write_rows(folder / "details.csv", [detail for _, detail in rows])
        write_json(folder / "readers.json", reader_agreement(scan))
        write_json(folder / "dataset.json", _card(scan))
    logger.info("made %d CT volumes in %s, %.1f s", len(rows), output, time.perf_counter() - start)
    return Path(output)


def label_volume(scan: Scan) -> NDArray[np.uint8]:
    """Label map (I, J, K) of ``LABELS`` on the scan's grid; the nodule wins over the lung around it."""
    labels = scan.large_organs()
    labels[scan.nodule] = LABELS["nodule"]
    return labels


def reader_agreement(scan: Scan) -> dict[str, Any]:
    """How well the readers agree on the nodule: the yardstick of a model's Dice against their consensus."""
    dice = scan.reader_dice()
    pairs = dice[np.triu_indices(scan.n_readers, k=1)]
    consensus = scan.nodule
    with_consensus = [
        2 * int((scan.reader(index) & consensus).sum()) / (int(scan.reader(index).sum()) + int(consensus.sum()))
        for index in range(scan.n_readers)
    ]
    return {
        "case_id": SCAN_CASE,
        "label": "nodule",
        "consensus": f"outlined by at least {max(1, scan.n_readers // 2)} of {scan.n_readers} readers",
        "consensus_voxels": int(consensus.sum()),
        "pairwise_dice": [[round(float(value), 6) for value in row] for row in dice],
        "pairwise_dice_min": round(float(pairs.min()), 6),
        "pairwise_dice_mean": round(float(pairs.mean()), 6),
        "pairwise_dice_max": round(float(pairs.max()), 6),
        "dice_with_consensus": [round(value, 6) for value in with_consensus],
    }


def draw_grid(
    seed: tuple[int, int], place: int, sampler: Sampler, *, between: tuple[float, float] | None = None
) -> Grid:
    """Orientation, spacing and height in turn, so that every data set holds each; extent and place at random.

    Args:
        seed: of the patient.
        place: number of the patient, whose turn it is.
        sampler: of the scan.
        between: lowest and highest z in mm that a grid may show; None = the whole scan.
    """
    rng = generator("geometry", seed)
    orientation = ORIENTATIONS[place % len(ORIENTATIONS)]
    spacing = SPACINGS_MM[place // len(ORIENTATIONS) % len(SPACINGS_MM)]
    height = rng.uniform(*HEIGHT_MM)
    shape = tuple(round(extent / step) for extent, step in zip((*FIELD_MM, height), spacing, strict=True))
    low, high = between or (sampler.world(np.array([0.0, 0.0, k]))[2] for k in (0, sampler.shape[2] - 1))
    centre = sampler.centre.copy()
    centre[:2] += rng.normal(scale=4.0, size=2)
    # Golden-ratio steps spread the heights evenly, so that kidneys and liver are shown as well as lungs.
    fraction = (place * GOLDEN + rng.uniform(0, 0.1)) % 1
    centre[2] = low + height / 2 + 5 + fraction * (high - low - height - 10)
    affine = grid_affine("RAS" if orientation == "oblique" else orientation, spacing, shape, centre)
    if orientation == "oblique":
        turned = rotation((float(rng.uniform(6, 12)), float(rng.uniform(-8, 8)), float(rng.uniform(8, 15))))
        affine[:3, :3] = turned @ affine[:3, :3]
        affine = recentre(affine, shape, centre)
    return Grid(orientation, affine, (shape[0], shape[1], shape[2]))


def _make_volume(
    folder: Path, sampler: Sampler, rule: Bias, seed: int, patient: Patient
) -> tuple[dict[str, Any], dict[str, Any]]:
    patient_seed = (seed, patient.index)
    grid = draw_grid(patient_seed, patient.index, sampler)
    hu, mask = sampler.sample(grid.affine, grid.shape, draw_deformation(patient_seed, sampler.centre))
    degraded = rule.degrades(in_minority=patient.in_minority)
    if degraded:
        hu = degrade_ct(hu, rule.strength, generator("noise", patient_seed))
    row = manifest_row(patient, f"{patient.patient_id}-0")
    save_nifti(str(folder / row["image"]), hu, grid.affine)
    save_nifti(str(folder / row["mask"]), mask, grid.affine)
    return row, grid_detail(row["case_id"], grid, degraded=degraded)


def _write_scan(folder: Path, scan: Scan, labels: NDArray[np.uint8]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The scan itself: its own voxels and every slice, cut in plane to the organs and a margin."""
    first, last = [], []
    for axis in (0, 1):
        shown = np.flatnonzero(labels.any(axis=tuple({0, 1, 2} - {axis})))
        margin = round(SCAN_MARGIN_MM / scan.spacing[axis])
        first.append(max(0, int(shown[0]) - margin))
        last.append(min(labels.shape[axis], int(shown[-1]) + 1 + margin))
    window = (slice(first[0], last[0]), slice(first[1], last[1]))
    affine = scan.affine.copy()
    affine[:3, 3] += scan.affine[:3, :3] @ np.array([*first, 0.0])
    row = {
        **manifest_row(Patient(0, "test", "unknown", 0, "unknown", False, 1), SCAN_CASE),
        "patient_id": "scan",
        "age": "unknown",
    }
    cut = labels[window]
    save_nifti(str(folder / row["image"]), scan.hu[window], affine)
    save_nifti(str(folder / row["mask"]), cut, affine)
    return row, grid_detail(SCAN_CASE, Grid("LAS", affine, (cut.shape[0], cut.shape[1], cut.shape[2])), degraded=False)


def grid_detail(case_id: str, grid: Grid, *, degraded: bool) -> dict[str, Any]:
    """One row of details.csv: degradation, axes, voxel edges in mm and size."""
    spacing = np.linalg.norm(grid.affine[:3, :3], axis=0)
    steps = {f"spacing_{axis}_mm": f"{step:.4f}" for axis, step in zip("ijk", spacing, strict=True)}
    size = dict(zip(("size_i", "size_j", "size_k"), grid.shape, strict=True))
    return {"case_id": case_id, "degraded": int(degraded), "orientation": grid.orientation, **steps, **size}


def _card(scan: Scan) -> dict[str, Any]:
    agreement = reader_agreement(scan)
    low, high = agreement["pairwise_dice_min"], agreement["pairwise_dice_max"]
    who = f"{scan.n_readers} human readers" if scan.is_real else f"{scan.n_readers} simulated readers"
    readers = f"nodule of case {SCAN_CASE}: consensus of {who}, who agree pairwise with Dice {low:.3f} to {high:.3f}"
    return card(
        scan,
        name="demo-ct3d",
        title="Demo CT volumes: one CT with its readers' nodule, and sub-volumes of deformed copies",
        notices=[labels_notice(scan), readers],
        task="segmentation",
        modality="ct",
        spatial_dims=3,
        labels=LABELS,
        window=[50, 400],
        reader_dice={agreement["label"]: agreement["pairwise_dice_mean"]},
    )
