"""A miniature of the Harvard-FairSeg release: files, keys and codes of the present and of an older version."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.miniatures.harvard import code, disc, patient, save_npz

SIZE = (64, 48)  # rows, columns; the release has 664 x 512
OLDER_RACES = {0: 2, 1: 3, 2: 7}


def make(folder: Path, *, patients: int = 40, older: bool = False, overview: bool = True, lists: bool = True) -> Path:
    """40 patients; the older version has other keys, ages in days and other codes of race.

    Args:
        folder: to make.
        patients: how many.
        older: the older version.
        overview: with ``ReadMe/data_summary.csv`` (in words).
        lists: with the owner's lists from the code repository.
    """
    rng = np.random.default_rng(0)
    lines = ["filename,age,gender,race,ethnicity,language,maritalstatus"]
    for number in range(patients):
        row = patient(number)
        name = f"data_{number + 1:05d}.npz"
        lines.append(",".join([name, *(row[column] for column in lines[0].split(",")[1:])]))
        nerve, cup = disc(SIZE, number)
        mask = np.where(cup, -2, np.where(nerve, -1, 0))
        picture = (rng.integers(10, 60, SIZE) + 30 * nerve + 40 * cup).astype(np.uint8)
        codes = {column: code(column, row[column]) for column in ("gender", "race", "language", "maritalstatus")}
        ethnicity = code("ethnicity", row["ethnicity"])
        if older:
            age = round(float(row["age"]) * 365.25)
            codes |= {"race": OLDER_RACES[codes["race"]], "hispanic": ethnicity, "pid": number, "age": age}
            save_npz(folder / name, fundus=picture, disc_cup_borders=mask.astype(np.float64), **codes)
        else:
            codes |= {"ethnicity": ethnicity}
            values = {"slo_fundus": picture, "disc_cup_mask": mask.astype(np.int8), "age": float(row["age"])}
            save_npz(folder / name, **values, **codes)
    if overview:
        (folder / "ReadMe").mkdir()
        (folder / "ReadMe" / "data_summary.csv").write_text("\n".join(lines) + "\n")
    if lists:
        place = folder / "lists" / "FairSeg_final"
        place.mkdir(parents=True)
        names = [f"data_{number + 1:05d}.npz" for number in np.random.default_rng(1).permutation(patients)]
        cut = patients * 4 // 5
        (place / "train.txt").write_text("\n".join(names[:cut]) + "\n")
        (place / "test.txt").write_text("\n".join(names[cut:]) + "\n")
    return folder
