"""Virtual patients: sex and finding in fixed numbers, age and race drawn independently of everything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairmedfm_monai.data.demo.seeds import generator

SEXES = ("female", "male")
MINORITY = "female"  # the sex that the bias rules act on
RACES = ("white", "black", "asian")
RACE_SHARES = (0.5, 0.3, 0.2)
SPLITS = ("train", "val", "test")
IMAGES_PER_PATIENT = (0.70, 0.25, 0.05)
"""Chance of one, two or three images; with equal difficulty inside a patient the design effect stays below 1.6."""

ATTRIBUTES: dict[str, dict[str, Any]] = {
    "sex": {"column": "sex", "groups": {"female": ["female"], "male": ["male"]}, "missing": ["unknown"]},
    "age": {"column": "age", "bins": [0, 60, 200], "groups": ["lt60", "ge60"], "missing": ["unknown"]},
    "race": {"column": "race", "groups": {name: [name] for name in RACES}, "missing": ["unknown"]},
}
"""Attributes as every demo card states them."""


@dataclass(frozen=True)
class Patient:
    """One virtual patient.

    Attributes:
        index: number in the data set; part of the seed of everything that is drawn for the patient.
        split: train, val or test.
        sex: female or male.
        age: years, 20 to 89.
        race: one of ``RACES``.
        positive: whether the images show the finding.
        n_images: how many images there are of the patient.
    """

    index: int
    split: str
    sex: str
    age: int
    race: str
    positive: bool
    n_images: int

    @property
    def patient_id(self) -> str:
        """Identifier in the manifest."""
        return f"p{self.index:04d}"

    @property
    def in_minority(self) -> bool:
        """Whether the bias rules act on this patient."""
        return self.sex == MINORITY

    def images(self) -> Iterator[tuple[str, int]]:
        """Case id and number of each image."""
        for image in range(self.n_images):
            yield f"{self.patient_id}-{image}", image


def draw_patients(
    seed: int,
    *,
    sizes: Mapping[str, int],
    prevalence: float = 1 / 3,
    minority_share: float = 0.5,
    images_per_patient: Sequence[float] = IMAGES_PER_PATIENT,
) -> list[Patient]:
    """Patients whose images fill every split x sex x finding cell to the last one.

    Args:
        seed: of the data set.
        sizes: split -> number of images.
        prevalence: share of images with the finding, the same for both sexes, in [0, 1].
        minority_share: share of the minority's images in train and val, in (0, 1); test always holds equal shares.
        images_per_patient: chance of 1, 2, ... images.

    Returns:
        Patients in random order, so that an index tells nothing; age and race depend on ``seed`` and index alone.

    Raises:
        ValueError: a share outside its range, an unknown split, or a negative size.
    """
    if not (0 < minority_share < 1 and 0 <= prevalence <= 1):
        msg = f"expected `minority_share` in (0, 1), `prevalence` in [0, 1], got {minority_share}, {prevalence}"
        raise ValueError(msg)
    if wrong := {split: size for split, size in sizes.items() if split not in SPLITS or size < 0}:
        msg = f"`sizes` must map {SPLITS} to numbers of images, got {wrong}"
        raise ValueError(msg)
    rng = generator("patients", seed)
    cells: list[tuple[str, str, bool, int]] = []
    for split, sex, positive, wanted in _cells(sizes, prevalence, minority_share):
        left = wanted
        while left > 0:
            n_images = min(left, 1 + int(rng.choice(len(images_per_patient), p=images_per_patient)))
            cells.append((split, sex, positive, n_images))
            left -= n_images
    order = rng.permutation(len(cells))
    return [_patient(seed, index, *cells[place]) for index, place in enumerate(order)]


def _cells(sizes: Mapping[str, int], prevalence: float, minority_share: float) -> Iterator[tuple[str, str, bool, int]]:
    for split, size in sizes.items():
        minority = round(size * (0.5 if split == "test" else minority_share))
        for sex in SEXES:
            n_sex = minority if sex == MINORITY else size - minority
            n_positive = round(n_sex * prevalence)
            yield split, sex, True, n_positive
            yield split, sex, False, n_sex - n_positive


def _patient(seed: int, index: int, split: str, sex: str, positive: bool, n_images: int) -> Patient:
    rng = generator("patients", (seed, index))
    age = int(min(89, max(20, round(rng.normal(58, 15)))))
    race = str(rng.choice(RACES, p=RACE_SHARES))
    return Patient(index, split, sex, age, race, positive, n_images)
