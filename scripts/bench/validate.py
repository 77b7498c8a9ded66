"""Time of `validate` on folders of 100,000 rows, and of `validate --deep` with one and two workers.

    python scripts/bench/validate.py [--rows N] [--files N] [--workers N ...]

Without opening images: two folders of empty files whose rows go through the link ``source``, as `prepare` references a
release: one with a folder per patient and study (CheXpert's layout, sizes and columns), one with twelve large folders
(NIH ChestX-ray14's). Each is validated with its split column and without it, where patients are split on the way.
With opening: made PNG, JPEG, TIFF, MHA and NIfTI files with masks, by each number of worker processes, and by as many
threads of one process for comparison. Every value is synthetic.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402  (threads must be set before)
import pandas as pd  # noqa: E402

from fairmedfm_monai.data.card import Card  # noqa: E402
from fairmedfm_monai.data.case_files import Rules, check_case  # noqa: E402
from fairmedfm_monai.data.checks import validate_folder  # noqa: E402
from fairmedfm_monai.data.files import check_files  # noqa: E402

CHEXPERT_ROWS, CHEXPERT_PATIENTS = 223_648, 64_740
NIH_ROWS, NIH_PATIENTS, NIH_FOLDERS = 112_120, 30_805, 12
LIMIT = 20.0
"""Seconds that 100,000 rows may take."""
REPEATS = 3
"""Runs of --deep, of which the fastest counts."""
CARD: dict[str, Any] = {
    "schema": 1,
    "task": "classification",
    "modality": "xray",
    "spatial_dims": 2,
    "licence": "synthetic",
    "classes": {"no_finding": ["a normal film"], "finding": ["a film with a finding"]},
    "positive_class": "finding",
    "attributes": {
        "sex": {"column": "Sex", "groups": {"female": ["Female"], "male": ["Male"]}, "missing": ["Unknown"]},
        "age": {"column": "Age", "bins": [0, 60, 200], "groups": ["lt60", "ge60"]},
        "age_bands": {"column": "Age", "bins": [0, 20, 40, 60, 200], "groups": ["a0", "a20", "a40", "a60"]},
        "race": {"column": "Race", "groups": {"white": ["White"], "black": ["Black"], "asian": ["Asian"]}},
        "view": {"column": "View", "groups": {"pa": ["PA"], "ap": ["AP"], "lateral": ["Lateral"]}},
    },
    "intersections": [["sex", "age"]],
    "extra_columns": ["subset_sex", "subset_age"],
}


def patients_of(rows: int, patients: int) -> np.ndarray:
    """Sorted patient number of each row; every patient has one at least."""
    rng = np.random.default_rng(0)
    patients = min(patients, rows)
    return np.sort(np.concatenate([np.arange(patients), rng.integers(0, patients, rows - patients)]))


def manifest(patient: np.ndarray, images: list[str]) -> pd.DataFrame:
    """A manifest with the columns that a preparer writes."""
    rng = np.random.default_rng(1)
    born = rng.integers(0, 90, patient.max() + 1)
    own = {  # drawn per patient
        "Sex": rng.choice(["Female", "Male", "Unknown"], patient.max() + 1, p=[0.45, 0.54, 0.01]),
        "Race": rng.choice(["White", "Black", "Asian", ""], patient.max() + 1),
        "split": rng.choice(["train", "val", "test"], patient.max() + 1, p=[0.6, 0.2, 0.2]),
    }
    count = len(patient)
    table = pd.DataFrame({"case_id": [image[7:-4].replace("/", "_") for image in images]})
    table["patient_id"] = [f"patient{number:05d}" for number in patient]
    table["image"] = images
    for name, values in own.items():
        table[name] = values[patient]
    table["Age"] = born[patient] + rng.integers(0, 5, count)
    table["View"] = rng.choice(["PA", "AP", "Lateral"], count)
    table["label"] = rng.choice(["no_finding", "finding"], count)
    return table.assign(subset_sex=rng.integers(0, 2, count), subset_age=rng.integers(0, 2, count))


def chexpert_images(patient: np.ndarray) -> list[str]:
    """A folder per patient and study, with two views in some."""
    within = pd.Series(patient).groupby(patient).cumcount()
    return [
        f"source/train/patient{number:05d}/study{1 + seen // 2}/view{1 + seen % 2}_frontal.jpg"
        for number, seen in zip(patient, within, strict=True)
    ]


def nih_images(patient: np.ndarray) -> list[str]:
    """Twelve folders of files."""
    within = pd.Series(patient).groupby(patient).cumcount()
    per_folder = -(-len(patient) // NIH_FOLDERS)
    return [
        f"source/images_{1 + row // per_folder:03d}/images/{number + 1:08d}_{seen:03d}.png"
        for row, (number, seen) in enumerate(zip(patient, within, strict=True))
    ]


def write_folder(root: Path, name: str, table: pd.DataFrame) -> Path:
    """Dataset folder beside a release of empty files, to which its link ``source`` points."""
    folder, release = root / name, root / f"{name}_release"
    folder.mkdir()
    release.mkdir()
    (folder / "source").symlink_to(release, target_is_directory=True)
    (folder / "dataset.json").write_text(json.dumps(CARD | {"name": name}))
    table.to_csv(folder / "manifest.csv", index=False)
    for parent in dict.fromkeys(os.path.dirname(image) for image in table["image"]):
        os.makedirs(folder / parent)
    for image in table["image"]:
        os.close(os.open(folder / image, os.O_CREAT | os.O_WRONLY))
    return folder


def timed(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall-clock and CPU seconds (of this process and of those it started and ended), and the result."""
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    result = function()
    return time.perf_counter() - wall, sum(os.times()[:4]) - cpu, result


