"""How long metadata of 100,000 images takes to prepare, and how fast files are converted with one process and several.

    python scripts/bench/preparation.py [--table TABLE.csv.gz] [--arrays 2000] [--size 512] [--workers 1 2]

Metadata: NIH ChestX-ray14, whose images are referenced. The images are empty files in a temporary folder, made before
the clock runs. The table is the real one (112,120 rows) where it is given or already in the cache of the tests, else
one of 100,000 rows is made. Target: under 30 s.

Conversion: ``.npz`` files of smooth noise, which compress about as well as radiographs, become PNG files. The clock
runs over all that `prepare` does for them: starting the processes, reading, writing, hashing, the journal. Rates count
bytes of pixels. Each number of workers starts with an empty folder.
"""

from __future__ import annotations

import argparse
import gzip
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from PIL import __version__ as pillow_version
from platformdirs import user_cache_path

from fairmedfm_monai.data.prepare import Made, find_dataset, prepare_dataset
from fairmedfm_monai.data.prepare.convert import make_files
from fairmedfm_monai.data.prepare.makers.npz import picture

TARGET_S = 30
MADE_ROWS = 100_000
PER_PATIENT = 4
CACHED = user_cache_path("fairmedfm-tests", appauthor=False) / "scan" / "nih_chestxray14.csv.gz"
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


def made_table(rows: int) -> str:
    """A table in the owner's layout, four images per patient."""
    random = np.random.default_rng(0)
    findings = random.choice(["No Finding", "Effusion", "Mass|Nodule", "Infiltration"], rows)
    ages = random.integers(1, 95, rows // PER_PATIENT + 1)
    lines = [HEADER]
    for row, finding in enumerate(findings):
        patient = row // PER_PATIENT
        name = f"{patient:08d}_{row % PER_PATIENT:03d}.png"
        sex, view = "FM"[patient % 2], ("PA", "AP")[row % 2]
        lines.append(
            f"{name},{finding},{row % PER_PATIENT},{patient},{ages[patient]},{sex},{view},2682,2749,0.143,0.143"
        )
    return "\n".join(lines) + "\n"


def time_metadata(folder: Path, table: Path | None) -> tuple[str, int, float]:
    """What the table is, its rows, and the seconds of `prepare_dataset`."""
    raw = folder / "raw"
    (raw / "images").mkdir(parents=True)
    what = "made table" if table is None else "the owner's table"
    content = gzip.compress(made_table(MADE_ROWS).encode()) if table is None else table.read_bytes()
    target = raw / "Data_Entry_2017_v2020.csv.gz"
    target.write_bytes(content)
    names = pd.read_csv(target, usecols=["Image Index"], index_col=False)["Image Index"]
    for name in names:
        (raw / "images" / name).touch()
    started = time.perf_counter()
    prepare_dataset(find_dataset("nih_chestxray14"), raw, folder / "prepared", progress=False)
    return what, len(names), time.perf_counter() - started


def make_arrays(folder: Path, count: int, size: int) -> list[Made]:
    """Write the inputs and say what is to be made of them."""
    random = np.random.default_rng(0)
    made = []
    folder.mkdir()
    for index in range(count):
        coarse = random.integers(0, 256, (size // 8, size // 8), dtype=np.uint8)
        np.savez(folder / f"{index}.npz", image=np.asarray(Image.fromarray(coarse).resize((size, size))))
        made.append(Made(f"images/{index}.png", (f"{index}.npz",), picture, (("keys", ("image",)),)))
    return made


def time_conversion(made: Sequence[Made], source: Path, folder: Path, workers: int) -> float:
    """Seconds to convert all files into an empty folder."""
    folder.mkdir()
    run = partial(make_files, made, source=source, folder=folder, journal=folder / "journal.jsonl", progress=False)
    started = time.perf_counter()
    failed = run(workers=workers)
    seconds = time.perf_counter() - started
    if failed:
        msg = f"{len(failed)} files were not converted: {next(iter(failed.items()))}"
        raise RuntimeError(msg)
    return seconds


def cpu_model() -> str:
    """Name of the processor, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    """Run both and print the times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--table", type=Path, default=CACHED if CACHED.is_file() else None, help="NIH table, .csv.gz")
    parser.add_argument("--arrays", type=int, default=2000)
    parser.add_argument("--size", type=int, default=512, help="pixels per side")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    print(f"{cpu_model()}, {os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}, ", end="")
    print(
        f"Python {platform.python_version()}, pandas {pd.__version__}, numpy {np.__version__}, Pillow {pillow_version}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        what, rows, seconds = time_metadata(folder / "metadata", options.table)
        print(f"metadata, {what}: {rows:,} rows in {seconds:.1f} s (target: under {TARGET_S} s)")
        made = make_arrays(folder / "arrays", options.arrays, options.size)
        megabytes = options.arrays * options.size**2 / 1e6
        print(f"conversion, npz to PNG: {options.arrays:,} arrays {options.size}x{options.size}, {megabytes:.0f} MB")
        first = None
        for workers in options.workers:
            seconds = time_conversion(made, folder / "arrays", folder / f"converted-{workers}", workers)
            first = first or seconds
            rates = f"{options.arrays / seconds:7.1f} files/s {megabytes / seconds:7.1f} MB/s"
            print(f"  {workers} processes: {seconds:6.1f} s {rates}   x{first / seconds:.2f}")


if __name__ == "__main__":
    main()
