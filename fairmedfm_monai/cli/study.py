"""The command ``study``: plan, data, run, tables and figures."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairmedfm_monai.catalog import find_row
from fairmedfm_monai.data.card_checks import did_you_mean
from fairmedfm_monai.studies.plan import NO_WEIGHTS, RUNNABLE, PlannedCell, make_plan
from fairmedfm_monai.studies.plan_text import plan_lines, study_line
from fairmedfm_monai.studies.sources import find_source, make_source
from fairmedfm_monai.studies.spec import Study, load_study, study_names


@dataclass(frozen=True, kw_only=True)
class Call:
    """What the user asked for.

    Attributes:
        study: the study.
        source: its name, or the path of its file.
        output: folder for everything.
        data: folder of prepared releases.
        weights: of all FMs.
        only: patterns of keys.
        seeds: in place of the study's.
        overrides: of all bundles.
        n_bootstrap: replicates for intervals.
        jobs: cells at once.
        tracking_uri: of MLflow.
    """

    study: Study
    source: str
    output: Path
    data: Path | None = None
    weights: str = "pretrained"
    only: Sequence[str] | None = None
    seeds: Sequence[int] | None = None
    overrides: Mapping[str, Any] | None = None
    n_bootstrap: int = 1000
    jobs: int = 1
    tracking_uri: str | None = None

    def arguments(self) -> list[str]:
        """The command line that asks for the same, from any folder, all cells of it."""
        from fairmedfm_monai.networks.weights import weights_kind

        given = {
            "output": self.output.absolute(),
            "data": self.data and self.data.absolute(),
            "weights": self.weights if weights_kind(self.weights) != "file" else Path(self.weights).absolute(),
            "seeds": self.seeds and ",".join(map(str, self.seeds)),
            "overrides": self.overrides and json.dumps(self.overrides),
            "n_bootstrap": self.n_bootstrap,
            "tracking_uri": self.tracking_uri,
        }
        options = [f"--{name}={value}" for name, value in given.items() if value is not None]
        source = self.source if self.source in study_names() else str(Path(self.source).absolute())
        return ["study", source, *options]

    def plan(self) -> list[PlannedCell]:
        """The plan as things stand now."""
        return make_plan(
            self.study,
            output=self.output,
            data=self.data,
            weights=self.weights,
            only=self.only,
            seeds=self.seeds,
            overrides=self.overrides,
            n_bootstrap=self.n_bootstrap,
        )


def refuse_options(unknown: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse options that there are not (``ValueError``)."""
    names = [name for name in known if name != "unknown"]
    if unknown:
        told = ", ".join(f"--{name}{did_you_mean(name, names)}" for name in unknown)
        msg = f"unknown options: {told}. There are {', '.join(f'--{name}' for name in names)}"
        raise ValueError(msg)


def check_flags(flags: Mapping[str, Any]) -> None:
    """Refuse switches that were given a value, and those that exclude each other (``ValueError``)."""
    for flag, value in flags.items():
        if not isinstance(value, bool):
            msg = f"`--{flag}` stands alone, but got {value!r}"
            raise ValueError(msg)
    if flags.get("collect_only") and flags.get("run_only"):
        msg = "`collect_only` and `run_only` exclude each other; leave both out to run and collect"
        raise ValueError(msg)


def check_number(option: str, value: Any, *, least: int) -> None:
    """Refuse what is no whole number from ``least`` on (``ValueError``)."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        msg = f"`{option}` must be a whole number from {least} on, but got {value!r}"
        raise ValueError(msg)


def list_studies() -> None:
    """Print the studies of this package."""
    for name in study_names():
        try:
            print(study_line(load_study(name)))
        except ValueError as error:  # the others shall be listed
            print(f"{name:12} cannot be read: {error}")
    print("next: python -m fairmedfm_monai study NAME --dry_run")


def parsed_overrides(text: str | None) -> Mapping[str, Any] | None:
    """The JSON object of ``--overrides``.

    Raises:
        ValueError: something else.
    """
    if text is None:
        return None
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        msg = f'`overrides` must be JSON such as {{"train": {{"epochs": 2}}}}, but got {text!r} ({error})'
        raise ValueError(msg) from error
    if not isinstance(found, dict):
        msg = f"`overrides` must be a JSON object with `train` and `evaluate`, but got {text!r}"
        raise ValueError(msg)
    return found


def parsed_seeds(text: str | None) -> list[int] | None:
    """Whole numbers, comma-separated.

    Raises:
        ValueError: something else, or the same number twice.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() for part in parts) or len(set(parts)) < len(parts):
        msg = f"`seeds` must be different whole numbers such as 0,1,2, but got {text!r}"
        raise ValueError(msg)
    return [int(part) for part in parts]


