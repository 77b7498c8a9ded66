"""What the miniatures of the three Harvard sets share: patients in words (tables) and in numbers (npz files)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

CODES: dict[str, tuple[str, ...]] = {
    "gender": ("female", "male"),
    "race": ("asian", "black", "white"),
    "ethnicity": ("non-hispanic", "hispanic"),
    "language": ("english", "spanish", "other"),
    "maritalstatus": ("married or partnered", "single", "divorced", "widowed", "legally separated"),
    "glaucoma": ("no", "yes"),
}
AGES = ("43.31", "59.99", "60", "71.42", "18.02", "84.71")


def patient(number: int, *, other_language: str = "other") -> dict[str, str]:
    """A row of ``data_summary.csv``, without file name and use."""
    return {
        "age": AGES[number % 6],
        "gender": CODES["gender"][number // 2 % 2],
        "race": CODES["race"][number % 3],
        "ethnicity": ("non-hispanic", "hispanic", "non-hispanic", "unknown")[number % 4],
        "language": ("english", "english", "english", "spanish", other_language, "unknown", "english")[number % 7],
        "maritalstatus": (*CODES["maritalstatus"], "unknown")[number % 6],
        "glaucoma": CODES["glaucoma"][number % 2],
    }


def code(name: str, word: str) -> int:
    """The number of a word in the npz files; -1 is unknown."""
    word = "other" if word == "other languages" else word
    return -1 if word == "unknown" else CODES[name].index(word)


def use(number: int, patients: int) -> str:
    """Owner's split: of every ten patients six, two and two."""
    part = number * 10 // patients
    return "training" if part < 6 else "validation" if part < 8 else "test"


def save_npz(file: Path, **values: Any) -> None:
    """Single values lie in the files as arrays without dimension."""
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, **{name: np.asarray(value) for name, value in values.items()})


def disc(size: tuple[int, int], number: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the optic disc and its cup are, in a picture of (rows, columns): two disks, one in the other."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    distance = np.hypot(rows - size[0] * 0.5 + number % 5, columns - size[1] * 0.4)
    return distance < size[1] * 0.25, distance < size[1] * (0.1 + 0.02 * (number % 4))
