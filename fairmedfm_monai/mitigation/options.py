"""Options of mitigation methods: what there is, what it means, and whether a given value will do."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        default: value when it is not given; its type is the type of every value (an int will do for a float).
        meaning: half a sentence for the one who chooses.
        choices: value -> meaning, where only some will do.
        optional: whether None will do too.
    """

    default: Any
    meaning: str
    choices: Mapping[str, str] | None = None
    optional: bool = False

    def accepts(self, value: Any) -> bool:
        """Whether a value may be given."""
        if value is None:
            return self.optional
        if self.choices is not None:
            return value in self.choices
        if isinstance(self.default, bool) or isinstance(value, bool):
            return isinstance(self.default, bool) and isinstance(value, bool)
        if isinstance(self.default, float):
            return isinstance(value, (int, float))
        return isinstance(value, str if self.default is None else type(self.default))

    def __str__(self) -> str:
        """Meaning, default and choices, for error messages."""
        choices = "".join(f"; {name}: {meaning}" for name, meaning in (self.choices or {}).items())
        return f"{self.meaning}; default {self.default}{choices}"


def chosen(method: str, known: Mapping[str, Option], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """All options with their values, defaults filled in.

    Raises:
        ValueError: an option that the method does not have, or a value that will not do; lists the valid ones.
    """
    given = given or {}
    listed = "; ".join(f"{name} ({option})" for name, option in known.items()) or "none"
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            msg = f"`mitigation_options`: {method} has no option {name!r}{hint} Its options: {listed}"
            raise ValueError(msg)
        if not known[name].accepts(value):
            msg = f"`mitigation_options`: {name} of {method} cannot be {value!r}. It is: {known[name]}"
            raise ValueError(msg)
    return {name: given.get(name, option.default) for name, option in known.items()}
