"""A table of a study as people read it, and its CSV and Markdown files."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fairmedfm_monai.reporting import wording
from fairmedfm_monai.reporting.files import write_atomic

from .lookup import direction, field_title, field_value, title_of
from .published import flag_text
from .seeds import EXPERIMENT, PATIENTS, TRAINING
from .tables import Entry, Row, Table

if TYPE_CHECKING:
    from .spec import Column

UNKNOWN = "unknown"
_SHORT = 34
INTERVALS = {
    PATIENTS: "one run: the run's own interval over test patients",
    TRAINING: "n seeds: mean over trainings on the same data with Student's interval; it tells how the number varies "
    "from training to training, not from one set of patients to another",
    EXPERIMENT: "n replications: mean over runs whose data and training both start from the seed, with Student's "
    "interval; it tells how the number varies when the whole experiment is repeated",
}


@dataclass(frozen=True)
class Shown:
    """One number as text.

    Attributes:
        value: the number; empty where there is none.
        exact: in full precision; empty where there is none.
        span: its interval.
        note: how many seeds, and which are not in it.
        missing: why there is no number; empty where there is one.
        published: the published number, or ``unknown``.
        flag: where the published number lies.
        strong: the interval of a difference does not contain 0.
    """

    value: str
    exact: str
    span: str
    note: str
    missing: str
    published: str
    flag: str
    strong: bool = False


def shown(entry: Entry, column: Column, *, signed: bool, per_seed: bool) -> Shown:
    """An entry as text; ``signed`` for differences."""
    known = wording.number(entry.published.value, column.metric) if entry.published else UNKNOWN
    found = entry.summary
    if found is None:
        return Shown("", "", "", "", entry.missing, known, "")
    noun = "replication" if per_seed else "seed"
    notes = [wording.count(found.n, noun)] if found.n > 1 and not entry.missing else []
    notes += [entry.missing] if entry.missing else []
    return Shown(
        value=_number(found.value, column, signed=signed),
        exact=repr(found.value),
        span=_span(found.low, found.high, column, signed=signed),
        note="; ".join(notes),
        missing="",
        published=known,
        flag=flag_text(entry.published.value, found) if entry.published else "",
        strong=signed and entry.excludes_zero,
    )


def _number(value: float, column: Column, *, signed: bool) -> str:
    text = wording.number(value, column.metric)
    if not signed:
        return text
    plain = text.removeprefix("−")
    if not re.search("[1-9]", plain):
        return plain  # a difference that is 0 at these digits has no sign
    return f"+{text}" if value > 0 else text


def _span(low: float, high: float, column: Column, *, signed: bool) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{_number(low, column, signed=signed)} to {_number(high, column, signed=signed)}"


def headings(table: Table) -> list[str]:
    """Titles of the columns with the direction that is better."""
    arrows = {1: " ↑", -1: " ↓", 0: ""}
    return [f"{title_of(column)}{arrows[direction(column)]}" for column in table.columns]


def rows_shown(table: Table) -> list[tuple[Row, list[Shown]]]:
    """Every row with its numbers as text."""
    signed = bool(table.spec.against)
    return [
        (
            row,
            [
                shown(one, column, signed=signed, per_seed=row.per_seed)
                for one, column in zip(row.entries, table.columns, strict=True)
            ],
        )
        for row in table.rows
    ]


def with_published(table: Table) -> list[bool]:
    """Per column, whether a published number is known for any row."""
    return [any(row.entries[k].published for row in table.rows) for k in range(len(table.columns))]


def short(stamp: str) -> str:
    """The first words of a banner."""
    words = re.split(r"[:,;]", stamp)[0].strip()
    return words if len(words) <= _SHORT else f"{words[: _SHORT - 1].rstrip()}…"


def letter(position: int) -> str:
    """Mark of a choice: a, b, ..., z, aa, ab, ..."""
    text = ""
    position += 1
    while position:
        position, rest = divmod(position - 1, 26)
        text = chr(97 + rest) + text
    return text


def footnotes(table: Table) -> list[str]:
    """What a reader of the table must know, one sentence each."""
    used = {entry.summary.replicates for row in table.rows for entry in row.entries if entry.summary}
    told = [f"95 % intervals, {text}." for kind, text in INTERVALS.items() if kind in used]
    if table.spec.against:
        told.insert(0, f"Differences to {table.spec.against} of the same dataset, FM, usage and seed, paired by seed.")
        if "" in used:
            told.append("A single pair of runs has no interval.")
        if any(entry.excludes_zero for row in table.rows for entry in row.entries):
            told.append("Bold: the interval does not contain 0; not adjusted for the number of comparisons.")
    if any(direction(column) for column in table.columns):
        told.append("↑ larger is better, ↓ smaller is better.")
    return [*table.notes, *told]


def write_table_files(table: Table, folder: Path, *, choices: Sequence[str], paper: bool) -> list[Path]:
    """Write ``<name>.csv`` and ``<name>.md``.

    Args:
        table: the table.
        folder: created when absent.
        choices: names of the study's choices that were not published, in order.
        paper: the study follows a publication: each number has a column for the published one.
    """
    text = {".csv": csv_text(table, choices=choices, paper=paper), ".md": markdown(table, choices=choices, paper=paper)}
    return [_write(folder / f"{table.spec.name}{ending}", content) for ending, content in text.items()]


def _write(path: Path, text: str) -> Path:
    return write_atomic(path, lambda target: target.write_text(text, encoding="utf-8"))


def csv_text(table: Table, *, choices: Sequence[str], paper: bool) -> str:
    """Full precision, one group of columns per number; empty where there is no number, and why in ``... missing``."""
    parts = ["", " low", " high", " seeds", " interval over", " missing"]
    parts += [" published", " published lies"] if paper else []
    titles = _unique([title_of(column) for column in table.columns])
    head = [*table.fields, *(f"{title}{part}" for title in titles for part in parts), "stamps", "ours", "cells"]
    lines = [
        [
            *row.names,
            *(value for entry in row.entries for value in _csv_values(entry, paper=paper)),
            " | ".join(row.stamps),
            " | ".join(choices[k] for k in row.ours),
            " ".join(row.cells),
        ]
        for row in table.rows
    ]
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([head, *lines])
    return stream.getvalue()


def _csv_values(entry: Entry, *, paper: bool) -> list[str]:
    found, known = entry.summary, entry.published
    numbers = [_exact(found.value), _exact(found.low), _exact(found.high)] if found else ["", "", ""]
    values = [*numbers, str(found.n if found else 0), found.replicates if found else "", entry.missing]
    if paper:
        values += [repr(known.value), flag_text(known.value, found)] if known else [UNKNOWN, ""]
    return values


def _exact(value: float) -> str:
    return repr(value) if math.isfinite(value) else ""


def _unique(titles: Sequence[str]) -> list[str]:
    """Titles that occur twice get a number."""
    return [
        f"{title} ({titles[:k].count(title) + 1})" if titles.count(title) > 1 else title
        for k, title in enumerate(titles)
    ]


def markdown(table: Table, *, choices: Sequence[str], paper: bool) -> str:
    """The table with its footnotes, as it can be put into a text."""
    head = [*(field_title(name) for name in table.fields), *headings(table), "notes"]
    lines = [f"# {table.spec.title}", "", _line(head), _line(["---"] * len(head))]
    for row, texts in rows_shown(table):
        names = [field_value(name, value) for name, value in zip(table.fields, row.names, strict=True)]
        marks = [
            *(short(stamp) for stamp in row.stamps),
            *([f"ours: {', '.join(map(letter, row.ours))}"] if row.ours else []),
        ]
        lines.append(_line([*names, *(_markdown_entry(text) for text in texts), "; ".join(marks)]))
    notes = footnotes(table)
    if paper:
        notes.append("Published numbers stand beside ours where they are known; all others are unknown here.")
    used = sorted({k for row in table.rows for k in row.ours})
    notes += [f"ours {letter(k)}: {choices[k]} (not published: no reproduction)." for k in used]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def _line(values: Sequence[str]) -> str:
    return "| " + " | ".join(value.replace("|", "\\|").replace("\n", " ") for value in values) + " |"


def _markdown_entry(text: Shown) -> str:
    told = f" ({'; '.join(part for part in (text.span, text.note) if part)})" if text.span or text.note else ""
    value = f"**{text.value}**" if text.strong else text.value
    ours = f"{value}{told}" if text.value else text.missing
    if text.published == UNKNOWN:
        return ours
    return f"{ours}; published {text.published}{f', {text.flag}' if text.flag else ''}"
