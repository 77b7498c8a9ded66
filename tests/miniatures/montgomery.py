"""A miniature of the Montgomery County release: two masks per image, readings as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

AGES = ("027Y", "060Y", "059Y", "072Y", "008M", "040Y")


def make(folder: Path, *, patients: int = 36) -> Path:
    """36 patients, numbers with gaps; readings end lines in several ways, one has no age and one the sex O."""
    rng = np.random.default_rng(0)
    for name in ("CXR_png", "ManualMask/leftMask", "ManualMask/rightMask", "ClinicalReadings"):
        (folder / name).mkdir(parents=True)
    (folder / "CXR_png" / "Thumbs.db").write_bytes(b"left by Windows")
    for number in range(patients):
        abnormal = number // 2 % 2
        name = f"MCUCXR_{1 + number + number // 4:04d}_{abnormal}"
        size = (56, 64) if number % 3 else (64, 56)  # rows, columns: both orientations
        left, right = (lung(size, side, number) for side in ("left", "right"))
        picture = rng.integers(60, 90, size) - 40 * (left | right)
        for place, pixels in (
            ("CXR_png", picture),
            ("ManualMask/leftMask", 255 * left),
            ("ManualMask/rightMask", 255 * right),
        ):
            Image.fromarray(pixels.astype(np.uint8)).save(folder / place / f"{name}.png")
        sex = "O" if number == 5 else "FM"[number % 2]
        age = "" if number == 6 else f"Patient's Age: {AGES[number % 6]}\n"
        finding = "improved with residual bilateral nodules" if abnormal else "normal"
        text = f"Patient's Sex: {sex} \n{age}{finding}"
        end = ("\n", "\r\n")[number % 2]
        (folder / "ClinicalReadings" / f"{name}.txt").write_bytes(text.replace("\n", end).encode())
    return folder


def lung(size: tuple[int, int], side: str, number: int) -> np.ndarray:
    """Ellipse; the left lung is on the right side of the picture."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    centre = size[1] * (0.7 if side == "left" else 0.3)
    return ((rows - size[0] / 2) / (20 + number % 3)) ** 2 + ((columns - centre) / 10) ** 2 < 1
