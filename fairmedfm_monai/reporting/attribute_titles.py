"""Attributes under the titles that their card gives them: ``bmi`` as "Body mass index (WHO)"."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pandas as pd

from fairmedfm_monai.fairness.report import OVERALL, FairnessReport


def titled(
    report: FairnessReport, predictions: pd.DataFrame, run: Mapping[str, Any]
) -> tuple[FairnessReport, pd.DataFrame, dict[str, Any]]:
    """What a report is drawn from, with titles in place of the names of attributes, crossed ones included.

    Args:
        report: the evaluation.
        predictions: the table that it was made from; its columns of attributes are renamed too.
        run: contents of ``run.json``; ``attribute_titles`` (name -> title) where the card has titles. One that would
            be taken for something else (another attribute, a column, "overall") is left out.
    """
    wanted: Mapping[str, str] = run.get("attribute_titles") or {}
    taken = [*wanted.values(), *predictions.columns, *run.get("attributes", {}), OVERALL]
    titles = {name: title for name, title in wanted.items() if taken.count(title) == 1 and "__" not in title}

    def named(slug: str) -> str:
        return "__".join(titles.get(part, part) for part in slug.split("__"))

    def renamed(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(attribute=table["attribute"].map(named))

    curves = {
        kind: {
            split: {label: {named(name): each for name, each in found.items()} for label, found in labels.items()}
            for split, labels in splits.items()
        }
        for kind, splits in report.curves.items()
    }
    return (
        dataclasses.replace(
            report, subgroups=renamed(report.subgroups), disparities=renamed(report.disparities), curves=curves
        ),
        predictions.rename(columns=titles),
        {**run, "attributes": {named(name): groups for name, groups in run.get("attributes", {}).items()}},
    )
