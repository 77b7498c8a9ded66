"""Resampling: groups, classes, or both are drawn equally often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from fairmedfm_monai.mitigation.method import Method
from fairmedfm_monai.mitigation.options import Option
from fairmedfm_monai.mitigation.samplers import BY, GroupSampler

if TYPE_CHECKING:
    from fairmedfm_monai.mitigation.groups import GroupCoder


class Resampling(Method):
    """Plain loss on cases drawn by :class:`~fairmedfm_monai.mitigation.samplers.GroupSampler`."""

    OPTIONS: ClassVar[Mapping[str, Option]] = {"by": Option("group", "what is drawn equally often", BY)}

    @property
    def uses_groups(self) -> bool:
        """Classes alone are drawn without a look at the attribute."""
        return bool(self.options["by"] != "class")

    def check(self) -> None:
        """Classes can be balanced where each case has one."""
        if self.options["by"] != "group":
            refuse_many_classes(self, f"by {self.options['by']}", instead="by group")

    def sampler(self, cases: Sequence[Mapping[str, Any]], *, whole_set: bool = False) -> GroupSampler:
        """Draws with replacement, seeded per epoch."""
        return drawing(self, self.coder, cases, by=self.options["by"], whole_set=whole_set)


def drawing(
    method: Method, coder: GroupCoder | None, cases: Sequence[Mapping[str, Any]], *, by: str, whole_set: bool
) -> GroupSampler:
    """The sampler of a method that draws.

    Raises:
        ValueError: when the optimizer needs all cases in one batch.
    """
    if whole_set:
        msg = (
            f"mitigation {method.name!r} with {method.options} draws cases, but this solver (L-BFGS) needs every case "
            "once: take another `solver`, or a method that weighs cases instead, such as reweighting"
        )
        raise ValueError(msg)
    labels = [int(case["label"]) for case in cases] if by != "group" else None
    codes = [0] * len(cases) if coder is None else coder.codes([case["attributes"] for case in cases])
    return GroupSampler(codes, labels, by=by, seed=method.seed)


def refuse_many_classes(method: Method, what: str, *, instead: str) -> None:
    """Stop where a case has no single class.

    Raises:
        ValueError: for segmentation and independent labels.
    """
    if method.dataset.task == "segmentation" or method.dataset.multi_label:
        found = "masks" if method.dataset.task == "segmentation" else "independent labels"
        msg = (
            f"`mitigation_options`: {method.name} {what} needs one class per case, but dataset "
            f"{method.dataset.name!r} has {found}: take {instead}"
        )
        raise ValueError(msg)
