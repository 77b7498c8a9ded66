"""Methods that are a loss, and at most a way of drawing cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from fairmedfm_monai.losses.constraint import STATISTICS, ConstrainedLoss
from fairmedfm_monai.losses.group_dro import GroupDROLoss
from fairmedfm_monai.losses.reweighting import ReweightedLoss
from fairmedfm_monai.mitigation.groups import GroupCoder
from fairmedfm_monai.mitigation.method import Method
from fairmedfm_monai.mitigation.options import Option
from fairmedfm_monai.mitigation.resampling import drawing, refuse_many_classes
from fairmedfm_monai.mitigation.samplers import BY, GroupSampler


class GroupMethod(Method):
    """A method that always looks at groups."""

    uses_groups = True
    coder: GroupCoder

    @property
    def num_groups(self) -> int:
        """G."""
        return self.coder.num_groups


class Reweighting(GroupMethod):
    """Cases count by the inverse frequency of their group, or of their group and class."""

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "by": Option("group", "whose frequency counts", {name: BY[name] for name in ("group", "group_class")})
    }

    def check(self) -> None:
        """Classes have a frequency where each case has one."""
        if self.options["by"] == "group_class":
            refuse_many_classes(self, "by group_class", instead="by group")

    def group_loss(self, base: nn.Module) -> nn.Module:
        """Weights from the training cases."""
        counts = self.coder.counts() if self.options["by"] == "group" else self.coder.class_counts()
        return ReweightedLoss(base, counts)


class GroupDRO(GroupMethod):
    """The weights of the groups grow with their losses; with ``balanced``, groups come equally often, too."""

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "eta": Option(0.01, "step size of the group weights"),
        "adjustment": Option(0.0, "C of the size adjustment C / sqrt(n_g)"),
        "balanced": Option(True, "draw every group equally often, as in algorithm 1 of the paper"),
    }

    def sampler(self, cases: Sequence[Mapping[str, Any]], *, whole_set: bool = False) -> GroupSampler | None:
        """Draws by group where that is asked for."""
        return drawing(self, self.coder, cases, by="group", whole_set=whole_set) if self.options["balanced"] else None

    def group_loss(self, base: nn.Module) -> nn.Module:
        """Group weights start equal."""
        settings = {name: self.options[name] for name in ("eta", "adjustment")}
        return GroupDROLoss(base, self.num_groups, group_sizes=self.coder.counts(), **settings)


class FairnessConstraint(GroupMethod):
    """The plain loss plus a differentiable gap between the groups of a batch."""

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "statistic": Option("equalised_odds", "what is to be equal between groups", STATISTICS),
        "strength": Option(1.0, "factor of the gap"),
        "positive_class": Option(None, "class or label whose rates count; None = each against the rest", optional=True),
    }

    def check(self) -> None:
        """Masks have no rates; a named class must exist."""
        if self.dataset.task == "segmentation" and self.options["statistic"] != "loss":
            msg = (
                "`mitigation_options`: masks have no rates of classes, so fairness_constraint on "
                f"{self.dataset.name!r} needs statistic loss, but got {self.options['statistic']!r}"
            )
            raise ValueError(msg)
        self._positive()

    def group_loss(self, base: nn.Module) -> nn.Module:
        """Statistic and strength as chosen."""
        settings = {name: self.options[name] for name in ("statistic", "strength")}
        return ConstrainedLoss(base, self.num_groups, positive=self._positive(), **settings)

    def _positive(self) -> int | None:
        """Index of the class whose rates count; equal opportunity is always about one, by default the card's."""
        name, classes = self.options["positive_class"], self.dataset.classes
        one = self.options["statistic"] == "equal_opportunity" and not self.dataset.multi_label
        if name is None and one:
            name = self.dataset.positive_class or classes[-1]
        if name is not None and name not in classes:
            msg = f"`mitigation_options`: positive_class must be one of {', '.join(classes)}, but got {name!r}"
            raise ValueError(msg)
        return None if name is None else classes.index(name)
