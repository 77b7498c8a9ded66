"""What the page of a study prints, as texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd

from fairmedfm_monai.fairness.report import OVERALL
from fairmedfm_monai.reporting import wording

from .collect import DONE, UNREADABLE, evaluation_folder
from .figures import Picture
from .lookup import field_title, field_value, title_of
from .published import Comparison, compare, flag_text, where_text
from .table_text import (
    UNKNOWN,
    Shown,
    footnotes,
    headings,
    letter,
    rows_shown,
    short,
    shown,
    with_published,
)
from .tables import Row, Source, Table, status_word

if TYPE_CHECKING:
    from .plan import PlannedCell
    from .spec import Choice, Study

LONG_TABLE = 40
"""Tables with more rows are folded, and those without any number."""
_ORDER = (DONE, "failed", UNREADABLE, "interrupted", "ready", "no data", "no weights", "not offered", "left out")
_MEANINGS = {"not offered": "the catalog has no such bundle", "left out": "by --only"}


def build_context(
    source: Source, tables: Sequence[Table], pictures: Sequence[Picture], frame: pd.DataFrame, folder: Path
) -> dict[str, Any]:
    """All values of the template.

    Args:
        source: study, plan and numbers.
        tables: built tables.
        pictures: drawn figures.
        frame: the long table.
        folder: of the study, for links to the cells' reports.
    """
    study = source.study
    return {
        "title": study.title,
        "name": study.name,
        "paper": study.paper,
        "research_use": wording.RESEARCH_USE,
        "version": metadata.version("fairmedfm-monai"),
        "banners": banners(source),
        "tiles": _tiles(source.plan),
        "tables": [_table(table, [choice.what for choice in study.ours]) for table in tables],
        "comparisons": [_comparison(one) for one in compare(source)],
        "figures": pictures,
        "choices": _choices(study),
        "missing": _missing(source.plan),
        "cells": _cells(source.plan, _failed_cases(frame), folder),
    }


def banners(source: Source) -> list[str]:
    """What must be seen first: what the study is not, and the stamps of its runs."""
    study, n_done = source.study, sum(planned.status == DONE for planned in source.plan)
    told = []
    if study.paper and study.ours:
        names = ", ".join(choice.what for choice in study.ours)
        verb = "is" if len(study.ours) == 1 else "are"
        told.append(
            f"No reproduction of the publication: {wording.count(len(study.ours), 'setting')} {verb} ours ({names})."
        )
    if not n_done:
        told.append("No cell is done: there are no numbers yet.")
    counts = Counter(stamp for found in source.stamps.values() for stamp in dict.fromkeys(found))
    for stamp, count in counts.most_common():
        where = "all done cells" if count == n_done else f"{count} of {n_done} done cells"
        told.append(f"{stamp[:1].upper()}{stamp[1:]} ({where}).")
    return told


def _tiles(plan: Sequence[PlannedCell]) -> list[tuple[str, int, str]]:
    counts = Counter(planned.status for planned in plan)
    return [(status_word(status), counts[status], _MEANINGS.get(status, "")) for status in _ordered(counts)]


def _ordered(statuses: Iterable[str]) -> list[str]:
    return sorted(statuses, key=lambda status: (_ORDER.index(status) if status in _ORDER else len(_ORDER), status))


def _table(table: Table, choices: Sequence[str]) -> dict[str, Any]:
    shown_rows = rows_shown(table)
    varying = _varying(table)
    common = set.intersection(*(set(row.ours) for row in table.rows)) if table.rows else set()
    sections: dict[str, list[dict[str, Any]]] = {}
    split = len(varying) > 1
    for row, texts in shown_rows:
        names = dict(zip(table.fields, row.names, strict=True))
        values = [field_value(name, names[name]) for name in varying]
        heading = values.pop(0) if split else ""
        sections.setdefault(heading, []).append(
            _row(" · ".join(value for value in values if value != "–"), row, texts, common)
        )
    empty = not any(one.summary for row in table.rows for one in row.entries)
    titles = zip(headings(table), with_published(table), strict=True)
    return {
        "name": table.spec.name,
        "title": table.spec.title,
        "fields": " · ".join(map(field_title, varying[1:] if split else varying)),
        "headings": [{"title": title, "published": known} for title, known in titles],
        "sections": list(sections.items()),
        "notes": [*_common_notes(table, varying, common, choices), *footnotes(table)],
        "size": len(table.rows),
        "empty": empty,
        "folded": empty or len(table.rows) > LONG_TABLE,
    }


def _varying(table: Table) -> list[str]:
    """Fields that tell rows apart; the last one where there is one row only."""
    found = [name for k, name in enumerate(table.fields) if len({row.names[k] for row in table.rows}) > 1]
    return found or list(table.fields[-1:])


def _common_notes(table: Table, varying: Sequence[str], common: Iterable[int], choices: Sequence[str]) -> list[str]:
    """What holds for all rows and therefore stands beneath them."""
    if not table.rows:
        return ["No cell of the plan is meant by this table."]
    constant = [
        f"{field_title(name)} {field_value(name, value)}"
        for name, value in zip(table.fields, table.rows[0].names, strict=True)
        if name not in varying
    ]
    constant += [f"ours: {', '.join(f'{choices[k]} ({letter(k)})' for k in sorted(common))}"] if common else []
    return [f"All rows: {'; '.join(constant)}."] if constant else []


def _row(name: str, row: Row, texts: Sequence[Shown], common: Iterable[int]) -> dict[str, Any]:
    return {
        "name": name or "–",
        "numbers": [_number(text) for text in texts],
        "stamps": [(short(stamp), stamp) for stamp in row.stamps],
        "ours": [letter(k) for k in row.ours if k not in set(common)],
    }


def _number(text: Shown) -> dict[str, Any]:
    return {**vars(text), "is_published": text.published != UNKNOWN}


def _comparison(found: Comparison) -> dict[str, Any]:
    column, summary = found.published.column, found.entry.summary
    ours = shown(found.entry, column, signed=False, per_seed=False)
    return {
        "where": where_text(found.published),
        "number": title_of(column),
        "published": wording.number(found.published.value, column.metric),
        "ours": _number(ours),
        "flag": flag_text(found.published.value, summary),
        "source": found.published.source,
        "against": found.against,
    }


def _choices(study: Study) -> list[dict[str, str]]:
    marks = {id(choice): letter(k) for k, choice in enumerate(study.ours)}
    return [_choice(choice, marks.get(id(choice), "")) for choice in study.choices]


def _choice(choice: Choice, mark: str) -> dict[str, str]:
    where = "; ".join(f"{field_title(name)}: {_listed(value)}" for name, value in choice.where.items())
    return {
        "what": choice.what,
        "value": _listed(choice.value),
        "source": {"code": "published code"}.get(choice.source, choice.source),
        "why": choice.why,
        "where": where or "all cells",
        "mark": mark,
    }


def _listed(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_listed(part)}" for name, part in value.items())
    return ", ".join(map(_listed, value)) if isinstance(value, (list, tuple)) else str(value)


def _missing(plan: Sequence[PlannedCell]) -> list[dict[str, Any]]:
    """Why cells have no numbers: one line per status and reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for planned in plan:
        if planned.status != DONE:
            found.setdefault((planned.status, planned.reason), []).append(planned.cell.key)
    order = {status: k for k, status in enumerate(_ordered({status for status, _ in found}))}
    return [
        {**_status(status), "count": len(keys), "reason": reason or "–", "example": keys[0]}
        for (status, reason), keys in sorted(found.items(), key=lambda item: (order[item[0][0]], -len(item[1])))
    ]


