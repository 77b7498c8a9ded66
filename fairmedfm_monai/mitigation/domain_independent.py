"""Domain-independent training: one head per group (Wang et al., CVPR 2020, arXiv:1911.11834)."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fairmedfm_monai.losses.domain_independent import (
    DomainIndependentHead,
    DomainIndependentLoss,
    GroupLayers,
    GroupLayersLoss,
    GroupTurn,
)
from fairmedfm_monai.mitigation.group_method import GroupMethod
from fairmedfm_monai.mitigation.heads import last_linear
from fairmedfm_monai.mitigation.mask_heads import last_layers, training_network
from fairmedfm_monai.networks.checkpoint import load_checked, read_checkpoint


class DomainIndependent(GroupMethod):
    """The last linear layer is trained once per group; model.pt holds the mean of these layers.

    The mean of linear layers gives the mean of their logits, which is what inference without the attribute asks for:
    the trained model is a plain one, and nobody has to tell it the group of a patient. All layers start alike. Of a
    classifier it is the head's last layer. Of a mask decoder it is the last layer of each of the small networks that
    weigh the upscaled features: the decoder's logits are linear in them, and so is all that comes after them (but for
    MedSAM, which resizes probabilities).
    """

    _places: tuple[str, ...] = ()
    _network: nn.Module
    _turn: GroupTurn

    def prepare(self, network: nn.Module) -> nn.Module:
        """Put one layer per group in place of the last one.

        A group that is never seen is refused: its layer would be averaged in untrained.

        Raises:
            ValueError: a network that does not end in linear layers, or a group without training cases.
        """
        unseen = ", ".join(self.coder.unseen())
        if unseen:
            msg = f"mitigation {self.name!r} needs training cases of every group, but there is none of {unseen}"
            raise ValueError(msg)
        self._turn = GroupTurn()
        for_masks = self.dataset.task == "segmentation"
        layers = self._mask_layers(network) if for_masks else self._head_layer(network)
        for place, layer in layers.items():
            copies: list[nn.Module] = [copy.deepcopy(layer) for _ in range(self.num_groups)]
            several = GroupLayers(copies, self._turn) if for_masks else DomainIndependentHead(copies)
            _put(network, place, several.train(layer.training))
        self._network, self._places = network, tuple(layers)
        return network

    def plain(self, state: Any) -> MeanState:
        """The trained model with the mean of the groups' layers."""
        return MeanState(state, self._network, places=self._places)

    def group_loss(self, base: nn.Module, network: nn.Module | None) -> nn.Module:
        """Each case by the layer of its own group."""
        if self.dataset.task != "segmentation":
            return DomainIndependentLoss(base, self.num_groups)
        if network is None or not self._places:
            msg = f"mitigation {self.name!r} needs a network, prepared, to make its loss"
            raise ValueError(msg)
        training_network(network).on_case = lambda row, _: self._turn.of(row)
        return GroupLayersLoss(base, self.num_groups, self._turn)

    def _head_layer(self, network: nn.Module) -> dict[str, nn.Linear]:
        found = last_linear(network.get_submodule("head"))
        if found is None:
            msg = (
                f"mitigation {self.name!r} needs a head that ends in a linear layer, which that of "
                f"{type(network).__name__} here does not (prototypes, adapters, slices pooled by `max`)"
            )
            raise ValueError(msg)
        name, layer = found
        return {f"head.{name}".rstrip("."): layer}

    def _mask_layers(self, network: nn.Module) -> dict[str, nn.Linear]:
        found = last_layers(network)
        if found is None:
            msg = (
                f"mitigation {self.name!r} needs a mask decoder of SAM's make, whose logits are linear in the last "
                f"layer of each of its `output_hypernetworks_mlps`, which that of {type(network).__name__} is not"
            )
            raise ValueError(msg)
        return found


class MeanState:
    """The state of a model in which each layer of groups is one layer again: their mean.

    Args:
        source: its ``state_dict()`` is that of the model as trained, e.g. with adapters merged.
        network: the model, with layers of groups at some places.
        places: names of the modules that hold them.
    """

    def __init__(self, source: Any, network: nn.Module, *, places: Sequence[str]) -> None:
        self._source = source
        self._network = network
        self._places = places

    def state_dict(self) -> dict[str, Tensor]:
        """Names and values of the plain model, in its order; of that is what the source writes beside, too."""
        with self._plainly(_mean_layer):
            return dict(self._source.state_dict())

    def start(self, checkpoint: str | Path) -> None:
        """Go on from a plain model: the layers of all groups begin as its layer.

        Args:
            checkpoint: its ``model.pt``.

        Raises:
            WeightsError: a checkpoint of another model.
        """
        with self._plainly(_first_layer) as several:
            if isinstance(self._source, nn.Module):
                load_checked(self._source, read_checkpoint(Path(checkpoint)), origin=str(checkpoint))
            else:
                self._source.start(checkpoint)
        for first, *others in several:
            for layer in others:
                layer.load_state_dict(first.state_dict())

    @contextlib.contextmanager
    def _plainly(self, one: Callable[[nn.ModuleList], nn.Module]) -> Iterator[list[nn.ModuleList]]:
        """One layer in place of those of the groups for a while; gives the latter."""
        held = {place: self._network.get_submodule(place) for place in self._places}
        several = [cast(nn.ModuleList, module.heads) for module in held.values()]
        for place, layers in zip(held, several, strict=True):
            _put(self._network, place, one(layers))
        try:
            yield several
        finally:
            for place, module in held.items():
                _put(self._network, place, module)


def _put(network: nn.Module, place: str, module: nn.Module) -> None:
    parent, _, last = place.rpartition(".")
    setattr(network.get_submodule(parent), last, module)


def _first_layer(layers: nn.ModuleList) -> nn.Module:
    return layers[0]


def _mean_layer(layers: nn.ModuleList) -> nn.Module:
    """A new layer with the mean of the layers' parameters."""
    mean = copy.deepcopy(layers[0])
    with torch.no_grad():
        for name, parameter in mean.named_parameters():
            parameter.copy_(torch.stack([layer.get_parameter(name) for layer in layers]).mean(0))
    return mean
