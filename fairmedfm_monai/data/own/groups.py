"""Attributes of a card from the values of a column: named groups, bins, or a question to the user."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fairmedfm_monai.data.manifest import EMPTY_CELLS, years
from fairmedfm_monai.data.own.spellings import SEX, SEX_NAMES, is_number, is_whole, natural, slug
from fairmedfm_monai.data.own.wishes import Wishes
from fairmedfm_monai.data.prepare.attributes import age_bands, ages
from fairmedfm_monai.data.problems import Problem, examples

MOST_GROUPS = 20
MOST_CODES = 10  # more whole numbers than that are a quantity, not codes
_FAR = 1e9  # outermost edges of bins: no bound is known
Found = tuple[dict[str, Any], str]


class GroupsUnclearError(ValueError):
    """The values of a column do not say what the groups are; the message says what the user can do."""


def attribute_entries(
    name: str, column: pd.Series, wishes: Wishes, *, meanings: Mapping[str, str], problems: list[Problem]
) -> Found:
    """The card's entries for one attribute (two for age), and what became of its values, in words.

    Args:
        name: of the attribute, which is also the manifest's column.
        column: raw values.
        wishes: what the user said.
        meanings: raw value -> what it means.
        problems: gets what the user must decide.
    """
    values = [str(value) for value in column.unique()]
    missing = wishes.missing_values(name, values, meanings)
    counts = column[~column.isin([*EMPTY_CELLS, *missing])].value_counts()
    values = sorted(map(str, counts.index), key=natural)
    try:
        if name in wishes.groups:
            return _chosen(name, column, wishes.groups[name], missing)
        if not values:
            msg = "holds no value; leave it out"
            raise GroupsUnclearError(msg)
        if name in wishes.bins:
            return _bins(name, values, wishes.bins[name], missing)
        if name.lower() == "age" and any(years(value) is not None for value in values):
            return _ages(name, values, missing)
        groups = _sex(name, values, meanings) if name.lower() in SEX_NAMES else _named(name, values, meanings)
    except GroupsUnclearError as error:
        problems.append(Problem("groups", f"attribute {name!r} {error}"))
        return {}, ""
    entry = {"column": name, "groups": groups, "missing": missing}
    return {name: entry}, _told(groups, counts)


def _chosen(name: str, column: pd.Series, groups: Mapping[str, Sequence[str]], missing: Sequence[str]) -> Found:
    raws = {group: list(values) for group, values in groups.items()}
    named = {value for values in raws.values() for value in values} | set(raws)
    counts = column.value_counts()
    rest = sorted({str(value) for value in counts.index} - named - set(missing) - EMPTY_CELLS, key=natural)
    if rest:
        listed = examples(f"{value!r} ({counts[value]})" for value in rest)
        msg = f"also holds {listed}: add them to `--groups` or to `--missing`"
        raise GroupsUnclearError(msg)
    entry = {"column": name, "groups": raws, "missing": [value for value in missing if value not in named]}
    return {name: entry}, _told(raws, counts)


def _ages(name: str, values: Sequence[str], missing: Sequence[str]) -> Found:
    _refuse_texts(values, what="an age in years")
    entries = ages(name, missing=missing)
    if name != "age":
        entries = {name: entries["age"], f"{name}4": entries["age_bands"]}
    groups = "; ".join(f"{key}: {', '.join(entry['groups'])}" for key, entry in entries.items())
    return entries, f"{_range([years(value) or 0.0 for value in values])}; {groups}"


def _bins(name: str, values: Sequence[str], cuts: Sequence[float], missing: Sequence[str]) -> Found:
    _refuse_texts(values, what="a number")
    if name.lower() == "age" and all(float(cut).is_integer() and cut > 0 for cut in cuts):
        entry = age_bands(name, name, cuts, missing=missing)[name]
    else:
        between = [f"{low:g}-lt{high:g}" for low, high in itertools.pairwise(cuts)]
        groups = [f"lt{cuts[0]:g}", *between, f"ge{cuts[-1]:g}"]
        entry = {"column": name, "bins": [-_FAR, *cuts, _FAR], "groups": groups, "missing": list(missing)}
    return {name: entry}, f"{_range([years(value) or 0.0 for value in values])}; {', '.join(entry['groups'])}"


def _sex(name: str, values: Sequence[str], meanings: Mapping[str, str]) -> dict[str, list[str]]:
    """Groups of the known spellings, of the value itself or else of what it means."""
    known = {value: SEX.get(value.casefold()) or SEX.get(meanings.get(value, "").casefold()) for value in values}
    order = [group for group in dict.fromkeys(SEX.values()) if group in known.values()]
    groups = {group: [value for value in values if known[value] == group] for group in order}
    strange = [value for value in values if known[value] is None]
    if strange:
        numbers = " (numbers are coded both ways round)" if all(map(is_number, strange)) else ""
        stated = {**groups, "NAME": strange}
        example = ",".join(f"{group}={'|'.join(raws)}" for group, raws in stated.items())
        msg = (
            f"holds {examples(map(repr, strange))}, which may mean anything{numbers}: say what every value is, "
            f'`--groups "{name}:{example}"`, or count some as unknown, `--missing "{strange[0]}"`'
        )
        raise GroupsUnclearError(msg)
    return groups


def _named(name: str, values: Sequence[str], meanings: Mapping[str, str]) -> dict[str, list[str]]:
    """One group per value; values that differ only in case and blanks share one."""
    if not meanings and all(map(is_number, values)) and (len(values) > MOST_CODES or not all(map(is_whole, values))):
        numbers = _range([float(value) for value in values])
        msg = (
            f'holds {numbers} and needs bins, which nobody can guess: `--bins "{name}=CUT,CUT"` (or leave it out of '
            "`--columns`, DICOM: `--attributes`)"
        )
        raise GroupsUnclearError(msg)
    if len(values) > MOST_GROUPS:
        msg = (
            f"has {len(values)} distinct values ({examples(map(repr, values))}), too many for groups: gather them by "
            f'`--groups "{name}:GROUP=VALUE|VALUE,..."`, or leave it out of `--columns` (DICOM: `--attributes`)'
        )
        raise GroupsUnclearError(msg)
    groups: dict[str, list[str]] = {}
    for value in values:
        groups.setdefault(group_name(value, meanings), []).append(value)
    unclear = [raws for group, raws in groups.items() if not group or not _same(raws, meanings)]
    if unclear:
        listed = examples(repr(value) for raws in unclear for value in raws)
        msg = f'holds values of which no names can be made: {listed}; name them by `--groups "{name}:GROUP=VALUE,..."`'
        raise GroupsUnclearError(msg)
    return groups


def _same(values: Sequence[str], meanings: Mapping[str, str]) -> bool:
    return len({" ".join(meanings.get(value, value).split()).casefold() for value in values}) == 1


def group_name(value: str, meanings: Mapping[str, str]) -> str:
    """Slug of what a raw value means, or else of the value itself."""
    return slug(meanings.get(value, "")) or slug(value)


def _refuse_texts(values: Sequence[str], *, what: str) -> None:
    texts = [value for value in values if years(value) is None]
    if texts:
        msg = f"must hold {what}, but it also has {examples(map(repr, texts))}: mend them, or `--missing` them"
        raise GroupsUnclearError(msg)


def _range(numbers: Sequence[float]) -> str:
    return f"numbers from {min(numbers):g} to {max(numbers):g}"


def _told(groups: Mapping[str, Sequence[str]], counts: pd.Series) -> str:
    def listed(values: Sequence[str]) -> str:
        return " and ".join(f"{value!r} ({counts.get(value, 0)})" for value in values)

    return ", ".join(f"{group} is {listed(values)}" for group, values in groups.items())