def _status(status: str) -> dict[str, str]:
    return {"status": status_word(status), "css": status.replace(" ", "-")}


def _failed_cases(frame: pd.DataFrame) -> dict[str, int]:
    """Key of a cell -> cases that could not be used."""
    everyone = frame[frame["attribute"] == OVERALL]
    counts = everyone.groupby(["key", "split"])["n_failed"].max().groupby("key").sum()
    return {str(key): int(count) for key, count in counts.items() if count > 0}


def _cells(plan: Sequence[PlannedCell], n_failed: Mapping[str, int], folder: Path) -> list[dict[str, Any]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for planned in plan:
        groups.setdefault(planned.cell.dataset, []).append(_cell(planned, n_failed, folder))
    return [
        {"dataset": name, "done": sum(row["css"] == DONE for row in rows), "rows": rows}
        for name, rows in groups.items()
    ]


def _cell(planned: PlannedCell, n_failed: Mapping[str, int], folder: Path) -> dict[str, Any]:
    report = evaluation_folder(folder, planned.cell) / "report.html"
    there = planned.status == DONE and report.is_file()
    return {
        **_status(planned.status),
        "key": planned.cell.key.partition("/")[2],
        "reason": planned.reason,
        "report": quote(report.relative_to(folder).as_posix()) if there else "",
        "n_failed": n_failed.get(planned.cell.key, 0),
    }
