"""Peak memory of a CT with many labels on its way through a bundle's inference, from NIfTI file to NIfTI file.

    python scripts/bench/volume_memory.py                                          # 512 x 512 x 600, 20 labels
    python scripts/bench/volume_memory.py --size 128 --slices 60 --labels 5        # seconds

The CT is noise with bright ellipsoids, written slice by slice beforehand, so that making it costs no memory. Every
label has one 3D box. inference.json of demo_sam runs as it is (reader, window, prompts file, loader, evaluator,
inversion, writer), except for tracking, which is off. Printed are the resident memory after each step and the highest
so far (ru_maxrss), and the agreement of the saved map with the ellipsoids, so that it is a result that was measured.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import resource
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

TARGET_GB = 6.0
CONFIG = Path(__file__).parents[2] / "bundles/demo_sam_segmentation_prompted/configs/inference.json"


def ellipsoids(labels: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Centres (L, 3) and radii (L, 3) in voxels."""
    rng = np.random.default_rng(0)
    size = np.array(shape)
    radius = rng.uniform(0.04, 0.12, (labels, 3)) * size
    return rng.uniform(radius, size - 1 - radius), radius


def inside(index: int, centre: np.ndarray, radius: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """One ellipsoid on slice `index`, (X, Y) of bool."""
    x, y = np.ogrid[: shape[0], : shape[1]]
    plane = ((x - centre[0]) / radius[0]) ** 2 + ((y - centre[1]) / radius[1]) ** 2
    return np.asarray(plane + ((index - centre[2]) / radius[2]) ** 2 <= 1)


def write_ct(path: Path, shape: tuple[int, int, int], centres: np.ndarray, radii: np.ndarray) -> None:
    """A CT in HU (int16) in LPS order, slice by slice: a NIfTI file holds the last axis slowest."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape)
    header.set_sform(np.diag([-0.7, -0.7, 1.0, 1.0]), code=1)
    header["vox_offset"] = 352
    rng = np.random.default_rng(1)
    with gzip.open(path, "wb", compresslevel=1) as file:
        header.write_to(file)
        file.write(b"\0" * (352 - 348))
        for index in range(shape[2]):
            plane = rng.integers(-60, 0, shape[:2], dtype=np.int16)
            for centre, radius in zip(centres, radii, strict=True):
                plane[inside(index, centre, radius, shape)] += 150
            file.write(plane.astype("<i2").tobytes(order="F"))


def write_prompts(path: Path, shape: tuple[int, int, int], centres: np.ndarray, radii: np.ndarray) -> None:
    """One box per label around its ellipsoid."""
    entries = []
    for number, (centre, radius) in enumerate(zip(centres, radii, strict=True), 1):
        box = [
            np.ceil(centre - radius).clip(0).tolist(),
            np.minimum(np.floor(centre + radius), np.array(shape) - 1).tolist(),
        ]
        entries.append({"case_id": "ct", "label": f"label_{number}", "space": "voxel", "box": box})
    path.write_text(json.dumps(entries))


def configured(config_file: Path, folder: Path, labels: int) -> Any:
    """The bundle's evaluator, with nothing tracked."""
    from monai.bundle import ConfigParser

    config = json.loads(config_file.read_text())
    config |= {
        "bundle_root": str(CONFIG.parents[1]),
        "output_dir": str(folder / "out"),
        "dataset_dir": str(folder / "images"),
        "prompts_file": str(folder / "prompts.json"),
        "labels": {f"label_{number}": number for number in range(1, labels + 1)},
        "window": [0, 400],
        "device": "$torch.device('cpu')",
        "handlers": [],
    }
    parser = ConfigParser(config)
    parser.get_parsed_content("initialize")
    return parser.get_parsed_content("evaluator")


def gigabytes() -> tuple[float, float]:
    """Resident memory now and at its highest, in GB (10^9 bytes)."""
    now = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return now / 1e9, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def report(step: str, start: float) -> None:
    """One line of the table."""
    now, peak = gigabytes()
    print(f"{step:32s} {time.perf_counter() - start:8.1f} s {now:8.2f} GB {peak:8.2f} GB", flush=True)


def measure(config_file: Path, folder: Path, labels: int) -> None:
    """Run the bundle and print a line per step."""
    from monai.engines.utils import IterationEvents

    start = time.perf_counter()
    evaluator = configured(config_file, folder, labels)
    report("model and libraries", start)
    for event, step in (
        (IterationEvents.FORWARD_COMPLETED, "segmented"),
        (evaluator_events().ITERATION_STARTED, "loaded and preprocessed"),
        (evaluator_events().COMPLETED, "inverted and saved"),
    ):
        evaluator.add_event_handler(event, lambda _, step=step: report(step, start))
    evaluator.run()


def evaluator_events() -> Any:
    """Ignite's events, imported late so that --help is fast."""
    from ignite.engine import Events

    return Events


def mean_dice(folder: Path, shape: tuple[int, int, int], centres: np.ndarray, radii: np.ndarray) -> float:
    """Of the saved label map, over labels, read slice by slice; where ellipsoids overlap the later one is on top."""
    (path,) = (folder / "out").rglob("*.nii.gz")
    saved: Any = nib.load(path)
    both, sizes = np.zeros(len(centres)), np.zeros(len(centres))
    for index in range(shape[2]):
        found = np.asarray(saved.dataobj[..., index])
        truth = np.zeros(shape[:2], dtype=np.uint8)
        for number, (centre, radius) in enumerate(zip(centres, radii, strict=True), 1):
            truth[inside(index, centre, radius, shape)] = number
        for number in range(1, len(centres) + 1):
            both[number - 1] += ((found == number) & (truth == number)).sum()
            sizes[number - 1] += (found == number).sum() + (truth == number).sum()
    return float(np.nanmean(2 * both / sizes))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="rows and columns")
    parser.add_argument("--slices", type=int, default=600)
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--config", type=Path, default=CONFIG, help="inference.json of a prompted bundle")
    arguments = parser.parse_args()
    shape = (arguments.size, arguments.size, arguments.slices)
    centres, radii = ellipsoids(arguments.labels, shape)
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}, "
        f"torch {version('torch')}, MONAI {version('monai')}\n"
        f"CT {' x '.join(map(str, shape))}, {arguments.labels} labels, one 3D box each, demo_sam\n"
        f"{'':32s} {'time':>10s} {'resident':>11s} {'peak':>11s}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        write_ct(folder / "images" / "ct.nii.gz", shape, centres, radii)
        write_prompts(folder / "prompts.json", shape, centres, radii)
        measure(arguments.config, folder, arguments.labels)
        peak = gigabytes()[1]
        print(f"mean Dice of the saved map: {mean_dice(folder, shape, centres, radii):.3f}")
    print(f"peak {peak:.2f} GB, target {TARGET_GB} GB: {'met' if peak < TARGET_GB else 'MISSED'}")


if __name__ == "__main__":
    main()
