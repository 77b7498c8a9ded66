"""How often the 95 % intervals hold the truth, on simulated patients with several images each.

Prints one line per cell: metric, positive images in the group, images per patient, coverage with its simulation error,
mean width, and what an interval that ignores patients would have covered. Cells outside .92-.97 are marked as failing.

    python scripts/coverage.py --simulations 1000
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from fairmedfm_monai.fairness.binary import BinaryProblem
from fairmedfm_monai.fairness.estimate import Problem, estimate_group
from fairmedfm_monai.fairness.overlap import SegmentationProblem

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

TARGET = (0.92, 0.97)
POSITIVES = (20, 50, 200)
NEGATIVES_PER_POSITIVE = 4
SHARED = 0.5
"""Share of the variance of a score or Dice that all images of a patient have in common."""
TRUE_AUC = 0.85
TRUE_SENSITIVITY = 0.85
DICE_CENTRE, DICE_SCALE = 1.5, 0.8
"""Dice = 1 / (1 + exp(-x)), x normal: mean 0.79, skewed to the left as real Dice is."""


@dataclass(frozen=True)
class Cell:
    """One simulated situation.

    Attributes:
        metric: name of the metric.
        positives: positive images in the group (expected; for Dice: images).
        largest: images per patient are uniform on 1..largest.
        mixed: labels vary between the images of a patient instead of belonging to the patient.
    """

    metric: str
    positives: int
    largest: int
    mixed: bool = False

    @property
    def per_patient(self) -> float:
        """Expected images per patient."""
        return (1 + self.largest) / 2


def images(patients: int, largest: int, rng: np.random.Generator) -> IntArray:
    """Patient code of every image, 1..largest images per patient."""
    return np.repeat(np.arange(patients), rng.integers(1, largest + 1, patients))


def latent(patient: IntArray, rng: np.random.Generator) -> FloatArray:
    """Standard normal values that share the part ``SHARED`` of their variance within a patient."""
    common = rng.standard_normal(int(patient.max()) + 1)[patient]
    return np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * rng.standard_normal(patient.size)


def simulate_scores(cell: Cell, rng: np.random.Generator) -> tuple[Problem, IntArray, NDArray[np.bool_]]:
    """Positives and negatives with the true AUC, and a threshold with the true sensitivity."""
    shift = np.sqrt(2) * ndtri(TRUE_AUC)
    total = cell.positives * (1 + NEGATIVES_PER_POSITIVE) / cell.per_patient
    patient = images(max(2, round(total)), cell.largest, rng)
    if cell.mixed:
        y = rng.random(patient.size) < 1 / (1 + NEGATIVES_PER_POSITIVE)
    else:
        y = (np.arange(int(patient.max()) + 1) < max(2, round(cell.positives / cell.per_patient)))[patient]
    score = ndtr(latent(patient, rng) + shift * y)
    decision = score >= ndtr(shift - ndtri(TRUE_SENSITIVITY))
    return BinaryProblem(y, score, decision, (cell.metric,)), patient, y


def simulate_dice(cell: Cell, rng: np.random.Generator) -> tuple[Problem, IntArray, NDArray[np.bool_]]:
    """Dice of the images of some patients."""
    patient = images(max(2, round(cell.positives / cell.per_patient)), cell.largest, rng)
    dice = 1 / (1 + np.exp(-(DICE_CENTRE + DICE_SCALE * latent(patient, rng))))
    return SegmentationProblem({"dice": dice}, ("dice",)), patient, np.ones(patient.size, dtype=bool)


def true_dice() -> float:
    """Mean Dice by quadrature."""
    x = np.linspace(-8, 8, 200_001)
    density = np.exp(-(x**2) / 2)
    return float((density / (1 + np.exp(-(DICE_CENTRE + DICE_SCALE * x)))).sum() / density.sum())


SIMULATE: dict[str, tuple[Callable[..., tuple[Problem, IntArray, NDArray[np.bool_]]], float]] = {
    "auc": (simulate_scores, TRUE_AUC),
    "sensitivity": (simulate_scores, TRUE_SENSITIVITY),
    "dice": (simulate_dice, true_dice()),
}


def covers(problem: Problem, patient: IntArray, outcome: NDArray[np.bool_], truth: float) -> tuple[bool, float, float]:
    """Whether the shipped interval holds the truth, its width, and its lower error (truth below the interval)."""
    rows = np.arange(patient.size)
    estimate = estimate_group(problem, rows, patients=patient, outcome=outcome, n_bootstrap=0, seed=0)
    low, high = estimate.ends(0)
    return low <= truth <= high, high - low, float(truth < low)


def run_cell(cell: Cell, simulations: int) -> str:
    """Simulate one cell and format its line."""
    rng = np.random.default_rng([cell.positives, cell.largest, cell.mixed, len(cell.metric)])
    simulate, truth = SIMULATE[cell.metric]
    clustered, ignored = [], []
    for _ in range(simulations):
        problem, patient, outcome = simulate(cell, rng)
        clustered.append(covers(problem, patient, outcome, truth))
        ignored.append(covers(problem, np.arange(patient.size), outcome, truth)[0])
    hit, width, above = np.mean(np.array(clustered, dtype=float), axis=0)
    error = np.sqrt(hit * (1 - hit) / simulations)
    verdict = "ok" if TARGET[0] <= hit <= TARGET[1] else "FAILS"
    label = "per image" if cell.mixed else "per patient"
    return (
        f"{cell.metric:<12} {cell.positives:>9} {f'1-{cell.largest}':>7} {label:<12} {hit:>8.3f} {error:>6.3f} "
        f"{width:>7.3f} {above:>9.3f} {np.mean(ignored):>9.3f}  {verdict}"
    )


def cells() -> list[Cell]:
    """All situations."""
    found = [Cell(m, p, largest) for m in SIMULATE for largest in (1, 6) for p in POSITIVES]
    return found + [Cell(m, p, 6, mixed=True) for m in ("auc", "sensitivity") for p in POSITIVES]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000, help="simulations per cell")
    arguments = parser.parse_args()
    start = time.process_time()
    print(f"{arguments.simulations} simulations per cell, target {TARGET[0]}-{TARGET[1]}, variance shared {SHARED}")
    print("metric       positives  images labels       coverage  error   width low-error unclustered")
    lines = [run_cell(cell, arguments.simulations) for cell in cells()]
    print("\n".join(lines))
    failing = sum(line.endswith("FAILS") for line in lines)
    print(f"{failing} of {len(lines)} cells fail; {time.process_time() - start:.0f} s CPU")


if __name__ == "__main__":
    main()
