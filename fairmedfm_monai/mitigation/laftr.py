"""LAFTR: an adversary keeps the group out of the representation (Madras et al., ICML 2018, arXiv:1802.06309)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.data import Sampler

from fairmedfm_monai.losses.cells import CRITERIA
from fairmedfm_monai.losses.laftr import LAFTRLoss
from fairmedfm_monai.mitigation.case_representation import CaseRepresentation
from fairmedfm_monai.mitigation.group_method import GroupMethod, positive_index
from fairmedfm_monai.mitigation.heads import head_of, last_linear
from fairmedfm_monai.mitigation.mask_heads import training_network
from fairmedfm_monai.mitigation.options import Option


class LAFTR(GroupMethod):
    """The auditor reads what the last linear layer of the head reads, if anything trains below that layer.

    Otherwise (a linear probe, prototypes, slices of which one is chosen) it reads the logits. For masks it reads
    :class:`~fairmedfm_monai.mitigation.case_representation.CaseRepresentation`. It has an optimizer of its own, Adam,
    so that it learns at its own pace whatever optimizer and schedule the network has.
    """

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "criterion": Option(
            None,
            "among which cases groups are to look alike; None = equalised_odds, for masks demographic_parity",
            CRITERIA,
            optional=True,
        ),
        "strength": Option(1.0, "factor of the auditor's reversed gradient"),
        "positive_class": Option(None, "class of equal_opportunity; None = the card's positive class", optional=True),
        "hidden": Option(128, "width of the auditor's hidden layer"),
        "auditor_learning_rate": Option(0.001, "of the auditor's own Adam"),
    }

    representation = ""
    _optimizer: torch.optim.Optimizer | None = None

    def check(self) -> None:
        """Fill in the criterion; masks have no class per case, and a named class must exist."""
        for_masks = self.dataset.task == "segmentation"
        if self.options["criterion"] is None:
            self.options["criterion"] = "demographic_parity" if for_masks else "equalised_odds"
        if not for_masks:
            self._positive()
        elif self.options["criterion"] != "demographic_parity" or self.options["positive_class"] is not None:
            given = {name: self.options[name] for name in ("criterion", "positive_class")}
            msg = (
                "`mitigation_options`: masks have no class per case, so laftr on "
                f"{self.dataset.name!r} needs criterion demographic_parity and no positive_class, but got {given}"
            )
            raise ValueError(msg)

    def sampler(self, cases: Sequence[Mapping[str, Any]], *, whole_set: bool = False) -> Sampler | None:
        """Leaves the drawing to the loader; a search for a minimum does not work against an adversary."""
        if whole_set:
            msg = (
                f"mitigation {self.name!r} trains against an adversary, which this solver (L-BFGS), a search for a "
                "minimum, cannot do: take another `solver`"
            )
            raise ValueError(msg)
        return None

    def group_loss(self, base: nn.Module, network: nn.Module | None) -> nn.Module:
        """Auditor and plain loss."""
        if network is None:
            msg = f"mitigation {self.name!r} needs `network` to make its loss"
            raise ValueError(msg)
        settings = {"seed": self.seed, **self.option("criterion", "strength", "hidden")}
        if self.dataset.task == "segmentation":
            seen = CaseRepresentation(training_network(network))
            self.representation = seen.text
            loss = LAFTRLoss(base, self.num_groups, dim=seen.width, num_labels=0, **settings)
            loss.read(seen.take)
            return loss
        classes, watched = len(self.dataset.classes), _watched(network)
        dim = watched.in_features if watched else classes
        loss = LAFTRLoss(base, self.num_groups, dim=dim, num_labels=classes, positive=self._positive(), **settings)
        self.representation = "input of the head's last linear layer" if watched else "logits"
        if watched:
            loss.watch(watched)
        return loss

    def loss(
        self, base: nn.Module, *, network: nn.Module | None = None, device: torch.device | str = "cpu"
    ) -> nn.Module:
        """Also makes the auditor's optimizer."""
        loss = super().loss(base, network=network, device=device)
        self._optimizer = torch.optim.Adam(loss.parameters(), lr=self.options["auditor_learning_rate"])
        return loss

    def step(self, scale: float = 1.0) -> None:
        """One step of the auditor by the gradient of the last backward pass, which is then forgotten."""
        if self._optimizer is None:
            return
        gradients = [p.grad for group in self._optimizer.param_groups for p in group["params"] if p.grad is not None]
        for gradient in gradients:
            gradient.div_(scale)
        if all(bool(gradient.isfinite().all()) for gradient in gradients):
            self._optimizer.step()
        self._optimizer.zero_grad()

    def describe(self) -> dict[str, Any]:
        """Also what the auditor reads."""
        return super().describe() | {"representation": self.representation}

    def state_dict(self) -> dict[str, Any]:
        """Also the state of the auditor's optimizer."""
        return super().state_dict() | {"optimizer": self._optimizer.state_dict() if self._optimizer else {}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        super().load_state_dict(state)
        if self._optimizer is not None:
            self._optimizer.load_state_dict(dict(state["optimizer"]))

    def _positive(self) -> int | None:
        one = self.options["criterion"] == "equal_opportunity" and not self.dataset.multi_label
        return positive_index(self.dataset, self.options["positive_class"], always_one=one)


def _watched(network: nn.Module) -> nn.Linear | None:
    """The layer whose input is the representation, None = the logits are."""
    found = last_linear(head_of(network))
    if found is None:
        return None
    own = {id(parameter) for parameter in found[1].parameters()}
    below = any(parameter.requires_grad and id(parameter) not in own for parameter in network.parameters())
    return found[1] if below else None
