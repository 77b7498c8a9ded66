"""The demo radiographs: one finding (a nodule), two sexes, one of which a bias rule treats worse."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairmedfm_monai.data.demo.bias import Bias, degrade, draw_marker
from fairmedfm_monai.data.demo.folder import building, card, in_threads, labels_notice, write_json, write_rows
from fairmedfm_monai.data.demo.patients import Patient, draw_patients
from fairmedfm_monai.data.demo.scan import Scan, load_scan
from fairmedfm_monai.data.demo.seeds import generator

if TYPE_CHECKING:
    from fairmedfm_monai.data.demo.radiograph import Projector

logger = logging.getLogger(__name__)

PROMPTS = {
    "no_finding": [
        "a chest radiograph with no nodule",
        "a chest x-ray without a nodule",
        "no nodule is seen in the lungs",
        "a normal chest radiograph",
    ],
    "finding": [
        "a chest radiograph with a nodule",
        "a chest x-ray showing a lung nodule",
        "a nodule is seen in the lung",
        "a chest radiograph of a patient with a nodule",
    ],
}
"""Prompt ensemble of each class; the demo model's vocabulary holds every word."""


def make_xray(
    output: str | Path,
    *,
    seed: int = 0,
    bias: str = "degrade",
    strength: float | None = None,
    minority_share: float | None = None,
    n_train: int = 900,
    n_val: int = 300,
    n_test: int = 1200,
    scan: Scan | None = None,
    projector: Projector | None = None,
) -> Path:
    """Make a dataset folder of 128 x 128 radiographs of virtual patients.

    A third of the images of each sex shows a nodule. The rule ``bias`` acts on female patients; age and race are
    independent of everything.

    Args:
        output: folder to make; must not exist, or be empty.
        seed: 0 to 999 for data sets (the demo models were trained on others); decides every byte.
        bias: ``degrade``, ``shortcut`` or ``none``.
        strength: of the rule; default: calibrated, see :mod:`fairmedfm_monai.data.demo.bias`. 0 is the control.
        minority_share: share of female patients' images in train and val; default .5, for ``shortcut`` .2.
        n_train: images of the training split.
        n_val: images of the validation split.
        n_test: images of the test split, of both sexes equally many.
        scan: where the images come from; default :func:`fairmedfm_monai.data.demo.scan.load_scan`.
        projector: made from ``scan``, when there already is one.

    Returns:
        ``output``, with manifest.csv, dataset.json, images/, and details.csv (nodule, marker, degradation per case).
    """
    from fairmedfm_monai.data.demo.radiograph import Projector

    start = time.perf_counter()
    rule = Bias.of(bias, strength, minority_share)
    scan = scan or load_scan()
    projector = projector or Projector(scan)
    sizes = {"train": n_train, "val": n_val, "test": n_test}
    patients = draw_patients(seed, sizes=sizes, minority_share=rule.minority_share)
    with building(output) as folder:
        (folder / "images").mkdir()

        def make(patient: Patient) -> list[tuple[dict[str, Any], dict[str, Any]]]:
            return [_make_image(folder, projector, rule, seed, patient, case) for case in patient.images()]

        rows = [row for rows in in_threads(make, patients) for row in rows]
        write_rows(folder / "manifest.csv", [row for row, _ in rows])
        write_rows(folder / "details.csv", [detail for _, detail in rows])
        write_json(folder / "dataset.json", _card(scan))
    logger.info("made %d radiographs in %s, %.1f s", len(rows), output, time.perf_counter() - start)
    return Path(output)


def _make_image(
    folder: Path, projector: Projector, rule: Bias, seed: int, patient: Patient, case: tuple[str, int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write one image; its manifest row, and what is known about it."""
    from PIL import Image

    case_id, number = case
    image_seed = (seed, patient.index, number)
    image, nodule = projector.image(image_seed, (seed, patient.index), nodule=patient.positive)
    chance = rule.marker_chance(positive=patient.positive, in_minority=patient.in_minority)
    marked = bool(generator("marker", image_seed).random() < chance)
    if marked:
        image = draw_marker(image)
    degraded = rule.degrades(in_minority=patient.in_minority)
    if degraded:
        image = degrade(image, rule.strength, generator("noise", image_seed))
    path = f"images/{case_id}.png"
    Image.fromarray(image).save(folder / path)
    row = {
        "case_id": case_id,
        "patient_id": patient.patient_id,
        "split": patient.split,
        "image": path,
        "label": "finding" if patient.positive else "no_finding",
        "sex": patient.sex,
        "age": patient.age,
        "race": patient.race,
    }
    facts = ("row", "column", "radius", "radius_mm", "density")
    known = {fact: "" if nodule is None else f"{getattr(nodule, fact):.2f}" for fact in facts}
    place = {"side": nodule.side, "zone": nodule.zone} if nodule else {"side": "", "zone": ""}
    return row, {"case_id": case_id, "degraded": int(degraded), "marker": int(marked), **known, **place}


def _card(scan: Scan) -> dict[str, Any]:
    return card(
        scan,
        name="demo-xray",
        title="Demo radiographs projected from one CT, with and without an inserted nodule",
        notices=[f"nodules were placed inside the scan's lung labels; {labels_notice(scan)}"],
        task="classification",
        modality="xray",
        spatial_dims=2,
        classes=PROMPTS,
        positive_class="finding",
        window=None,
    )
