r"""Texts such as ``"image=file,label=dx"`` that users type; ``\`` before a mark takes it as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator

EVERYWHERE = ""  # key of missing values that hold for every column


def assignments(text: str, *, option: str, example: str) -> dict[str, str]:
    """``"a=b,c=d"`` as a dict; the text after the first ``=`` may hold further ones.

    Args:
        text: as typed.
        option: its name, for messages.
        example: what would be right, for messages.

    Raises:
        ValueError: a part without ``=``, with an empty side, or a name that stands twice.
    """
    found = split_assignments(text, option=option, example=example)
    return {name: plain(value) for name, value in found.items()}


def split_assignments(text: str, *, option: str, example: str) -> dict[str, str]:
    r"""As `assignments`, the values still with every ``\``."""
    found: dict[str, str] = {}
    for part in _cut(text, ","):
        name, mark, value = (piece.strip() for piece in part.partition("="))
        if not mark or not name or not value:
            msg = f"`--{option}` must be a text such as {example!r}, but a part of it is {part.strip()!r}"
            raise ValueError(msg)
        if name in found:
            msg = f"`--{option}` names {name!r} twice: {text!r}"
            raise ValueError(msg)
        found[name] = value
    return found


def several(text: str) -> list[str]:
    """``"a|b"`` as a list."""
    return [plain(part) for part in _cut(text, "|")]


def value_lists(text: str, *, option: str, example: str) -> dict[str, list[str]]:
    """``"young=1|2,old=3"`` as a dict of lists. Raises as `assignments`."""
    found = split_assignments(text, option=option, example=example)
    return {name: several(value) for name, value in found.items()}


def group_lists(text: str, *, option: str = "groups") -> dict[str, dict[str, list[str]]]:
    """``"sex:female=1,male=2;site:north=A|B,south=C"``: attribute -> group -> raw values.

    Raises:
        ValueError: a part without ``:``, or as `assignments`.
    """
    example = "sex:female=1|W,male=2;site:north=A|B,south=C"
    found: dict[str, dict[str, list[str]]] = {}
    for part in _cut(text, ";"):
        name, mark, groups = part.partition(":")
        if not mark or not name.strip() or name.strip() in found:
            what = f"{name.strip()!r} stands twice" if name.strip() in found else f"{part!r} names no attribute"
            msg = f"`--{option}` must be a text such as {example!r}, but {what}"
            raise ValueError(msg)
        found[name.strip()] = value_lists(groups, option=option, example=example)
    return found


def number_lists(text: str, *, option: str = "bins") -> dict[str, list[float]]:
    """``"bmi=18.5,25,30,age=40,65"``: attribute -> rising numbers.

    Raises:
        ValueError: anything else.
    """
    found: dict[str, list[float]] = {}
    name = ""
    for part in _cut(text.replace(";", ","), ","):
        before, mark, after = part.rpartition("=")
        name = before.strip() if mark else name
        try:
            number = float(after)
        except ValueError:
            number = float("nan")
        cuts = found.setdefault(name, [])
        if not name or not abs(number) < float("inf") or (cuts and number <= cuts[-1]):
            msg = f"`--{option}` must be names and rising numbers such as 'bmi=18.5,25,30,age=40,65', but got {text!r}"
            raise ValueError(msg)
        cuts.append(number)
    return found


def missing_lists(text: str) -> dict[str, list[str]]:
    """``"NA,?,age=999|-1"``: values that mean "not known", in every column (key `EVERYWHERE`) or in one."""
    found: dict[str, list[str]] = {EVERYWHERE: []}
    for part in _cut(text, ","):
        name, mark, value = part.partition("=")
        if mark and name.strip() and not name.endswith("\\"):
            found.setdefault(name.strip(), []).extend(several(value))
        else:
            found[EVERYWHERE].append(plain(part))
    return found


def plain(text: str) -> str:
    r"""Text without outer blanks and without the ``\`` before marks."""
    return re.sub(r"\\([,=|;:\\])", r"\1", text.strip())


def _cut(text: str, mark: str) -> Iterator[str]:
    r"""Parts between marks that have no ``\`` before them; empty ones are left out."""
    parts = re.split(rf"(?<!\\){re.escape(mark)}", text)
    return (part for part in parts if part.strip())
