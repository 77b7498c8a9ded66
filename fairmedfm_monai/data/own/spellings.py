"""Spellings that need no explaining, and names made from raw values. Everything that is not here, users must say."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

# Lower case. O is DICOM's code for "other"; numbers are coded both ways round and are not here.
SEX = {
    **dict.fromkeys(("f", "female", "woman"), "female"),
    **dict.fromkeys(("m", "male", "man"), "male"),
    **dict.fromkeys(("o", "other"), "other"),
}
SEX_NAMES = ("sex", "gender")
UNKNOWN_WORDS = ("unknown",)
# Values of a class and its absence.
ABSTRACT_PAIRS = (
    ("0", "1"), ("0.0", "1.0"), ("no", "yes"), ("n", "y"), ("false", "true"), ("negative", "positive"),
    ("neg", "pos"), ("absent", "present"),
)  # fmt: skip
# The same, where the words themselves name the classes.
NAMED_PAIRS = (("normal", "abnormal"), ("benign", "malignant"), ("healthy", "diseased"))
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_LONGEST = 60
_MEANT = frozenset("+<>=≤≥±")  # marks that a name cannot hold and that change what a value means


def slug(text: str) -> str:
    """A name for a raw value, in lower case; empty where it would not tell what the value does (``>5``, ``A+``)."""
    if _MEANT & set(text) or text.strip().endswith("-"):
        return ""
    letters = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    name = re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9.-]+", "_", letters.strip())).strip("_.").lower()
    return name if len(name) <= _LONGEST else ""


def natural(text: str) -> tuple[bool, float, str]:
    """Sort key: numbers first, by size, then texts."""
    try:
        number = float(text)
    except ValueError:
        return True, 0.0, text.casefold()
    return number != number, 0.0 if number != number else number, text  # noqa: PLR0124 (NaN does not equal itself)


def is_number(text: str) -> bool:
    """Whether a raw value is a finite number."""
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False


def is_whole(text: str) -> bool:
    """Whether a raw value is a whole number."""
    return is_number(text) and float(text).is_integer()


def obvious_pair(values: Iterable[str]) -> tuple[str, str] | None:
    """The two values as (absence, presence), where they are one of the known pairs."""
    by_word = {value.casefold(): value for value in values}
    for pair in (*ABSTRACT_PAIRS, *NAMED_PAIRS):
        if set(by_word) == set(pair):
            return by_word[pair[0]], by_word[pair[1]]
    return None
