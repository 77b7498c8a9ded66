"""Methods that always look at groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fairmedfm_monai.mitigation.groups import GroupCoder
from fairmedfm_monai.mitigation.method import Method

if TYPE_CHECKING:
    from fairmedfm_monai.data.dataset import DatasetInfo


def positive_index(dataset: DatasetInfo, name: str | None, *, always_one: bool) -> int | None:
    """Index of the class whose rates count, None = each against the rest.

    Args:
        dataset: has the classes.
        name: ``positive_class`` of the options.
        always_one: take the card's positive class, or the last, when none is named.

    Raises:
        ValueError: no such class.
    """
    classes: Sequence[str] = dataset.classes
    if name is None and always_one:
        name = dataset.positive_class or classes[-1]
    if name is not None and name not in classes:
        msg = f"`mitigation_options`: positive_class must be one of {', '.join(classes)}, but got {name!r}"
        raise ValueError(msg)
    return None if name is None else classes.index(name)


class GroupMethod(Method):
    """A method that looks at groups whatever its options are."""

    coder: GroupCoder

    @property
    def uses_groups(self) -> bool:
        """Yes."""
        return True

    @property
    def num_groups(self) -> int:
        """G."""
        return self.coder.num_groups

    def option(self, *names: str) -> dict[str, Any]:
        """Some of the options."""
        return {name: self.options[name] for name in names}
