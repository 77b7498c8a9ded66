"""Problems of a dataset folder, collected first and told together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SHOWN = 5  # examples spelled out per problem; the count is always complete


@dataclass(frozen=True)
class Problem:
    """One finding about a dataset folder.

    Attributes:
        kind: short machine-readable name, e.g. ``"missing_file"``.
        message: one sentence: what was expected, what came, and what to do.
        level: ``"error"`` stops a run, ``"warning"`` is counted and told.
    """

    kind: str
    message: str
    level: str = "error"


class DatasetError(ValueError):
    """A dataset folder that cannot be used; the message lists every problem found.

    Attributes:
        problems: all findings, warnings included.
    """

    def __init__(self, source: object, problems: Sequence[Problem]) -> None:
        self.source = str(source)
        self.problems = list(problems)
        errors = [problem.message for problem in problems if problem.level == "error"]
        count = "1 problem" if len(errors) == 1 else f"{len(errors)} problems"
        super().__init__(f"{source}: {count}\n" + "\n".join(f"  - {message}" for message in errors))

    def __reduce__(self) -> tuple[type[DatasetError], tuple[str, list[Problem]]]:
        return type(self), (self.source, self.problems)  # loader workers send exceptions as pickles


def raise_errors(source: object, problems: Sequence[Problem]) -> None:
    """Raise `DatasetError` when one of the problems is an error."""
    if any(problem.level == "error" for problem in problems):
        raise DatasetError(source, problems)


def examples(items: Iterable[object], total: int | None = None) -> str:
    """Join the first few items as text and say how many more there are.

    Args:
        items: all items, or the first few of `total`.
        total: number of all items; by default those given.
    """
    listed = [str(item) for item in items]
    rest = (len(listed) if total is None else total) - min(SHOWN, len(listed))
    return ", ".join(listed[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