def export_call(call: Call, folder: Path) -> None:
    """Print the plan and write it as a Snakemake workflow; demo data are made first, since many jobs share them."""
    from fairmedfm_monai.studies.snakemake import export_workflow

    plan = call.plan()
    for line in plan_lines(call.study, plan, jobs=call.jobs):
        print(line)
    if _made_data(call, plan):
        plan = call.plan()
    snakefile = export_workflow(plan, folder, output=call.output, command=call.arguments())
    print(f"wrote {snakefile}")
    print(f"next: cd {folder} && snakemake --profile profiles/local   (or profiles/slurm)")


def run_call(
    call: Call, *, dry_run: bool = False, download: bool = False, run: bool = True, collect: bool = True
) -> bool:
    """Print the plan, then do what was asked for.

    Args:
        call: what was asked for.
        dry_run: only print the plan; nothing is written.
        download: fetch weights that are missing.
        run: run the cells that can run.
        collect: write tables, figures and the page.

    Returns:
        False when a cell failed.
    """
    plan = call.plan()
    if download and not dry_run and _fetched(plan):
        plan = call.plan()
    for line in plan_lines(call.study, plan, jobs=call.jobs):
        print(line)
    if dry_run:
        print("dry run: nothing was written")
        return True
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    well = _run(call, plan) if run else True
    if collect:
        _collect(call)
    return well


def _run(call: Call, plan: Sequence[PlannedCell]) -> bool:
    from fairmedfm_monai.studies.run import run_study

    if _made_data(call, plan):
        plan = call.plan()  # settings now hold the hash of what was made
    return run_study(
        call.study,
        plan,
        output=call.output,
        weights=call.weights,
        n_bootstrap=call.n_bootstrap,
        jobs=call.jobs,
        tracking_uri=call.tracking_uri,
    )


def _collect(call: Call) -> None:
    from fairmedfm_monai.studies.page import write_results

    print(f"wrote {write_results(call.study, call.plan(), call.output)}")


def _made_data(call: Call, plan: Sequence[PlannedCell]) -> bool:
    """Make the demo sets that the cells need; whether there was any to make."""
    made: set[Path] = set()
    for planned in plan:
        dataset = call.study.datasets[planned.cell.dataset]
        if planned.status not in RUNNABLE or dataset.demo is None or planned.dataset_dir in made:
            continue
        seed = planned.cell.seed if dataset.per_seed else 0
        source = find_source(planned.cell.dataset, dataset, data=call.data, output=call.output, seed=seed)
        if source.status == "to be made":
            print(f"making {planned.cell.dataset} ({dataset.demo}) in {make_source(dataset, source)}", flush=True)
            made.add(planned.dataset_dir)
    return bool(made)


def _fetched(plan: Sequence[PlannedCell]) -> bool:
    """Fetch what cells lack; whether anything came."""
    from fairmedfm_monai.cli.weight_files import fetch

    wanted = {(planned.cell.fm, planned.cell.variant) for planned in plan if planned.status == NO_WEIGHTS}
    came = False
    for name, variant in sorted(wanted):
        try:
            print(f"wrote {fetch(find_row(name), None if variant == 'default' else variant)}", flush=True)
            came = True
        except (OSError, ValueError) as error:  # the plan says what is still missing
            print(f"weights of {name}: {error}", flush=True)
    return came
