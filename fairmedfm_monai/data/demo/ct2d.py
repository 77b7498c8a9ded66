"""Demo CT slices: single axial slices of virtual patients, with eight large organs."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairmedfm_monai.data.demo.bias import DEFAULT_CT_STRENGTH, Bias, degrade_ct
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

SIZE = 256
SPACINGS_MM = (1.3, 1.40625, 1.5)
CODES = "LPS"
HELD_OUT = ((16, 25), (48, 57), (80, 89), (112, 121))
"""Slices of the scan (first, last) that val and test are cut from; demo_sam never saw them or 3 slices either side."""
SCAN_SLICES = 133
BUFFER = 3
MIN_PIXELS = 100
MIN_ORGANS = 2
IMAGES_PER_PATIENT = (0.3, 0.5, 0.2)


def is_training_slice(index: int, n_slices: int = SCAN_SLICES) -> bool:
    """Whether a slice of the scan may be trained on: outside every held-out block and its buffer."""
    height = index * (SCAN_SLICES - 1) / (n_slices - 1)
    return all(height < first - BUFFER or height > last + BUFFER for first, last in HELD_OUT)


def make_ct2d(
    output: str | Path,
    *,
    seed: int = 0,
    bias: str = "degrade",
    strength: float | None = None,
    n_train: int = 120,
    n_val: int = 80,
    n_test: int = 240,
    scan: Scan | None = None,
) -> Path:
    """Make a dataset folder of axial CT slices (256 x 256 NIfTI in HU, axes left-posterior) with organ masks.

    Val and test come from heights of the scan that training slices keep away from (``HELD_OUT``).

    Args:
        output: folder to make; must not exist, or be empty.
        seed: decides every byte.
        bias: ``degrade`` (noise and less contrast for female patients) or ``none``.
        strength: of the rule; 0 is the control.
        n_train: slices of the training split.
        n_val: slices of the validation split.
        n_test: slices of the test split.
        scan: where the slices come from; default :func:`fairmedfm_monai.data.demo.scan.load_scan`.

    Returns:
        ``output``, with manifest.csv, dataset.json, images/, masks/, and details.csv (slice, spacing, degradation).
    """
    start = time.perf_counter()
    rule = ct_bias(bias, strength)
    scan = scan or load_scan()
    maker = _SliceMaker(Sampler(scan, scan.large_organs()), rule, seed)
    sizes = {"train": n_train, "val": n_val, "test": n_test}
    patients = draw_patients(seed, sizes=sizes, prevalence=0.0, images_per_patient=IMAGES_PER_PATIENT)
    with building(output) as folder:
        (folder / "images").mkdir()
        (folder / "masks").mkdir()
        rows = [row for rows in in_threads(lambda patient: maker.make(folder, patient), patients) for row in rows]
        write_rows(folder / "manifest.csv", [row for row, _ in rows])
        write_rows(folder / "details.csv", [detail for _, detail in rows])
        write_json(folder / "dataset.json", _card(scan))
    logger.info("made %d CT slices in %s, %.1f s", len(rows), output, time.perf_counter() - start)
    return Path(output)


def ct_bias(bias: str, strength: float | None) -> Bias:
    """The bias rule of a CT set.

    Raises:
        ValueError: ``shortcut``, which needs a finding, or anything that :meth:`Bias.of` refuses.
    """
    if bias == "shortcut":
        msg = "`bias` 'shortcut' needs a finding; CT sets take 'degrade' or 'none'"
        raise ValueError(msg)
    return Bias.of(bias, strength, None, degrade_strength=DEFAULT_CT_STRENGTH)


def manifest_row(patient: Patient, case_id: str) -> dict[str, Any]:
    """One row of a segmentation manifest."""
    return {
        "case_id": case_id,
        "patient_id": patient.patient_id,
        "split": patient.split,
        "image": f"images/{case_id}.nii.gz",
        "mask": f"masks/{case_id}.nii.gz",
        "sex": patient.sex,
        "age": patient.age,
        "race": patient.race,
    }


@dataclass(frozen=True)
class _SliceMaker:
    sampler: Sampler
    rule: Bias
    seed: int

    def make(self, folder: Path, patient: Patient) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Write all slices of a patient; manifest rows and details."""
        return [self._make_slice(folder, patient, *case) for case in patient.images()]

    def _make_slice(
        self, folder: Path, patient: Patient, case_id: str, number: int
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        image_seed = (self.seed, patient.index, number)
        hu, mask, affine, height = self._cut(patient, image_seed)
        degraded = self.rule.degrades(in_minority=patient.in_minority)
        if degraded:
            hu = degrade_ct(hu, self.rule.strength, generator("noise", image_seed))
        row = manifest_row(patient, case_id)
        save_nifti(str(folder / row["image"]), hu[:, :, 0], affine)
        save_nifti(str(folder / row["mask"]), mask[:, :, 0], affine)
        spacing = float(np.linalg.norm(affine[:3, 0]))
        return row, {"case_id": case_id, "degraded": int(degraded), "slice": height, "spacing_mm": f"{spacing:.4f}"}

    def _cut(
        self, patient: Patient, image_seed: tuple[int, int, int]
    ) -> tuple[NDArray[np.int16], NDArray[np.uint8], Affine, int]:
        """A slice that shows at least two organs, from the heights of the patient's split."""
        rng = generator("geometry", image_seed)
        heights = self._heights(held_out=patient.split != "train")
        deformation = draw_deformation((self.seed, patient.index), self.sampler.centre, scale_z=False)
        for height in rng.permutation(heights):
            centre = self.sampler.world(np.array([*(np.array(self.sampler.shape[:2]) - 1) / 2, float(height)]))
            centre[:2] += np.clip(rng.normal(scale=6.0, size=2), -12, 12)
            spacing = float(rng.choice(SPACINGS_MM))
            affine = grid_affine(CODES, (spacing, spacing, 2.5), (SIZE, SIZE, 1), centre)
            affine[:3, :3] = rotation((0.0, 0.0, float(rng.normal(scale=3.0)))) @ affine[:3, :3]
            affine = recentre(affine, (SIZE, SIZE, 1), centre)
            hu, mask = self.sampler.sample(affine, (SIZE, SIZE, 1), deformation)
            counts = np.bincount(mask.ravel(), minlength=len(ORGAN_GROUPS) + 1)[1:]
            if (counts >= MIN_PIXELS).sum() >= MIN_ORGANS:
                return hu, mask, affine, int(height)
        msg = f"no slice shows {MIN_ORGANS} organs of {MIN_PIXELS} pixels; expected a chest CT with organ labels"
        raise ValueError(msg)

    def _heights(self, *, held_out: bool) -> list[int]:
        n_slices = self.sampler.shape[2]
        if not held_out:
            return [index for index in range(n_slices) if is_training_slice(index, n_slices)]
        scaled = [index * (SCAN_SLICES - 1) / (n_slices - 1) for index in range(n_slices)]
        return [index for index, at in enumerate(scaled) if any(first <= at <= last for first, last in HELD_OUT)]


def _card(scan: Scan) -> dict[str, Any]:
    return card(
        scan,
        name="demo-ct2d",
        title="Demo CT slices of deformed copies of one CT, eight large organs",
        notices=[labels_notice(scan)],
        task="segmentation",
        modality="ct",
        spatial_dims=2,
        labels={name: value for value, name in enumerate(ORGAN_GROUPS, start=1)},
        window=[50, 400],
    )
