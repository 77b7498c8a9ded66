"""How near feature extraction comes to what decoding and encoding cost by themselves, and that its memory is constant.

    python scripts/bench/feature_extraction.py [--encoder dinov2] [--variant vits14] [--images 288] [--repeats 3]
    python scripts/bench/feature_extraction.py --memory            # peak memory of 500 and of 5,000 images

The peer is the least that any program pays: the CPU seconds of a loop over the transform and of a loop over the
encoder, each on one thread, divided by the cores that torch may use. `FeatureDataset.encode()` is timed whole: hashing
of files and weights, decoding, encoding, writing. Its wall time may be 1.15 times the peer's.

Where other processes run, wall time says little. What the machine would take alone is estimated from what does not
depend on others: the CPU seconds of the extraction, and in how many threads at once it had something to compute
(running or waiting for a core, sampled 50 times a second, at most one per core): CPU / threads. Work that does not
overlap has one such thread and gets no better an estimate from a busy machine.

Images are 1024 px PNG files; weights are random, because time and memory do not depend on them.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

TARGET = 1.15
MEMORY_TARGET = 1.05
COUNTS = (500, 5000)
BATCH_SIZE = 32


def make_cases(folder: Path, count: int, size: int) -> list[dict[str, Any]]:
    """Write blurred noise, which compresses about as well as radiographs do, and list it as cases."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    cases = []
    for index in range(count):
        coarse = random.integers(0, 256, (size // 8, size // 8), dtype=np.uint8)
        Image.fromarray(coarse).resize((size, size)).save(folder / f"{index}.png", compress_level=1)
        cases.append({"image": str(folder / f"{index}.png"), "case_id": str(index)})
    return cases


def parts(encoder: str, variant: str | None) -> tuple[Any, Any]:
    """A model and its preprocessing, as its linear probe's bundle has them."""
    from monai.bundle import ConfigParser

    from fairmedfm_monai.bundle.configs import classification_parts, common
    from fairmedfm_monai.catalog import find_row

    row = find_row(encoder)
    parser = ConfigParser(
        {
            "imports": common.IMPORTS,
            "variant": variant or row.default_variant,
            "weights": "random",
            "modality": "xray",
            "window": None,
            **classification_parts.settings(row, "linear_probe"),
            "spatial_dims": 2,
            "negative": None,
            "classes": ["any"],
            "input_spec": classification_parts.input_spec(row, "@variant"),
            "network_def": classification_parts.network(row, "linear_probe", stage="train"),
            "preprocessing": classification_parts.preprocessing(row),
        }
    )
    return parser.get_parsed_content("network_def").encoder, parser.get_parsed_content("preprocessing")


def peers(cases: list[dict[str, Any]], encoder: Any, transform: Any) -> tuple[float, float]:
    """CPU seconds of a bare loop over the transform, and of one over the encoder, on one thread."""
    import torch

    from fairmedfm_monai.data.features import CPU_BATCH  # the extraction's own: with more the peer is slower

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    transform({"image": cases[0]["image"]})  # what is done once is not counted
    start = time.process_time()
    images = [transform({"image": case["image"]})["image"].as_subclass(torch.Tensor) for case in cases]
    decode = time.process_time() - start
    batches = [torch.stack(images[start : start + CPU_BATCH]) for start in range(0, len(images), CPU_BATCH)]
    del images
    with torch.no_grad():
        encoder.encode_image(batches[0][:2])
        start = time.process_time()
        for batch in batches:
            encoder.encode_image(batch)
        model = time.process_time() - start
    torch.set_num_threads(threads)
    return decode, model


class Runnable:
    """Samples how many threads of this process run or wait for a core, in a thread of its own."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._counts: list[int] = []

    def __enter__(self) -> Runnable:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def mean(self) -> float:
        """Mean number, each sample counted up to the number of cores."""
        return sum(min(count, self._cores) for count in self._counts) / max(len(self._counts), 1)

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            own = threading.get_native_id()
            tasks = [task for task in Path("/proc/self/task").iterdir() if task.name != str(own)]
            self._counts.append([_state(task) for task in tasks].count("R"))


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return ""


def extraction(cases: list[dict[str, Any]], encoder: Any, transform: Any, **options: Any) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds, and mean number of threads with something to do, of one pass into an empty cache."""
    import torch

    from fairmedfm_monai.data.features import FeatureDataset

    with tempfile.TemporaryDirectory() as cache:
        dataset = FeatureDataset(cases, transform, encoder, cache_dir=cache, batch_size=BATCH_SIZE, **options)
        wall, own = time.perf_counter(), _own_seconds()
        with Runnable(torch.get_num_threads()) as runnable:
            dataset.encode()
        return time.perf_counter() - wall, _own_seconds() - own, runnable.mean()


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def time_extraction(options: argparse.Namespace) -> None:
    """Print peer, extraction and their ratios."""
    import torch

    from fairmedfm_monai.data import encoding
    from fairmedfm_monai.data.features import CPU_BATCH

    if options.lanes:
        encoding.MAX_LANES = options.lanes
    encoder, transform = parts(options.encoder, options.variant)
    encoder.eval()
    cores = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        cases = make_cases(Path(folder), options.images, 1024)
        print(
            f"{options.encoder} {options.variant}, {options.images} PNG of 1024 px, {cores} cores, "
            f"batch {BATCH_SIZE} of which {CPU_BATCH} at once on the CPU"
        )
        print("  decode   model   ideal    wall     CPU threads  wall/ideal  alone/ideal   (seconds)")
        found = []
        for _ in range(options.repeats):
            decode, model = peers(cases, encoder, transform)
            wall, own, threads = extraction(cases, encoder, transform, num_workers=options.workers)
            ideal = (decode + model) / cores
            found.append((wall / ideal, own / threads / ideal))
            print(f"{decode:8.2f}{model:8.2f}{ideal:8.2f}{wall:8.2f}{own:8.2f}{threads:8.2f}", end="")
            print(f"{found[-1][0]:12.2f}{found[-1][1]:13.2f}", flush=True)
        amp = extraction(cases, encoder, transform, amp=True)
    best, alone = min(found)[0], statistics.median(ratio for _, ratio in found)
    print(f"wall ratio, best of {len(found)}: {best:.2f} (target {TARGET}: {'met' if best <= TARGET else 'missed'})")
    print(f"estimate for a machine without other work, median: {alone:.2f}")
    print(f"bfloat16 and channels-last (amp=True): {amp[0]:.2f} s wall, {amp[1]:.2f} s CPU")
    print("GPU: not measured" if not torch.cuda.is_available() else "GPU: not used by this script")


def peak_memory(count: int) -> None:
    """Encode `count` small images in this process, read all features, and print how far memory rose."""
    import monai

    monai.utils.set_determinism(0)
    encoder, transform = parts("demo_clip", None)
    from fairmedfm_monai.data.features import FeatureDataset

    with tempfile.TemporaryDirectory() as folder:
        cases = make_cases(Path(folder), count, 128)
        warm = FeatureDataset(cases[:BATCH_SIZE], transform, encoder, cache_dir=Path(folder) / "warm")
        warm.encode()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        dataset = FeatureDataset(cases, transform, encoder, cache_dir=Path(folder) / "cache", batch_size=BATCH_SIZE)
        dataset.encode()
        for index in range(len(dataset)):
            dataset[index]
        print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def compare_memory() -> None:
    """Print the peak for few and for many images, each in a process of its own."""
    peaks = []
    for count in COUNTS:
        command = [sys.executable, __file__, "--memory-of", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        before, peak = (int(value) / 1024 for value in done.stdout.split()[-2:])
        peaks.append(peak)
        print(
            f"{count:6} images: peak {peak:8.1f} MiB, of which {before:.1f} libraries, model and one batch", flush=True
        )
    grown = (peaks[1] - peaks[0]) * 1024 / (COUNTS[1] - COUNTS[0])
    print(f"ratio {peaks[1] / peaks[0]:.3f} (target: at most {MEMORY_TARGET}), {grown:.1f} KiB per further image")


def cpu_model() -> str:
    """Name of the processor, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--encoder", default="dinov2", help="a classification model of the catalog")
    parser.add_argument("--variant", default="vits14")
    parser.add_argument("--images", type=int, default=288)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="processes that decode")
    parser.add_argument("--lanes", type=int, help="most batches at once; 1 = decoding waits for encoding")
    parser.add_argument("--memory", action="store_true", help="measure memory instead of time")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        peak_memory(options.memory_of)
        return
    print(f"{cpu_model()}, {os.cpu_count()} cores, Python {platform.python_version()}, ", end="")
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "monai", "numpy", "timm")))
    print(f"load when started: {os.getloadavg()[0]:.1f}")
    if options.memory:
        compare_memory()
    else:
        time_extraction(options)


if __name__ == "__main__":
    main()
