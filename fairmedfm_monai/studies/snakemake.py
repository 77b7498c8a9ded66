"""A study as a Snakemake workflow: one job per cell, for one machine or a Slurm cluster."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from fairmedfm_monai.studies.jobs import DONE_FILE, job_folder
from fairmedfm_monai.studies.plan import DONE, RUNNABLE, PlannedCell

_LEAST_MINUTES = 30
_MARGIN = 3.0  # the estimate of a cell's time is rough, and a job that runs over its limit is killed
_MEMORY_MB = 16_000

SNAKEFILE = '''\
"""Cells of a study of fairmedfm_monai. Run with: snakemake --profile profiles/local (or profiles/slurm)"""

import json
from pathlib import Path

PLAN = json.loads(Path(workflow.basedir, "plan.json").read_text(encoding="utf-8"))
CELLS = PLAN["cells"]
DONE = [PLAN["done"].format(key=key) for key in CELLS]


wildcard_constraints:
    key="[^*?]+",


localrules:
    all,
    pages,


rule all:
    input:
        DONE,
        PLAN["page"],


rule cell:
    input:
        lambda wildcards: CELLS[wildcards.key]["after"],
    output:
        PLAN["done"],
    threads: 1
    resources:
        mem_mb=lambda wildcards: CELLS[wildcards.key]["mem_mb"],
        runtime=lambda wildcards: CELLS[wildcards.key]["minutes"],
    shell:
        PLAN["command"] + " --only {wildcards.key} --run_only --jobs 1"


# Tables and figures of what is done. With --keep-going a failed cell leaves this rule out: the handler stands in.
rule pages:
    input:
        DONE,
    output:
        PLAN["page"],
    shell:
        PLAN["command"] + " --collect_only"


onerror:
    shell(PLAN["command"] + " --collect_only")
'''

PROFILES = {
    "local": """\
cores: all
keep-going: true
rerun-incomplete: true
rerun-triggers: [mtime]
""",
    "slurm": """\
executor: slurm
jobs: 50
keep-going: true
rerun-incomplete: true
rerun-triggers: [mtime]
latency-wait: 60
default-resources:
  # Name your own partition and account; a GPU per cell is asked for by the last line.
  - slurm_partition=main
  # - slurm_account=...
  # - slurm_extra="'--gres=gpu:1'"
""",
}


def export_workflow(
    plan: Sequence[PlannedCell], folder: str | Path, *, output: str | Path, command: Sequence[str]
) -> Path:
    """Write ``Snakefile``, ``plan.json`` and ``profiles/{local,slurm}/config.yaml``.

    Each job is the command ``study`` for one cell, so that the workflow, plain calls and killed runs share their
    results. Memory and time limits are estimates: three times the plan's seconds, at least half an hour.

    Args:
        plan: of the study; cells that cannot run are left out.
        folder: where the files go.
        output: folder of the study's runs.
        command: arguments of ``python -m fairmedfm_monai`` without ``only``, ``jobs``, ``run_only``, ``collect_only``.

    Returns:
        The Snakefile.

    Raises:
        ValueError: no cell can run.
    """
    runs = {planned.cell.key: planned for planned in plan if planned.status in (*RUNNABLE, DONE)}
    if not runs:
        msg = "`export`: no cell of this plan can run; --dry_run tells what each of them lacks"
        raise ValueError(msg)
    results = Path(output).absolute()
    content = {
        "command": shlex.join([sys.executable, "-m", "fairmedfm_monai", *command]),
        "done": str(job_folder(results, "{key}") / DONE_FILE),
        "page": str(results / "index.html"),
        "cells": {key: _job(planned, results) for key, planned in runs.items()},
    }
    target = Path(folder)
    for name, text in PROFILES.items():
        profile = target / "profiles" / name / "config.yaml"
        profile.parent.mkdir(parents=True, exist_ok=True)
        profile.write_text(text, encoding="utf-8")
    (target / "plan.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (target / "Snakefile").write_text(SNAKEFILE, encoding="utf-8")
    return target / "Snakefile"


def _job(planned: PlannedCell, results: Path) -> dict[str, object]:
    base = planned.cell.base
    return {
        "after": [str(job_folder(results, base) / DONE_FILE)] if base else [],
        "minutes": max(_LEAST_MINUTES, math.ceil(planned.seconds * _MARGIN / 60)),
        "mem_mb": _MEMORY_MB,
    }
