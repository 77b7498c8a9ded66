"""Cells of small demo sets as a plan would list them; shared by the tests that run cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairmedfm_monai.studies.cell import Cell
from fairmedfm_monai.studies.jobs import job_folder, settings_hash
from fairmedfm_monai.studies.plan import PlannedCell
from fairmedfm_monai.studies.spec import Study

if TYPE_CHECKING:
    import pandas as pd

STUDY = Study(name="toy", title="A toy", datasets={}, grids=())


def planned(dataset_dir: Path, *, status: str = "ready", **fields: Any) -> PlannedCell:
    """A linear probe of the demo FM with three epochs, or what the fields say; its hash covers the fields."""
    cell = Cell(
        **{
            "dataset": "xray",
            "task": "classification",
            "fm": "demo_clip",
            "usage": "linear_probe",
            "train": {"epochs": 3},
            **fields,
        }
    )
    return PlannedCell(cell, status, "", dataset_dir, 5.0, settings_hash({"cell": cell.to_json()}))


def to_be_killed(dataset_dir: Path) -> list[PlannedCell]:
    """Two trainings of several epochs."""
    return [planned(dataset_dir, train={"epochs": 6}, seed=seed) for seed in (0, 1)]


def results(output: Path, key: str) -> tuple[pd.DataFrame, ...]:
    """Predictions and both tables of a cell."""
    import pandas as pd

    from fairmedfm_monai.fairness import read_table

    folder = job_folder(output, key) / "eval"
    return (
        pd.read_parquet(folder / "predictions.parquet"),
        read_table(folder / "subgroups.csv"),
        read_table(folder / "disparities.csv"),
    )
