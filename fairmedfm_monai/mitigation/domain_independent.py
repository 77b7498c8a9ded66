"""Domain-independent training: one head per group (Wang et al., CVPR 2020, arXiv:1911.11834)."""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import Tensor, nn

from fairmedfm_monai.losses.domain_independent import DomainIndependentHead, DomainIndependentLoss
from fairmedfm_monai.mitigation.group_method import GroupMethod
from fairmedfm_monai.mitigation.heads import last_linear


class DomainIndependent(GroupMethod):
    """The head's last linear layer is trained once per group; model.pt holds the mean of these layers.

    The mean of linear layers gives the mean of their logits, which is what inference without the attribute asks for:
    the trained model is a plain one, and nobody has to tell it the group of a patient. All layers start alike.
    """

    _place = "head"

    def check(self) -> None:
        """Masks have no such head."""
        if self.dataset.task == "segmentation":
            msg = f"mitigation {self.name!r} is for classification, but dataset {self.dataset.name!r} has masks"
            raise ValueError(msg)

    def prepare(self, network: nn.Module) -> nn.Module:
        """Put one layer per group in place of the last one.

        A group that is never seen is refused: its layer would be averaged in untrained.

        Raises:
            ValueError: a head that does not end in a linear layer, or a group without training cases.
        """
        unseen = ", ".join(self.coder.unseen())
        if unseen:
            msg = f"mitigation {self.name!r} needs training cases of every group, but there is none of {unseen}"
            raise ValueError(msg)
        found = last_linear(network.get_submodule("head"))
        if found is None:
            msg = (
                f"mitigation {self.name!r} needs a head that ends in a linear layer, which that of "
                f"{type(network).__name__} here does not (prototypes, adapters, slices pooled by `max`)"
            )
            raise ValueError(msg)
        name, layer = found
        self._place = f"head.{name}".rstrip(".")
        parent, _, last = self._place.rpartition(".")
        heads = DomainIndependentHead.of(lambda: copy.deepcopy(layer), self.num_groups)
        setattr(network.get_submodule(parent), last, heads)
        return network

    def plain(self, state: Any) -> MeanHeads:
        """The trained model with the mean of the groups' layers."""
        return MeanHeads(state, place=self._place)

    def group_loss(self, base: nn.Module, network: nn.Module | None) -> nn.Module:
        """Each case by the layer of its own group."""
        return DomainIndependentLoss(base, self.num_groups)


class MeanHeads:
    """The state of a model in which the layers side by side at one place are one layer again.

    Args:
        source: its ``state_dict()`` is that of the model as trained.
        place: name of the module that holds them, whose ``heads.0.weight``, ... become its ``weight``.
    """

    def __init__(self, source: Any, *, place: str) -> None:
        self._source = source
        self._heads = re.compile(rf"{re.escape(place)}\.heads\.\d+\.(\w+)")
        self._place = place

    def state_dict(self) -> dict[str, Tensor]:
        """Names and values of the plain model, in its order."""
        plain: dict[str, list[Tensor]] = {}
        for name, value in self._source.state_dict().items():
            found = self._heads.fullmatch(name)
            plain.setdefault(f"{self._place}.{found[1]}" if found else name, []).append(value)
        return {name: torch.stack(values).mean(0) if len(values) > 1 else values[0] for name, values in plain.items()}
