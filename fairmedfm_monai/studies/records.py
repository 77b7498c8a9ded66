"""Frozen dataclasses from JSON, with every fault told at its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from fairmedfm_monai.data.card_checks import did_you_mean

Record = TypeVar("Record")
SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Faults:
    """What is wrong with a file: one line per fault, with its place."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.lines: list[str] = []

    def add(self, place: str, text: str) -> None:
        """Note a fault."""
        self.lines.append(f"{place}: {text}" if place else text)

    def known(self, place: str, value: Any, names: Sequence[str], what: str) -> bool:
        """Note a value that is none of ``names``; whether it is one."""
        if value in names:
            return True
        hint = did_you_mean(value, names) if isinstance(value, str) else ""
        self.add(place, f"{what} must be one of {', '.join(names)}, but got {value!r}{hint}")
        return False

    def slug(self, place: str, value: str) -> None:
        """Note a name that cannot be part of a key or of a file name."""
        if not SLUG.fullmatch(value):
            self.add(place, f"must consist of letters, digits, `_`, `.` and `-`, but got {value!r}")

    def stop(self) -> None:
        """Raise ``ValueError`` with all faults, if there are any."""
        if self.lines:
            msg = "\n  ".join([f"study {self.origin}:", *self.lines])
            raise ValueError(msg)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_list(value: Any, kind: type) -> bool:
    whole = isinstance(value, Sequence) and not isinstance(value, str)
    return whole and all(isinstance(item, kind) and not isinstance(item, bool) for item in value)


# Annotation of a field -> what JSON may hold there, what to call it, and how it is kept.
_KINDS: dict[str, tuple[Callable[[Any], bool], str, Callable[[Any], Any]]] = {
    "str": (lambda value: isinstance(value, str), "a text", str),
    "str | None": (lambda value: value is None or isinstance(value, str), "a text or null", lambda value: value),
    "bool": (lambda value: isinstance(value, bool), "true or false", bool),
    "float": (_is_number, "a number", float),
    "float | None": (lambda value: value is None or _is_number(value), "a number or null", lambda value: value),
    "tuple[str, ...]": (lambda value: _is_list(value, str), "a list of texts", tuple),
    "tuple[int, ...]": (lambda value: _is_list(value, int), "a list of whole numbers", tuple),
    "Mapping[str, Any]": (lambda value: isinstance(value, Mapping), "an object", dict),
    "Any": (lambda value: True, "", lambda value: value),
}


def record(
    kind: type[Record],
    values: Any,
    place: str,
    faults: Faults,
    made: Mapping[str, Callable[[Any, str], Any]] | None = None,
) -> Record | None:
    """One dataclass of JSON values; None where there are faults.

    Args:
        kind: the dataclass.
        values: JSON object with its fields.
        place: where in the file, for messages.
        faults: collects what is wrong: unknown and missing keys, values of a wrong kind.
        made: field -> what makes it of its JSON value and its place; it notes its own faults and then gives None.
    """
    if not isinstance(values, Mapping):
        faults.add(place, f"must be an object, but got {values!r}")
        return None
    before = len(faults.lines)
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    for stray in sorted(set(values) - set(known)):
        faults.add(place, f"has no key {stray!r}{did_you_mean(stray, known)}; its keys are {', '.join(known)}")
    chosen: dict[str, Any] = {}
    for name, each in known.items():
        inside = f"{place}.{name}" if place else name
        if name in values:
            maker = (made or {}).get(name)
            chosen[name] = (
                maker(values[name], inside) if maker else _plain(values[name], str(each.type), inside, faults)
            )
        elif each.default is MISSING and each.default_factory is MISSING:
            faults.add(place, f"the key {name!r} is missing")
    return kind(**chosen) if len(faults.lines) == before else None


def records(values: Any, place: str, faults: Faults, make: Callable[[Any, str], Any]) -> tuple[Any, ...]:
    """A list of records, those with faults left out."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        faults.add(place, f"must be a list, but got {values!r}")
        return ()
    found = [make(value, f"{place}[{position}]") for position, value in enumerate(values)]
    return tuple(each for each in found if each is not None)


def _plain(value: Any, annotation: str, place: str, faults: Faults) -> Any:
    accepts, what, keep = _KINDS[annotation]
    if not accepts(value):
        faults.add(place, f"must be {what}, but got {value!r}")
        return None
    return keep(value)
