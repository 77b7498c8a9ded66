"""What starting costs: MONAI's own part, and what bundles and commands of this package add to it.

    python scripts/bench/startup.py [--repeats 3]

Each line is a fresh process; CPU seconds (user and system, the smallest of the repeats) and wall seconds (likewise).
`python -m monai.bundle run` of a configuration that only prints is MONAI's own part; the same of `network_def` of a
bundle (demo_clip with its shipped weights: parse, `initialize`, build the network) has the package's part in it. The
target is that of commands that need no torch: 1.5 s.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

TARGET = 1.5
BUNDLE = Path(__file__).parents[2] / "bundles/demo_clip_classification_zero_shot"
TRIVIAL = '{"imports": ["$import monai"], "initialize": [], "run": ["$print(\'done\')"]}'
FAMILIES = ("transformers", "mlflow", "ignite", "pandas", "sklearn", "matplotlib", "torchvision", "torch")


def seconds(arguments: list[str], folder: Path, repeats: int) -> tuple[float, float]:
    """Least CPU and least wall seconds of a process.

    Raises:
        RuntimeError: it fails; the message holds what it said.
    """
    found = []
    for _ in range(repeats):
        before, wall = os.times(), time.perf_counter()
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=folder, check=False)
        wall, after = time.perf_counter() - wall, os.times()
        if done.returncode != 0:
            msg = f"`{' '.join(arguments)}` failed: {done.stderr[-2000:]}"
            raise RuntimeError(msg)
        used = after.children_user + after.children_system - before.children_user - before.children_system
        found.append((used, wall))
    return min(used for used, _ in found), min(wall for _, wall in found)


def inside_monai() -> list[tuple[str, float]]:
    """Libraries that `import monai` loads, with the seconds until each was loaded, largest first; they overlap."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import monai"], capture_output=True, text=True, check=True
    )
    found = {}
    for line in done.stderr.splitlines():
        fields = line.removeprefix("import time:").split("|")
        if len(fields) == 3 and fields[2].strip() in FAMILIES:
            found[fields[2].strip()] = int(fields[1]) / 1e6
    return sorted(found.items(), key=lambda item: -item[1])


def steps(folder: Path) -> list[tuple[str, list[str], bool]]:
    """Title, arguments of python, and whether the target is meant for it."""
    (folder / "trivial.json").write_text(TRIVIAL)
    run = ["-m", "monai.bundle", "run"]
    config = ["--config_file", str(BUNDLE / "configs/inference.json"), "--bundle_root", str(BUNDLE)]
    return [
        ("python -c pass", ["-c", "pass"], False),
        ("import torch", ["-c", "import torch"], False),
        ("import monai", ["-c", "import monai"], False),
        ("monai.bundle run, prints only", [*run, "--config_file", str(folder / "trivial.json")], False),
        ("monai.bundle run network_def, demo_clip", [*run, "network_def", *config], False),
        ("import fairmedfm_monai", ["-c", "import fairmedfm_monai"], True),
        ("import fairmedfm_monai.fairness", ["-c", "import fairmedfm_monai.fairness"], True),
        ("python -m fairmedfm_monai catalog", ["-m", "fairmedfm_monai", "catalog"], True),
        ("python -m fairmedfm_monai weights status", ["-m", "fairmedfm_monai", "weights", "status"], True),
    ]


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, ", end="")
    print(f"Python {platform.python_version()}, torch {version('torch')}, monai {version('monai')}")
    print(f"load when started: {os.getloadavg()[0]:.1f}; least of {options.repeats}")
    print(f"{'':44}{'CPU s':>8}{'wall s':>8}")
    used = {}
    with tempfile.TemporaryDirectory() as name:
        for title, arguments, light in steps(Path(name)):
            used[title], wall = seconds(arguments, Path(name), options.repeats)
            verdict = f"  target {TARGET}: {'met' if used[title] <= TARGET else 'missed'}" if light else ""
            print(f"{title:44}{used[title]:8.2f}{wall:8.2f}{verdict}", flush=True)
    own, whole = used["monai.bundle run, prints only"], used["monai.bundle run network_def, demo_clip"]
    print(f"of a bundle's start, MONAI and what it imports take {own:.2f} of {whole:.2f} CPU s ({own / whole:.0%})")
    print("inside `import monai` (seconds with all that each imports itself, so they overlap):")
    print("  " + ", ".join(f"{name} {value:.2f}" for name, value in inside_monai()))


if __name__ == "__main__":
    main()
