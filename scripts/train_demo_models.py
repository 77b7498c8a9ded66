"""Train demo_clip and demo_sam from one CT, test them on held-out data, and write the shipped files.

    python scripts/train_demo_models.py                    # both, under 40 minutes on 2 idle cores
    python scripts/train_demo_models.py --train clip       # one of them
    python scripts/train_demo_models.py --train nothing    # only measure what is shipped

Writes demo_clip.safetensors, demo_sam.safetensors and demo_results.json. Ends with an error (exit code 1) when a target
is missed. The number of steps is fixed, so two runs on one machine with the same number of threads agree; other CPUs
round differently. See docs/demo_models.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from demo_training.clip_data import make_films
from demo_training.clip_measure import calibrate, measure_clip, missed_clip
from demo_training.clip_train import ClipRecipe, train_clip
from demo_training.common import machine, read_about, save_model, timed
from demo_training.sam_data import training_heights
from demo_training.sam_measure import measure_sam, missed_sam
from demo_training.sam_train import SamRecipe, make_slices, train_sam

from fairmedfm_monai.data.demo.ct2d import HELD_OUT
from fairmedfm_monai.data.demo.scan import Scan, load_scan
from fairmedfm_monai.networks.encoders.demo_clip import DemoCLIP
from fairmedfm_monai.networks.pretrained import FOLDER
from fairmedfm_monai.networks.segmenters.demo_sam import DemoSAM

RESULTS = "demo_results.json"
NOTICE = "demonstration model trained on one CT; not a medical model, not for patients"


def about(scan: Scan, recipe: ClipRecipe | SamRecipe, run: dict[str, Any]) -> dict[str, Any]:
    """Metadata of a weight file."""
    return {
        "notice": NOTICE,
        "attribution": scan.citation,
        "licence_of_the_scan": scan.licence,
        "recipe": asdict(recipe),
        "run": run,
    }


def make_clip(scan: Scan, folder: Path, *, processes: int) -> None:
    """Project the training radiographs, train demo_clip and write its file."""
    recipe, run = ClipRecipe(), machine()
    with timed(run, "data"):
        films = make_films(scan, seed=recipe.seed, count=recipe.images, processes=processes)
    with timed(run, "training"):
        model = train_clip(films, recipe)
    save_model(model, folder / "demo_clip.safetensors", about=about(scan, recipe, run))


def make_sam(scan: Scan, folder: Path) -> None:
    """Train demo_sam and write its file."""
    recipe, run = SamRecipe(), machine()
    with timed(run, "training"):
        model = train_sam(make_slices(scan, training_heights(scan.hu.shape[2])), recipe)
    save_model(model, folder / "demo_sam.safetensors", about=about(scan, recipe, run))


def measure(scan: Scan, folder: Path, *, processes: int) -> tuple[dict[str, Any], list[str]]:
    """Test both files through the public classes; results and missed targets."""
    clip = DemoCLIP(folder / "demo_clip.safetensors")
    print("testing demo_clip", flush=True)
    found_clip = measure_clip(clip, scan, processes=processes)
    print(f"{found_clip}\ncalibrating the bias of the demo radiographs", flush=True)
    bias = calibrate(clip, scan, processes=processes)
    print(f"{bias}\ntesting demo_sam", flush=True)
    sam = DemoSAM(folder / "demo_sam.safetensors")
    strengths = {"one": 1.0, "calibrated": bias["strength"], "two": 2.0, "three": 3.0}
    found_sam = measure_sam(sam, scan, strengths=strengths)
    results: dict[str, Any] = {
        "notice": f"semi-synthetic, one anatomy: measures plumbing, not generalisation. {NOTICE}",
        "measured_on": machine(),
    }
    for name, found in (("demo_clip", found_clip), ("demo_sam", found_sam)):
        path = folder / f"{name}.safetensors"
        facts = read_about(path)
        results[name] = {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "megabytes": round(path.stat().st_size / 1e6, 3),
            "recipe": facts["recipe"],
            "run": facts["run"],
            **found,
        }
    results["demo_sam"]["held_out_slices"] = [list(block) for block in HELD_OUT]
    results["bias_calibration"] = bias
    return results, missed_clip(found_clip) + missed_sam(found_sam)


def main() -> int:
    """Read the command line, train, test, write; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", choices=("both", "clip", "sam", "nothing"), default="both", help="default: both")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the files; default: the package's own")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch; the results depend on it in rounding")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    scan = load_scan(allow_phantom=False)
    if options.train in {"both", "clip"}:
        make_clip(scan, options.output, processes=options.threads)
    if options.train in {"both", "sam"}:
        make_sam(scan, options.output)
    results, missed = measure(scan, options.output, processes=options.threads)
    path = options.output / RESULTS
    path.write_text(json.dumps({**results, "missed_targets": missed}, indent=2) + "\n")
    print(f"wrote {path}")
    print(f"bias strength for a gap of {results['bias_calibration']['gap']}: {results['bias_calibration']['strength']}")
    if missed:
        print("targets missed: " + "; ".join(missed), file=sys.stderr)
        return 1
    print("all targets met")
    return 0


if __name__ == "__main__":
    sys.exit(main())
