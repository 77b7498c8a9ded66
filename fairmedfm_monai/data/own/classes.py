"""Classes of a card from the label columns: names, which is positive, and prompts that a reader must review."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from fairmedfm_monai.data.manifest import EMPTY_CELLS
from fairmedfm_monai.data.own.groups import group_name
from fairmedfm_monai.data.own.rows import OwnRows
from fairmedfm_monai.data.own.spellings import ABSTRACT_PAIRS, is_number, is_whole, natural, obvious_pair, slug
from fairmedfm_monai.data.own.wishes import Wishes
from fairmedfm_monai.data.problems import Problem, examples

MOST_CLASSES = 50
PICTURES: Mapping[str, str] = {
    "xray": "an X-ray image",
    "fundus": "a fundus photograph",
    "slo": "a scanning laser ophthalmoscopy image",
    "oct": "an optical coherence tomography scan",
    "dermoscopy": "a dermoscopic image",
    "ultrasound": "an ultrasound image",
    "ct": "a CT scan",
    "mri": "an MRI scan",
    "pathology": "a histology image",
}
# Columns that are called like this name no finding.
_NAMELESS = frozenset(("label", "labels", "class", "target", "y", "dx", "diagnosis", "finding", "disease", "outcome"))
_BINARY = {word: str(value) for pair in ABSTRACT_PAIRS for value, word in enumerate(pair)}


@dataclass
class Truth:
    """What became of the label columns.

    Attributes:
        card: keys of the card: ``classes``, ``positive_class``, ``multi_label``.
        columns: columns of the manifest, without the rows that have no label.
        lines: what became of each label column, in words.
        notes: what was left out.
    """

    card: dict[str, Any] = field(default_factory=dict)
    columns: pd.DataFrame = field(default_factory=pd.DataFrame)
    lines: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find_classes(rows: OwnRows, wishes: Wishes, problems: list[Problem]) -> Truth:
    """Classes of classification data; `problems` gets what the user must decide."""
    columns = rows.table[list(rows.labels)]
    meanings = rows.meanings.get("label", {})
    values = sorted({str(value) for name in columns for value in columns[name]}, key=natural)
    missing = {*EMPTY_CELLS, *wishes.missing_values("label", values, meanings)}
    missing -= {raw for raws in wishes.classes.values() for raw in raws}
    empty = columns.isin(list(missing)).any(axis=1)
    truth = Truth()
    if empty.any():
        named = ", ".join(dict.fromkeys(rows.labels.values()))
        truth.notes.append(f"{int(empty.sum())} of {len(columns)} cases left out: no label in {named}")
    columns = columns[~empty]
    if columns.empty:
        problems.append(Problem("label", f"no case has a label in {', '.join(rows.labels.values())}"))
    elif len(rows.labels) > 1:
        _multi_label(columns, rows, wishes, truth, problems)
    else:
        _one_label(columns.iloc[:, 0], rows, wishes, truth, problems)
    return truth


def _one_label(column: pd.Series, rows: OwnRows, wishes: Wishes, truth: Truth, problems: list[Problem]) -> None:
    origin = next(iter(rows.labels.values()))
    counts = column.value_counts()
    values = sorted(map(str, counts.index), key=natural)
    pair = obvious_pair(values)
    where = f"the label column {origin!r}"
    classes = {name: list(raws) for name, raws in wishes.classes.items()}
    classes = classes or _named_classes(values, pair, origin, rows.meanings.get("label", {}))
    by_raw = {raw: name for name, raws in classes.items() for raw in raws}
    problem = _unclear(values, classes, by_raw, counts, chosen=bool(wishes.classes))
    if problem:
        problems.append(Problem("label", f"{where} {problem}"))
        return
    positive = _positive(classes, by_raw, pair, wishes.positive)
    if wishes.positive is not None and positive is None:
        problems.append(Problem("positive_class", _wrong_positive(classes, wishes.positive)))
    elif len(classes) == 2 and positive is None:
        names = " or ".join(f"`--positive {name}`" for name in classes)
        problems.append(Problem("positive_class", f"{where} has two classes; say which is the positive one: {names}"))
    if len(classes) == 2 and positive == next(iter(classes)) and not wishes.classes:
        classes = dict(reversed(classes.items()))
    truth.card = {"classes": {name: _class_prompts(wishes.modality, name, origin) for name in classes}}
    truth.card |= {"positive_class": positive} if positive else {}
    truth.columns = column.map(by_raw).to_frame("label")
    listed = ", ".join(f"{name} is {_listed(raws, counts)}" for name, raws in classes.items())
    truth.lines["label"] = listed + (f"; positive: {positive}" if positive else "")


def _named_classes(
    values: Sequence[str], pair: tuple[str, str] | None, origin: str, meanings: Mapping[str, str]
) -> dict[str, list[str]]:
    """Class -> raw values. 0/1 and the like are named by their column, numbers likewise."""
    column = slug(origin)
    if pair and not meanings and _abstract(pair):
        names = ("negative", "positive") if column in _NAMELESS or not column else (f"no_{column}", column)
        return {name: [value] for name, value in zip(names, pair, strict=True)}
    ordered = pair or values
    classes: dict[str, list[str]] = {}
    for value in ordered:
        name = group_name(value, meanings)
        if is_number(value) and name == slug(value):
            name = f"{column or 'class'}_{name}"
        classes.setdefault(name, []).append(value)
    return classes


def _unclear(
    values: Sequence[str],
    classes: Mapping[str, Sequence[str]],
    by_raw: Mapping[str, str],
    counts: pd.Series,
    *,
    chosen: bool,
) -> str:
    """Why the values do not make classes; empty where they do."""
    rest = [value for value in values if value not in by_raw]
    if rest:
        leave = f'or `--missing "label={rest[0]}"` leaves them out'
        return f"also holds {_listed(rest, counts)}: add them to `--classes`, {leave}"
    if len(values) < 2:
        return f"holds {values[0]!r} only; two classes are the least"
    if not chosen and all(map(is_number, values)) and not all(map(is_whole, values)):
        return f"holds numbers such as {examples(values)}, which are no classes; make a column of classes"
    if len(classes) > MOST_CLASSES:
        gather = 'gather them by `--classes "a=VALUE|VALUE,b=VALUE"`'
        return f"has {len(classes)} distinct values ({examples(map(repr, values))}), too many for classes: {gather}"
    doubtful = (
        []
        if chosen
        else [raws for name, raws in classes.items() if not name or len({raw.casefold() for raw in raws}) > 1]
    )
    if doubtful:
        listed = examples(repr(raw) for raws in doubtful for raw in raws)
        return f'holds values of which no names can be made: {listed}; name them by `--classes "a=VALUE,b=VALUE"`'
    return ""


def _positive(
    classes: Mapping[str, Sequence[str]],
    by_raw: Mapping[str, str],
    pair: tuple[str, str] | None,
    stated: str | None,
) -> str | None:
    if stated is not None:
        return stated if stated in classes else by_raw.get(stated)
    return by_raw[pair[1]] if pair and len(classes) == 2 else None


def _wrong_positive(classes: Mapping[str, Any], stated: str) -> str:
    return f"`--positive` must be one of {', '.join(classes)}, but got {stated!r}"


def _multi_label(columns: pd.DataFrame, rows: OwnRows, wishes: Wishes, truth: Truth, problems: list[Problem]) -> None:
    found: dict[str, pd.Series] = {}
    for key in columns:
        origin = rows.labels[str(key)]
        name = slug(origin)
        strange = sorted({str(raw) for raw in columns[key].unique() if raw.casefold() not in _BINARY}, key=natural)
        if strange:
            listed = _listed(strange, columns[key].value_counts())
            message = (
                f"the label column {origin!r} must hold 0 and 1 (or no and yes), but also holds {listed}: mend them, "
                f'or `--missing "label={strange[0]}"` leaves these cases out'
            )
            problems.append(Problem("label", message))
        elif not name or name in found or name in rows.table.columns:
            taken = f"its class name {name!r} is taken" if name else "no class name can be made of it"
            problems.append(Problem("label", f"the label column {origin!r}: {taken}; rename the column"))
        else:
            found[name] = columns[key].map(lambda raw: _BINARY[raw.casefold()])
            truth.lines[name] = f"1 in {int((found[name] == '1').sum())} of {len(columns)} cases"
    if wishes.classes:
        problems.append(Problem("label", "`--classes` names the values of one label column, but there are several"))
    if wishes.positive is not None:
        problems.append(
            Problem("positive_class", "`--positive` is for two classes, but there are several label columns")
        )
    truth.card = {"classes": {name: _prompts(wishes.modality, name) for name in found}, "multi_label": True}
    truth.columns = pd.DataFrame(found, index=columns.index)


def _abstract(pair: Sequence[str]) -> bool:
    return {value.casefold() for value in pair} <= set(_BINARY)


def _class_prompts(modality: str, name: str, origin: str) -> list[str]:
    """Prompts of one of several classes that exclude each other; ``no_x`` is the absence of ``x``."""
    if name == f"no_{slug(origin)}":
        words = slug(origin).replace("_", " ")
        return [f"{PICTURES[modality]} with no {words}", f"{PICTURES[modality]} without signs of {words}"]
    return _prompts(modality, f"a_{name}_finding" if name in ("negative", "positive") else name)


def _prompts(modality: str, name: str) -> list[str]:
    words = name.replace("_", " ")
    return [f"{PICTURES[modality]} showing {words}", f"{PICTURES[modality]}: {words}"]


def _listed(values: Sequence[str], counts: pd.Series) -> str:
    return " and ".join(f"{value!r} ({counts.get(value, 0)})" for value in values)
