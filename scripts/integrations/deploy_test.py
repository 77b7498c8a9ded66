"""Prove both demo bundles in a real MONAI Deploy application (deploy_app.py), without network.

Needs what prepare.py wrote; compares with MONAI Label's mask where label_test.py has left one. Run with the Python of
an environment that has the `deploy` extra.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import steps
from steps import CLASSIFIER, PROMPTED, read_json, say, write_json

APP = Path(__file__).resolve().with_name("deploy_app.py")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    work = parser.parse_args().work.absolute()
    case = read_json(work / "case.json")
    expected = read_json(work / "reference" / "probabilities.json")
    scores = read_json(_run_app(work, CLASSIFIER, case["radiographs"][0]["path"], []) / "probabilities.json")
    found = dict(zip(expected, scores, strict=True))
    steps.check_probabilities(found, expected, where="Deploy, classifier")
    volume = case["volume"]
    mask = _run_app(work, PROMPTED, volume["path"], [volume["click"]]) / "mask.nii.gz"
    steps.check_mask(mask, volume, where="Deploy, one click")
    steps.check_same_mask(mask, work / "reference" / "mask.nii.gz", what="Deploy's mask and the bundle's own")
    label = work / "label" / "mask.nii.gz"
    if label.is_file():
        steps.check_same_mask(mask, label, what="Deploy's mask and MONAI Label's")
    else:
        say("MONAI Label was not run here: its mask is not compared")


def _run_app(work: Path, bundle: str, image: str, clicks: list[Any]) -> Path:
    """Run the application on one image; returns its output folder."""
    folder = work / "deploy" / bundle
    shutil.rmtree(folder, ignore_errors=True)
    write_json(folder / "in" / "request.json", {"image": image, "clicks": clicks})
    (folder / "out").mkdir()
    copy = folder / "bundle"
    shutil.copytree(work / "bundles" / bundle, copy)
    seconds = steps.run(
        [sys.executable, str(APP), "-i", str(folder / "in"), "-o", str(folder / "out")],
        log=work / "logs" / f"deploy-{bundle}.log",
        cwd=folder,
        env={**steps.OFFLINE, "FAIRMEDFM_BUNDLE": str(copy)},
    )
    say(f"{bundle}: the application ended after {seconds:.0f} s")
    return folder / "out"


if __name__ == "__main__":
    steps.run_main(main)
