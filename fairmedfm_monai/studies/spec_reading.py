"""From the JSON of a study file to a checked study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairmedfm_monai.studies.cells import study_cells
from fairmedfm_monai.studies.methods import method_names
from fairmedfm_monai.studies.records import Faults, record, records
from fairmedfm_monai.studies.spec import (
    Choice,
    Column,
    Dataset,
    FigureSpec,
    Grid,
    Mitigation,
    Model,
    Published,
    Study,
    TableSpec,
)
from fairmedfm_monai.studies.spec_checks import (
    CELL_FIELDS,
    FIGURES,
    SOURCES,
    check_column,
    check_dataset,
    check_grid,
    check_where,
)


def read_study(content: Any, *, origin: str) -> Study:
    """A study of the content of its file.

    Args:
        content: parsed JSON.
        origin: name or path, for messages.

    Raises:
        ValueError: every fault with its place and the valid values.
    """
    faults = Faults(origin)
    reader = _Reader(faults)
    study = record(
        Study,
        content,
        "",
        faults,
        {
            "datasets": reader.datasets,
            "grids": lambda values, place: records(values, place, faults, reader.grid),
            "choices": lambda values, place: records(values, place, faults, reader.choice),
            "tables": lambda values, place: records(values, place, faults, reader.table),
            "figures": lambda values, place: records(values, place, faults, reader.figure),
            "published": lambda values, place: records(values, place, faults, reader.published),
        },
    )
    if study is not None:
        _check(study, faults)
    faults.stop()
    assert study is not None  # noqa: S101 (without faults there is one)
    return study


class _Reader:
    """Makes the parts of a study; notes what is wrong with each by itself."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults

    def datasets(self, values: Any, place: str) -> dict[str, Dataset] | None:
        if not isinstance(values, Mapping):
            self.faults.add(place, f"must be an object of slug -> dataset, but got {values!r}")
            return None
        found = {}
        for slug, value in values.items():
            self.faults.slug(f"{place}.{slug}", slug)
            dataset = record(Dataset, value, f"{place}.{slug}", self.faults)
            if dataset is not None:
                found[slug] = dataset
        return found

    def grid(self, values: Any, place: str) -> Grid | None:
        made = {
            "fms": lambda items, inside: records(items, inside, self.faults, self.model),
            "mitigations": lambda items, inside: records(items, inside, self.faults, self.mitigation),
        }
        return record(Grid, values, place, self.faults, made)

    def model(self, value: Any, place: str) -> Model | None:
        return record(Model, {"name": value} if isinstance(value, str) else value, place, self.faults)

    def mitigation(self, value: Any, place: str) -> Mitigation | None:
        return record(Mitigation, {"name": value} if isinstance(value, str) else value, place, self.faults)

    def column(self, value: Any, place: str) -> Column | None:
        return record(Column, value, place, self.faults)

    def choice(self, value: Any, place: str) -> Choice | None:
        return record(Choice, value, place, self.faults)

    def table(self, value: Any, place: str) -> TableSpec | None:
        made = {"columns": lambda items, inside: records(items, inside, self.faults, self.column)}
        return record(TableSpec, value, place, self.faults, made)

    def figure(self, value: Any, place: str) -> FigureSpec | None:
        return record(FigureSpec, value, place, self.faults, dict.fromkeys(("utility", "gap", "column"), self.column))

    def published(self, value: Any, place: str) -> Published | None:
        return record(Published, value, place, self.faults, {"column": self.column})


def _check(study: Study, faults: Faults) -> None:
    """What the parts must have in common with each other and with the catalog."""
    faults.slug("name", study.name)
    for slug, dataset in study.datasets.items():
        check_dataset(dataset, f"datasets.{slug}", faults)
    if faults.lines:  # the tasks of the datasets are needed from here on
        return
    for position, grid in enumerate(study.grids):
        check_grid(grid, study.datasets, f"grids[{position}]", faults)
    for position, choice in enumerate(study.choices):
        faults.known(f"choices[{position}].source", choice.source, SOURCES, "it")
        check_where(choice.where, study, f"choices[{position}].where", faults)
    for position, published in enumerate(study.published):
        check_where(published.where, study, f"published[{position}].where", faults)
        check_column(published.column, f"published[{position}].column", faults)
    _check_tables(study, faults)
    _check_figures(study, faults)
    if not faults.lines:
        _check_cells(study, faults)


def _check_cells(study: Study, faults: Faults) -> None:
    try:
        study_cells(study)
    except ValueError as error:
        faults.add("", str(error))


def _check_tables(study: Study, faults: Faults) -> None:
    names = [table.name for table in study.tables]
    for position, table in enumerate(study.tables):
        place = f"tables[{position}]"
        faults.slug(f"{place}.name", table.name)
        if names.count(table.name) > 1:
            faults.add(f"{place}.name", f"{table.name!r} is the name of several tables")
        check_where(table.where, study, f"{place}.where", faults)
        for field in table.rows:
            faults.known(f"{place}.rows", field, CELL_FIELDS, "each")
        if table.against:
            faults.known(f"{place}.against", table.against, method_names(), "it")
        for number, column in enumerate(table.columns):
            check_column(column, f"{place}.columns[{number}]", faults)


def _check_figures(study: Study, faults: Faults) -> None:
    for position, figure in enumerate(study.figures):
        place = f"figures[{position}]"
        check_where(figure.where, study, f"{place}.where", faults)
        if figure.name:
            faults.slug(f"{place}.name", figure.name)
        for field in (*figure.compare, *figure.over):
            faults.known(f"{place}.compare and over", field, CELL_FIELDS, "each")
        if not faults.known(f"{place}.kind", figure.kind, tuple(FIGURES), "it"):
            continue
        for name in ("utility", "gap", "column"):
            column, wanted = getattr(figure, name), name in FIGURES[figure.kind]
            if (column is None) == wanted:
                faults.add(place, f"a figure of kind {figure.kind!r} {'needs' if wanted else 'has no'} `{name}`")
            elif column is not None:
                check_column(column, f"{place}.{name}", faults)
