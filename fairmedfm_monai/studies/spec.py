"""What a study is made of, as its file says it, and reading that file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

ALL = "*"
"""As ``label`` of a column: one column per label."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Where the images of a study's dataset come from: a prepared release or a demo set, never both.

    Attributes:
        release: public dataset whose prepared folder is ``<data>/<slug of the study>``.
        demo: built-in demo set, e.g. ``xray``.
        options: of a release ``rule``, ``protocol`` and ``seed`` of its preparation; of a demo set numbers of cases and
            what else its maker takes.
        bias: bias of a demo set, ``degrade`` or ``shortcut``; None for that of the built-in set.
        strength: of the bias; None for the calibrated one.
        per_seed: the data are made anew with the seed of each cell, so that seeds replicate the whole experiment.
    """

    release: str | None = None
    demo: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    bias: str | None = None
    strength: float | None = None
    per_seed: bool = False


@dataclass(frozen=True, kw_only=True)
class Model:
    """An FM of the catalog and its variant; ``default`` is the catalog's."""

    name: str
    variant: str = "default"


@dataclass(frozen=True, kw_only=True)
class Mitigation:
    """One method of a grid.

    Attributes:
        name: method during or after training.
        attributes: whose groups are meant, crossed.
        options: of the method.
        train: further overrides of train.json.
        evaluate: further overrides of evaluate.json.
        start_from: method part of the key of the cell to build on (``erm``, ``group_dro-sex.age``), of the same
            dataset, FM, usage and seed; methods after training build on ``erm`` unless told otherwise.
        label: tells apart entries that differ in settings only; joined to the label of the grid.
    """

    name: str
    attributes: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    evaluate: Mapping[str, Any] = field(default_factory=dict)
    start_from: str | None = None
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Every combination of datasets, FMs, usages, methods and seeds.

    Attributes:
        task: ``classification`` or ``segmentation``.
        datasets: keys of the study's datasets.
        fms: models.
        usages: usages; combinations that the catalog does not offer are told as such in the plan.
        mitigations: methods; untrained usages take ``erm`` only.
        seeds: of training; untrained usages take the first, unless the data are made per seed.
        label: tells apart grids that differ in settings only.
        train: overrides of train.json.
        evaluate: overrides of evaluate.json.
    """

    task: str
    datasets: tuple[str, ...]
    fms: tuple[Model, ...]
    usages: tuple[str, ...]
    mitigations: tuple[Mitigation, ...] = (Mitigation(name="erm"),)
    seeds: tuple[int, ...] = (0,)
    label: str = ""
    train: Mapping[str, Any] = field(default_factory=dict)
    evaluate: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A setting and who chose it.

    Attributes:
        what: the setting.
        value: its value.
        source: ``paper``, ``code`` (published code) or ``ours`` (not published: never called a reproduction).
        why: the reason.
        where: cell fields -> value or list of values; the cells that it holds for, all when empty.
    """

    what: str
    value: Any
    source: str
    why: str = ""
    where: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Column:
    """Which number of a cell: a row of subgroups.csv, or with ``statistic`` of disparities.csv.

    Attributes:
        metric: metric.
        title: heading.
        split: split.
        prompt: prompt kind (segmentation).
        label: label or class; "" for the mean or the only one, ``*`` for a column per label.
        attribute: attribute; "" for everyone.
        group: group of the attribute.
        statistic: disparity between the groups of the attribute.
    """

    metric: str
    title: str = ""
    split: str = "test"
    prompt: str = ""
    label: str = ""
    attribute: str = ""
    group: str = ""
    statistic: str = ""


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """One table.

    Attributes:
        name: file name without ending.
        title: heading.
        where: cell fields -> value or list of values; the cells that it shows.
        rows: cell fields whose combinations are its rows.
        columns: its numbers.
        against: show differences, paired by seed, to the cells with this mitigation, e.g. ``erm``, of the same dataset,
            FM and usage; "" for the numbers themselves.
    """

    name: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    where: Mapping[str, Any] = field(default_factory=dict)
    against: str = ""


@dataclass(frozen=True, kw_only=True)
class FigureSpec:
    """One figure.

    Attributes:
        kind: ``tradeoff`` (``utility`` against ``gap``), ``favoured`` (``column``: groups that a metric favours,
            dataset x FM) or ``ranks`` (``column``: critical difference of what is compared).
        title: heading.
        name: file name without ending; by default the kind and its number.
        where: cell fields -> value or list of values; the cells that it shows.
        utility: of a trade-off.
        gap: of a trade-off.
        column: of the other kinds.
        compare: cell fields that tell apart what is compared, e.g. ``mitigation``.
        over: cell fields that tell apart the blocks of the comparison, e.g. ``dataset``.
    """

    kind: str
    title: str
    name: str = ""
    where: Mapping[str, Any] = field(default_factory=dict)
    utility: Column | None = None
    gap: Column | None = None
    column: Column | None = None
    compare: tuple[str, ...] = ("fm",)
    over: tuple[str, ...] = ("dataset",)


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published number.

    Attributes:
        where: cell fields -> value; the cells that it stands beside.
        column: which of their numbers.
        value: the number, on the scale of our tables.
        source: publication and place in it.
        settings: how the published settings differ from ours.
    """

    where: Mapping[str, Any]
    column: Column
    value: float
    source: str
    settings: str = ""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A whole study.

    Attributes:
        name: slug.
        title: heading.
        paper: citation of the publication that it follows, if any.
        datasets: slug -> dataset.
        grids: its cells.
        choices: settings and who chose them.
        tables: its tables.
        figures: its figures.
        published: numbers to stand beside ours.
    """

    name: str
    title: str
    datasets: Mapping[str, Dataset]
    grids: tuple[Grid, ...]
    paper: str | None = None
    choices: tuple[Choice, ...] = ()
    tables: tuple[TableSpec, ...] = ()
    figures: tuple[FigureSpec, ...] = ()
    published: tuple[Published, ...] = ()

    @property
    def ours(self) -> tuple[Choice, ...]:
        """Choices that were not published."""
        return tuple(choice for choice in self.choices if choice.source == "ours")


def study_names() -> list[str]:
    """Names of the studies of this package."""
    return sorted(file.name.removesuffix(".json") for file in _definitions().iterdir() if file.name.endswith(".json"))


def load_study(name_or_path: str | Path) -> Study:
    """A study of this package, or that of a file.

    Args:
        name_or_path: one of `study_names`, or the path of a JSON file.

    Raises:
        ValueError: an unknown name, or every fault of the file with its place and the valid values.
    """
    from fairmedfm_monai.studies.spec_reading import read_study

    name = str(name_or_path)
    if name in study_names():
        text = (_definitions() / f"{name}.json").read_text(encoding="utf-8")
    elif Path(name).is_file():
        text = Path(name).read_text(encoding="utf-8")
    else:
        msg = f"`name` must be a study ({', '.join(study_names())}) or the path of a study file, but got {name!r}"
        raise ValueError(msg)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        msg = f"study {name}: no valid JSON: {error}"
        raise ValueError(msg) from error
    return read_study(content, origin=name)


def _definitions() -> Traversable:
    return resources.files("fairmedfm_monai.studies").joinpath("definitions")
