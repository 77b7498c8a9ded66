"""Names of the kinds of prompts and what they mean.

A name is a base and options, joined by "-": ``box``, ``box-j10``, ``points-n3-neg2``, ``point-d50``, ``center-k5``,
``box-cc``. It names channels, metrics and tables, so it is a slug and stays as the user wrote it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SIMULATED_BASES = ("box", "center", "point", "points", "mask", "text")
USER = "user"
DEFAULT_POINTS = 5
GRAMMAR = (
    "a kind is a base (box, center, point, points, mask, text, user) and options joined by '-': "
    "jN jitter of N % (box, mask; 0..100), nN number of points (points; 1..50), negN background points (box, center, "
    "point, points; 1..50), dN depth of the click in % of the deepest (point; 0..100), spread points far apart "
    "(points), cc one prompt per connected component (all but text), kN correction clicks (all; 1..20); for example "
    "box-j10, points-n3-neg2, point-d50, center-k5, box-cc"
)

# Option -> bases that take it, least and greatest number; None: an option without a number.
_OPTIONS: dict[str, tuple[tuple[str, ...], tuple[int, int] | None]] = {
    "j": (("box", "mask"), (0, 100)),
    "n": (("points",), (1, 50)),
    "neg": (("box", "center", "point", "points"), (1, 50)),
    "d": (("point",), (0, 100)),
    "spread": (("points",), None),
    "cc": (("box", "center", "point", "points", "mask"), None),
    "k": (SIMULATED_BASES, (1, 20)),
}
_OPTION = re.compile(r"([a-z]+)(0|[1-9][0-9]*)?")


@dataclass(frozen=True)
class PromptKind:
    """What a kind asks for.

    Attributes:
        name: as the user wrote it.
        base: one of `SIMULATED_BASES`, or `USER`; decides whether a model was trained for it.
        jitter: in % of the box's own sides (box), or of the greatest depth of the object (mask).
        count: number of object points; 0 for bases without any.
        negatives: number of background points.
        depth: of the click in % of the deepest point (100 the deepest, 0 the border); None = anywhere.
        spread: whether points are spread far apart.
        components: whether each connected component gets a prompt of its own.
        clicks: number of correction clicks after the first prompt.
    """

    name: str
    base: str
    jitter: int = 0
    count: int = 0
    negatives: int = 0
    depth: int | None = None
    spread: bool = False
    components: bool = False
    clicks: int = 0

    @property
    def draw_key(self) -> str:
        """What the random draw of box, object points or mask is keyed by.

        The strengths of a jitter share their draws, scaled, and correction clicks and background points leave the
        first draw as it is. So a sweep compares strengths and not luck (common random numbers).
        """
        parts = [self.base, "j" if self.jitter else ""]
        parts.append(f"n{self.count}" if self.base == "points" and self.count != DEFAULT_POINTS else "")
        parts += ["" if self.depth is None else f"d{self.depth}", "spread" if self.spread else ""]
        return "-".join(filter(None, parts))


def parse_kind(name: str) -> PromptKind:
    """Read a kind's name.

    Raises:
        ValueError: unknown base or option, an option that the base does not take, a number out of its range, or an
            option given twice; the message tells the grammar.
    """
    base, *options = name.split("-") if isinstance(name, str) else [""]
    if base not in (*SIMULATED_BASES, USER):
        msg = f"prompt kind {name!r}: unknown base {base!r}; {GRAMMAR}"
        raise ValueError(msg)
    found: dict[str, int] = {}
    for option in options:
        letters, number = _option(option, base, name)
        if letters in found:
            msg = f"prompt kind {name!r}: option {letters!r} is given twice; {GRAMMAR}"
            raise ValueError(msg)
        found[letters] = number
    counts = {"center": 1, "point": 1, "points": found.get("n", DEFAULT_POINTS)}
    return PromptKind(
        name=name,
        base=base,
        jitter=found.get("j", 0),
        count=counts.get(base, 0),
        negatives=found.get("neg", 0),
        depth=found.get("d"),
        spread="spread" in found,
        components="cc" in found,
        clicks=found.get("k", 0),
    )


def _option(option: str, base: str, name: str) -> tuple[str, int]:
    """Letters and number of one option of the kind `name`; number 0 where there is none."""
    match = _OPTION.fullmatch(option)
    letters, number = match.groups() if match else (option, None)
    if letters not in _OPTIONS or (number is None) != (_OPTIONS[letters][1] is None):
        msg = f"prompt kind {name!r}: unknown option {option!r}; {GRAMMAR}"
        raise ValueError(msg)
    bases, limits = _OPTIONS[letters]
    if base not in bases:
        msg = f"prompt kind {name!r}: {base} takes no option {option!r}; {GRAMMAR}"
        raise ValueError(msg)
    value = int(number or 0)
    if limits is not None and not limits[0] <= value <= limits[1]:
        msg = f"prompt kind {name!r}: {option!r} must be within {limits[0]}..{limits[1]}; {GRAMMAR}"
        raise ValueError(msg)
    return letters, value


def base_of(kind: str) -> str:
    """The base of a kind's name, e.g. box of box-j10; ValueError as in `parse_kind`."""
    return parse_kind(kind).base
