"""Methods that are a loss, and at most a way of drawing cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from fairmedfm_monai.losses.constraint import STATISTICS, ConstrainedLoss
from fairmedfm_monai.losses.febs import FEBSLoss
from fairmedfm_monai.losses.group_dro import GroupDROLoss
from fairmedfm_monai.losses.reweighting import ReweightedLoss
from fairmedfm_monai.mitigation.group_method import GroupMethod, positive_index
from fairmedfm_monai.mitigation.options import Option
from fairmedfm_monai.mitigation.resampling import drawing, refuse_many_classes
from fairmedfm_monai.mitigation.samplers import GroupSampler


class Reweighting(GroupMethod):
    """Cases count by the inverse frequency of their group, or of their group and class."""

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "by": Option("group", "whose frequency counts", {"group": "the group's", "group_class": "its classes'"})
    }

    def check(self) -> None:
        """Classes have a frequency where each case has one."""
        if self.options["by"] == "group_class":
            refuse_many_classes(self, "by group_class", instead="by group")

    def group_loss(self, base: nn.Module, network: nn.Module | None) -> nn.Module:
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

    def group_loss(self, base: nn.Module, network: nn.Module | None) -> nn.Module:
        """Group weights start equal."""
        settings = self.option("eta", "adjustment")
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

    def group_loss(self, base: nn.Module, network: nn.Module | None) -> nn.Module:
        """Statistic and strength as chosen."""
        settings = self.option("statistic", "strength")
        return ConstrainedLoss(base, self.num_groups, positive=self._positive(), **settings)

    def _positive(self) -> int | None:
        """Equal opportunity is always about one class, by default the card's."""
        one = self.options["statistic"] == "equal_opportunity" and not self.dataset.multi_label
        return positive_index(self.dataset, self.options["positive_class"], always_one=one)


class FairErrorBound(GroupMethod):
    """Fair error-bound scaling of the Dice loss, right for groups that a batch lacks."""

    OPTIONS: ClassVar[Mapping[str, Option]] = {"gamma": Option(1.0, "exponent of the ratio of errors")}
    published: ClassVar[bool] = False

    def check(self) -> None:
        """There is Dice for masks only."""
        if self.dataset.task != "segmentation":
            msg = f"mitigation {self.name!r} scales Dice: it is for segmentation, but {self.dataset.name!r} has classes"
            raise ValueError(msg)

    def group_loss(self, base: nn.Module, network: nn.Module | None) -> nn.Module:
        """In place of a ``DiceCELoss``."""
        return FEBSLoss.in_place_of(base, self.num_groups, gamma=self.options["gamma"], published=self.published)


class PublishedErrorBound(FairErrorBound):
    """Fair error-bound scaling as the published code computes it."""

    published = True
