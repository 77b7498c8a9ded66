"""The commands, one function each. Each prints what it wrote and where."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path
from typing import Any

from fire.decorators import SetParseFn

from fairmedfm_monai.cli.prepare_own import KINDS, TEXT_OPTIONS, prepare_own, usage_lines


def _names(value: Any) -> list[str] | None:
    """A comma-separated argument as python-fire may hand it over: text, tuple or list."""
    if value is None:
        return None
    items = value.split(",") if isinstance(value, str) else list(value)
    return [str(item).strip() for item in items]


def catalog(name: str | None = None) -> None:
    """Print the foundation models x usages with proof level and licences.

    Args:
        name: print everything known of one of them instead.
    """
    from fairmedfm_monai.bundle.pages import page
    from fairmedfm_monai.catalog import find_row
    from fairmedfm_monai.catalog.matrix import overview

    print(page(find_row(name)) if name is not None else "\n".join(overview()))


def bundle(name: str, output: str = "bundles") -> None:
    """Write one bundle of the catalog into a folder.

    Args:
        name: name of the bundle, e.g. clip_classification_linear_probe; `catalog` lists them.
        output: folder in which the bundle's folder is made.
    """
    from fairmedfm_monai.bundle.render import render_bundle

    folder = render_bundle(name, output)
    print(f"wrote {folder}")
    print(f"next: cd {folder} && python -m monai.bundle run --config_file configs/evaluate.json")


@SetParseFn(str, *TEXT_OPTIONS)
def prepare(
    name: str | None = None,
    source: str | None = None,
    output: str | None = None,
    list: bool = False,  # noqa: A002 (the flag is called --list)
    **options: Any,
) -> None:
    """From raw data to a dataset folder: a public release, your own data, or a built-in demo set.

    Args:
        name: a public dataset (--list names them; without --source, how to prepare it is told), table, dicom or bids
            for your own data, or a demo set such as demo/xray.
        source: folder of the raw release or of your data; not for demo sets.
        output: dataset folder to make; demo sets go to the cache folder of this package without it.
        list: list the public datasets.
        **options: public: --rule NAME, --protocol NAME, --seed N, --incomplete (leave out cases whose files are missing
            or damaged), --workers N. Your own data: `prepare table`, `prepare dicom` and `prepare bids` tell theirs.
            Demo sets: e.g. --seed 3 --bias shortcut --strength 0.
    """
    from fairmedfm_monai.cli import prepare as preparing

    if options.pop("help", False):  # python-fire hands it over, as it does any other option
        print("\n".join(usage_lines(name)) if name is not None and name in KINDS else inspect.getdoc(prepare))
        return
    if not isinstance(list, bool):
        msg = f"`{list}` belongs to no option; put a text with blanks into double quotes"
        raise ValueError(msg)
    if list or name is None:
        print("\n".join(preparing.dataset_lines()))
        return
    if name.startswith("demo"):
        folder = preparing.prepare_demo(name, output, **options)
    else:
        if name in KINDS:
            folder, summary = prepare_own(name, source, output, **options)
        else:
            folder, summary = preparing.prepare_public(name, source, output, **options)
        print("\n".join(summary))
    print(f"wrote {folder}")
    print(f"next: python -m fairmedfm_monai validate {folder}")


def validate(dataset_dir: str, deep: bool = False, workers: int | None = None) -> None:
    """Check a dataset folder and print splits x groups x classes. Exit code 1 when there are errors.

    Checks card, table and that the files are there. No image is opened without --deep.

    Args:
        dataset_dir: folder with manifest and dataset.json, or a built-in name.
        deep: open every image and mask too: damaged files, masks that do not fit their image or hold other values.
        workers: processes that open files, by default one per core.
    """
    from fairmedfm_monai.data import validate_folder

    if not isinstance(deep, bool):
        msg = f"`--deep` stands alone, after DATASET_DIR, but got {deep!r}"
        raise ValueError(msg)
    report = validate_folder(dataset_dir, deep=deep, workers=workers, progress=True)
    print(report)
    if not report.ok:
        sys.exit(1)


def weights(action: str = "status", fm: str | None = None, variant: str | None = None) -> None:
    """Say which weight files the models expect and which are there, or fetch one.

    Args:
        action: status or fetch.
        fm: name in the catalog; status without it lists all.
        variant: variant of the FM, by default the catalog's.
    """
    from fairmedfm_monai.catalog import find_row, rows
    from fairmedfm_monai.cli.weight_files import fetch, status

    if action not in {"status", "fetch"}:
        msg = f"`action` must be status or fetch, but got {action!r}"
        raise ValueError(msg)
    if action == "fetch":
        if fm is None:
            msg = "`--fm NAME` is needed to fetch weights; `catalog` lists the names"
            raise ValueError(msg)
        print(f"wrote {fetch(find_row(fm), variant)}")
        return
    for row in [find_row(fm)] if fm else rows().values():
        print("\n".join(status(row, variant)))


def evaluate(
    predictions: str,
    output: str = "eval",
    attributes: Any = None,
    label: str = "label",
    score: str = "score",
    patient_id: str | None = None,
    split: str | None = None,
    operating_point: float | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
    overwrite: bool = False,
    mitigation: str | None = None,
    mitigation_attributes: Any = None,
    mitigation_options: Any = None,
) -> None:
    """Subgroup report from a table of predictions: one of ours without any flag, or any CSV or Parquet file.

    Args:
        predictions: predictions.parquet of a run, or a table with one row per case.
        output: folder for report.html and the tables; a finished one is never overwritten.
        attributes: columns that hold patient groups, comma-separated (tables that are not ours).
        label: column with the true class, 0 or 1.
        score: column with the score of class 1, in [0, 1].
        patient_id: column that says which rows are one patient.
        split: column that says val or test; the operating point then comes from val.
        operating_point: threshold, cases at or above it count as positive.
        n_bootstrap: replicates for intervals.
        seed: seed of the resampling, and of random decisions.
        overwrite: write into `output` even when it holds a run.
        mitigation: threshold_per_group, temperature_per_group or equalised_odds, fitted on val without training; the
            report is of the mitigated predictions, `before/` in it of those as they were.
        mitigation_attributes: whose groups are meant, comma-separated ones are crossed; by default the first.
        mitigation_options: of the method, e.g. '{rule: sensitivity, target: 0.8}'; a wrong one lists them.
    """
    from fairmedfm_monai.cli.table import foreign_predictions
    from fairmedfm_monai.fairness import read_predictions
    from fairmedfm_monai.handlers.output import free_output_dir
    from fairmedfm_monai.mitigation.evaluation import Evaluation

    groups = _names(attributes)
    if groups is None:
        table, meta = read_predictions(predictions)
    else:
        table, meta = foreign_predictions(
            predictions, attributes=groups, label=label, score=score, patient_id=patient_id, split=split
        )
    if mitigation is None and (mitigation_attributes, mitigation_options) != (None, None):
        msg = "`mitigation_attributes` and `mitigation_options` say how to mitigate; name a `--mitigation` too"
        raise ValueError(msg)
    folder = Path(free_output_dir(output, overwrite))
    evaluation = Evaluation(Path(predictions).name, operating_point, n_bootstrap, seed)
    if mitigation is None:
        told: list[str] = []
        written = evaluation.write(evaluation.report(table, meta), table, meta, folder)
    else:
        written, told, _ = evaluation.mitigated(
            table, meta, folder, name=mitigation, attributes=_names(mitigation_attributes), options=mitigation_options
        )
    for path in written:
        print(f"wrote {path}")
    for sentence in told:
        print(sentence)


def demo(
    output: str = "demo_output", n_bootstrap: int = 1000, bias: str = "degrade", strength: float | None = None
) -> None:
    """The main job on real input: demo data from one CT, four reports by plain bundles, MLflow runs.

    Args:
        output: folder for bundles and reports.
        n_bootstrap: replicates for intervals.
        bias: degrade or shortcut, built into one sex of the demo data.
        strength: strength of the bias, 0 for the control; by default the calibrated one.
    """
    from fairmedfm_monai.cli.demo import run_demo

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    run_demo(Path(output), n_bootstrap=n_bootstrap, bias=bias, strength=strength)


def attributes(
    dataset_dir: str,
    fm: str,
    attributes: Any = None,
    variant: str | None = None,
    weights: str = "pretrained",
    output: str = "attributes",
    device: str | None = None,
    num_workers: int = 0,
    overwrite: bool = False,
) -> None:
    """How well each patient attribute can be read from the frozen features of an FM (probe AUC with interval).

    Args:
        dataset_dir: dataset folder with splits train and test (val chooses the penalty), or a built-in name.
        fm: name in the catalog.
        attributes: names, comma-separated; by default all of the card.
        variant: of the FM, by default the catalog's.
        weights: pretrained, a path, random or tiny.
        output: folder for attributes.csv and run.json; a finished one is never overwritten.
        device: by default the GPU where there is one.
        num_workers: processes that read images.
        overwrite: write into `output` even when it holds a run.
    """
    from fairmedfm_monai.catalog import find_row
    from fairmedfm_monai.cli.attributes import TABLE_FILE, attribute_table, shown, write_attributes
    from fairmedfm_monai.handlers.output import free_output_dir

    table, run = attribute_table(
        find_row(fm),
        dataset_dir,
        variant=variant,
        weights=weights,
        attributes=_names(attributes),
        device=device,
        num_workers=num_workers,
    )
    print("\n".join(shown(table, run)))
    folder = Path(free_output_dir(output, overwrite, markers=(TABLE_FILE,)))
    for path in write_attributes(table, run, folder):
        print(f"wrote {path}")


@SetParseFn(str, "name", "output", "data", "weights", "only", "seeds", "overrides", "tracking_uri", "export")
def study(
    name: str | None = None,
    output: str | None = None,
    data: str | None = None,
    weights: str = "pretrained",
    only: str | None = None,
    dry_run: bool = False,
    jobs: int = 1,
    n_bootstrap: int = 1000,
    seeds: str | None = None,
    overrides: str | None = None,
    download: bool = False,
    tracking_uri: str | None = None,
    collect_only: bool = False,
    run_only: bool = False,
    export: str | None = None,
    list: bool = False,  # noqa: A002 (the flag is called --list)
    **unknown: Any,
) -> None:
    """A whole study: its plan with costs, the cells that can run, tables and figures. Exit code 1 when a cell failed.

    Cells that lack data or weights are told and shown as missing. A second call goes on where the first one ended.

    Args:
        name: a study (--list names them), or the path of a study file.
        output: folder for everything, by default studies/NAME.
        data: folder of prepared releases, one folder per dataset of the study.
        weights: pretrained, random, tiny or a path.
        only: patterns of cells, comma-separated, e.g. 'xray/*/linear_probe/*,*/seed0'.
        dry_run: print the plan and write nothing.
        jobs: cells at once, each in a process of its own.
        n_bootstrap: replicates for intervals.
        seeds: comma-separated, in place of the study's.
        overrides: for all cells that have such settings, e.g. '{"train": {"epochs": 2}, "evaluate": {}}'.
        download: fetch weights that are missing; nothing is downloaded without it (but the CT of the demo data).
        tracking_uri: of MLflow, by default a file in the output folder; off = no tracking.
        collect_only: run nothing, write tables and figures of what is there.
        run_only: run, without tables and figures.
        export: run nothing, write the plan as a Snakemake workflow into this folder.
        list: list the studies.
        **unknown: refused; without it, a misspelt --dry_run would be told only after the whole study has run.
    """
    from fairmedfm_monai.cli import study as studying

    if unknown.pop("help", False):
        print(inspect.getdoc(study))
        return
    studying.refuse_options(unknown, inspect.signature(study).parameters)
    switches = {"dry_run": dry_run, "download": download, "list": list}
    studying.check_flags({**switches, "collect_only": collect_only, "run_only": run_only})
    studying.check_number("jobs", jobs, least=1)
    studying.check_number("n_bootstrap", n_bootstrap, least=0)
    if list or name is None:
        studying.list_studies()
        return
    found = studying.load_study(name)
    call = studying.Call(
        study=found,
        source=name,
        output=Path(output) if output else Path("studies") / found.name,
        data=Path(data) if data else None,
        weights=weights,
        only=_names(only),
        seeds=studying.parsed_seeds(seeds),
        overrides=studying.parsed_overrides(overrides),
        n_bootstrap=n_bootstrap,
        jobs=jobs,
        tracking_uri=tracking_uri,
    )
    if export:
        studying.export_call(call, Path(export))
        return
    well = studying.run_call(call, dry_run=dry_run, download=download, run=not collect_only, collect=not run_only)
    if not well:
        sys.exit(1)
