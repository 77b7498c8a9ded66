"""Prove the exported workflow of a small study in a real Snakemake: failed cells, further calls, Slurm's plan."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from steps import check, run_main, say

SIZES = {"n_train": 24, "n_val": 24, "n_test": 48}
STUDY = {
    "name": "small",
    "title": "Small study of the workflow test",
    "datasets": {
        "xray": {"demo": "xray", "options": SIZES},
        "damaged": {"demo": "xray", "options": {**SIZES, "seed": 1}},
    },
    "grids": [
        {
            "task": "classification",
            "datasets": ["xray", "damaged"],
            "fms": ["demo_clip"],
            "usages": ["linear_probe"],
            "mitigations": ["erm", {"name": "threshold_per_group", "attributes": ["sex"]}],
            "train": {"epochs": 2},
        }
    ],
    "tables": [
        {
            "name": "auc",
            "title": "AUC",
            "rows": ["dataset", "mitigation"],
            "columns": [{"title": "AUC", "metric": "auc"}],
        }
    ],
}
LIMIT = 900.0


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--snakemake", required=True, help="the program")
    # Made absolute without following links: the program of a virtual environment may be one.
    snakemake = os.path.abspath(parser.parse_args().snakemake)
    with tempfile.TemporaryDirectory(prefix="fairmedfm-snakemake-") as folder:
        _prove(Path(folder), snakemake)


def _prove(work: Path, snakemake: str) -> None:
    (work / "study.json").write_text(json.dumps(STUDY), encoding="utf-8")
    study = [sys.executable, "-m", "fairmedfm_monai", "study", "study.json", "--output", "out", "--n_bootstrap", "20"]
    _run([*study, "--export", "flow"], work)
    keys = list(json.loads((work / "flow" / "plan.json").read_text(encoding="utf-8"))["cells"])
    check(len(keys) == 4, "the workflow has a job for each of the four cells", keys)

    plan = _run([snakemake, "--profile", "profiles/slurm", "--dry-run"], work / "flow")
    check(all(key in plan for key in keys), "with the Slurm profile the same jobs are planned")

    manifest = next((work / "out" / "data").glob("damaged-*")) / "manifest.csv"
    whole = manifest.read_text(encoding="utf-8")
    manifest.write_text(whole.splitlines()[0] + "\n", encoding="utf-8")
    local = [snakemake, "--profile", "profiles/local", "--cores", "2"]
    _run(local, work / "flow", fails=True)
    done = {key for key in keys if (work / "out" / "cells" / key / "done.json").is_file()}
    check(
        done == {key for key in keys if key.startswith("xray/")}, "a dataset without cases stops its cells only", done
    )
    check((work / "out" / "index.html").is_file(), "tables of what is done are written all the same")

    manifest.write_text(whole, encoding="utf-8")
    before = _times(work, done)
    _run(local, work / "flow")
    done = {key for key in keys if (work / "out" / "cells" / key / "done.json").is_file()}
    check(done == set(keys), "mended and called again, the workflow ends", done)
    check(before.items() <= _times(work, done).items(), "and cells that were done are not run again")
    check("Nothing to be done" in _run(local, work / "flow"), "a third call has nothing to do")


def _times(work: Path, keys: set[str]) -> dict[str, int]:
    return {key: (work / "out" / "cells" / key / "done.json").stat().st_mtime_ns for key in keys}


def _run(command: list[str], cwd: Path, *, fails: bool = False) -> str:
    say(f"running {Path(command[0]).name} {' '.join(command[1:])}")
    ended = subprocess.run(
        command, cwd=cwd, timeout=LIMIT, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    expected = "fails" if fails else "succeeds"
    check((ended.returncode != 0) == fails, f"it {expected}", ended.stdout[-4000:])
    return ended.stdout


if __name__ == "__main__":
    run_main(main)