def tables_only(root: Path, limit: int | None) -> None:
    """Print the rows of `validate` without opening."""
    layouts = (
        ("chexpert", CHEXPERT_ROWS, CHEXPERT_PATIENTS, chexpert_images),
        ("nih", NIH_ROWS, NIH_PATIENTS, nih_images),
    )
    for name, rows, patients, images in layouts:
        count = rows if limit is None else limit
        patient = patients_of(count, round(patients * count / rows))
        table = manifest(patient, images(patient))
        folder = write_folder(root, name, table)
        folders = table["image"].str.rsplit("/", n=1).str[0].nunique()
        for words in ("split column", "no split column"):
            if words == "no split column":
                table.drop(columns="split").to_csv(folder / "manifest.csv", index=False)
            wall, cpu, report = timed(functools.partial(validate_folder, folder))
            if not report.ok:
                raise SystemExit(str(report))
            print(
                f"{name:<9} {words:<16} {count:>8,} rows {folders:>7,} folders  wall {wall:>6.2f} s  CPU {cpu:>6.2f} s "
                f"{count / wall:>8,.0f} rows/s  per 100,000 rows: wall {wall / count * 1e5:.1f} s, "
                f"CPU {cpu / count * 1e5:.1f} s"
            )


def write_pictures(folder: Path, count: int) -> pd.DataFrame:
    """Greyscale films of 512 x 512 as PNG, JPEG, TIFF and MHA in turn, with PNG masks."""
    import SimpleITK
    from PIL import Image

    rng = np.random.default_rng(2)
    rows = []
    for index in range(count):
        smooth = np.kron(rng.random((32, 32)), np.ones((16, 16))) * 200
        array = (smooth + rng.integers(0, 40, smooth.shape)).astype(np.uint8)
        image = f"a{index}{('.png', '.jpg', '.tif', '.mha')[index % 4]}"
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(folder / image))
        Image.fromarray((array > 150).astype(np.uint8)).save(folder / f"m{index}.png")
        rows.append({"image": image, "mask": f"m{index}.png"})
    return pd.DataFrame(rows)


def write_volumes(folder: Path, count: int) -> pd.DataFrame:
    """Volumes of 96 x 96 x 48 as packed NIfTI, with masks."""
    import nibabel

    rng = np.random.default_rng(3)
    for index in range(count):
        array = rng.integers(-1000, 1000, (96, 96, 48)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / f"v{index}.nii.gz")
        nibabel.save(nibabel.Nifti1Image((array > 0).astype(np.uint8), np.eye(4)), folder / f"m{index}.nii.gz")
    return pd.DataFrame([{"image": f"v{index}.nii.gz", "mask": f"m{index}.nii.gz"} for index in range(count)])


def by_threads(table: pd.DataFrame, card: Card, root: Path, workers: int) -> None:
    """The same checks by threads of one process, for comparison."""
    rules = Rules(card.spatial_dims, tuple(float(value) for value in card.labels.values()))
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(lambda row: check_case(root, row[0], row[1], rules), table[["image", "mask"]].to_numpy())
        if any(found):
            raise SystemExit("the made files must be sound")


def by_processes(table: pd.DataFrame, card: Card, root: Path, workers: int) -> None:
    """What `validate --deep` does."""
    problems = check_files(table, card, root, workers=workers)
    if problems:
        raise SystemExit(str(problems))


def opening(root: Path, files: int, workers: list[int]) -> None:
    """Print the rows of `validate --deep`; half of the files are images, half are masks."""
    makers = (("512 x 512, PNG JPEG TIFF MHA", 2, write_pictures), ("96 x 96 x 48, NIfTI", 3, write_volumes))
    for words, dims, make in makers:
        folder = root / f"files{dims}"
        folder.mkdir()
        table = make(folder, files // 4)
        segmentation = {"task": "segmentation", "classes": None, "positive_class": None, "labels": {"lesion": 1}}
        card = Card.from_dict(CARD | segmentation | {"name": "files", "spatial_dims": dims})
        by_threads(table, card, folder, 1)  # imports, and files in the system's cache
        first = 0.0
        for number in workers:
            for way, function in (("processes", by_processes), ("threads", by_threads)):
                call = functools.partial(function, table, card, folder, number)
                wall, cpu = min(timed(call)[:2] for _ in range(REPEATS))
                first = first or wall
                print(
                    f"{words:<29} {len(table) * 2:>4} files  {number} {way:<9} wall {wall:>6.2f} s  CPU "
                    f"{cpu:>6.2f} s {len(table) * 2 / wall:>6,.0f} files/s  {first / wall:.2f}x of 1 process"
                )


def cpu_model() -> str:
    """Name of the processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, help="rows of each table; by default those of the releases")
    parser.add_argument("--files", type=int, default=500, help="files that are opened")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{cpu_model()}, {os.cpu_count()} cores {load}; Python {platform.python_version()}, pandas {pd.__version__}")
    with tempfile.TemporaryDirectory() as scratch:
        print(f"validate: no file is opened; the aim is {LIMIT:g} s for 100,000 rows")
        tables_only(Path(scratch), arguments.rows)
        print("validate --deep")
        opening(Path(scratch), arguments.files, arguments.workers)


if __name__ == "__main__":
    main()
