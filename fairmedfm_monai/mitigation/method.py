"""What a mitigation method is, and how a training gets one by its name."""

from __future__ import annotations

import difflib
import importlib
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler

from fairmedfm_monai.mitigation.groups import GroupCoder
from fairmedfm_monai.mitigation.options import Option, chosen
from fairmedfm_monai.mitigation.postprocess_rule import POSTPROCESSORS

if TYPE_CHECKING:
    from fairmedfm_monai.data.dataset import DatasetInfo

METHODS = {
    "erm": (".method", "Method", "plain training, nothing is mitigated"),
    "resampling": (".resampling", "Resampling", "groups, classes or both are drawn equally often"),
    "reweighting": (".loss_methods", "Reweighting", "cases count by the inverse frequency of their group"),
    "group_dro": (".loss_methods", "GroupDRO", "the loss of the worst group is minimised (Sagawa et al. 2020)"),
    "fairness_constraint": (".loss_methods", "FairnessConstraint", "a gap between groups is added to the loss"),
    "laftr": (".laftr", "LAFTR", "an adversary keeps the group out of the representation (Madras et al. 2018)"),
    "domain_independent": (".domain_independent", "DomainIndependent", "one head per group (Wang et al. 2020)"),
    "febs": (".loss_methods", "FairErrorBound", "Dice of worse groups is raised (Tian et al. 2024); segmentation"),
    "febs_published": (".loss_methods", "PublishedErrorBound", "the same as the published code computes it"),
}
"""Name -> module, class and meaning."""

_LOGGER = logging.getLogger(__name__)


class Method:
    """A way of training. This one is ``erm``, which changes nothing; the others are its subclasses.

    A training asks it for a sampler and a loss and, through the handler ``GroupCodes``, for the groups of each batch.

    Args:
        name: as in ``METHODS``.
        dataset: gives the groups and the training cases.
        attributes: whose groups are meant; see :class:`~fairmedfm_monai.mitigation.groups.GroupCoder`.
        options: of the method; see ``OPTIONS``.
        seed: of samplers.

    Attributes:
        needs_attribute_at_inference: whether a trained model must be told the group of a patient.

    Raises:
        ValueError: options or attributes that there are not.
    """

    OPTIONS: ClassVar[Mapping[str, Option]] = {}
    needs_attribute_at_inference: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        dataset: DatasetInfo,
        *,
        attributes: Sequence[str] | str | None = None,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.dataset = dataset
        self.options = chosen(name, self.OPTIONS, options)
        self.seed = seed
        self.check()
        self.coder = GroupCoder(dataset, attributes) if self.uses_groups else None
        self._loss: nn.Module | None = None
        if self.coder is not None and self.coder.unseen():
            _LOGGER.warning("mitigation %s: no training case in group %s", name, ", ".join(self.coder.unseen()))

    @property
    def uses_groups(self) -> bool:
        """Whether the attribute matters; of ``erm`` it does not."""
        return False

    def check(self) -> None:
        """Refuse options that do not go together, or with the dataset (``ValueError``)."""

    def sampler(self, cases: Sequence[Mapping[str, Any]], *, whole_set: bool = False) -> Sampler | None:
        """What draws the cases of an epoch; None leaves that to the data loader.

        Args:
            cases: the dicts that the loader's dataset is made of, in its order.
            whole_set: whether the optimizer needs all cases in one batch, as L-BFGS does.

        Raises:
            ValueError: a method that the optimizer makes impossible.
        """
        return None

    def prepare(self, network: nn.Module) -> nn.Module:
        """The whole model as it is trained, changed in place where the method changes it."""
        return network

    def plain(self, state: Any) -> Any:
        """What becomes model.pt, given the object whose ``state_dict`` is that of the trained model."""
        return state

    def loss(
        self, base: nn.Module, *, network: nn.Module | None = None, device: torch.device | str = "cpu"
    ) -> nn.Module:
        """What is minimised, made of the plain loss; of ``erm`` the plain loss itself.

        Args:
            base: takes ``pred`` and ``target``.
            network: what trains; only some methods look at it.
            device: where the training computes.
        """
        self._loss = self.group_loss(base, network).to(device)
        return self._loss

    def group_loss(self, base: nn.Module, network: nn.Module | None) -> nn.Module:
        """The method's own loss."""
        return base

    def step(self, scale: float = 1.0) -> None:
        """Train what the method itself has to train, after each step of the optimizer.

        Args:
            scale: factor of the loss in mixed precision.
        """

    def codes(self, batch: Mapping[str, Any]) -> Tensor:
        """Group codes (B,) of a collated batch.

        Raises:
            ValueError: for a method without groups, or when the batch holds no ``attributes``.
        """
        if self.coder is None or "attributes" not in batch:
            msg = f"mitigation {self.name!r} gives codes of `attributes`, but the batch holds {', '.join(batch)}"
            raise ValueError(msg)
        return self.coder.codes(batch["attributes"])

    def describe(self) -> dict[str, Any]:
        """Name, groups with their training cases, options and what inference needs, as JSON."""
        about: dict[str, Any] = {
            "name": self.name,
            "text": self.text,
            "needs_attribute_at_inference": self.needs_attribute_at_inference,
            "options": dict(self.options),
        }
        if self.coder is not None:
            counts = dict(zip(self.coder.names, self.coder.counts().tolist(), strict=True))
            unknown = len(self.dataset.cases("train")) - sum(counts.values())
            about |= {"attributes": self.coder.attributes, "groups": counts, "unknown": unknown}
        return about

    @property
    def text(self) -> str:
        """One line for people."""
        by = f" by {' x '.join(self.coder.attributes)}" if self.coder else ""
        options = ", ".join(f"{name} {value}" for name, value in self.options.items())
        needs = "needs the attribute" if self.needs_attribute_at_inference else "needs no attribute"
        listed = f" ({options})" if options else ""
        return f"{self.name}{by}{listed}; {needs} at inference"

    def state_dict(self) -> dict[str, Any]:
        """What moves in training besides the network, e.g. group weights."""
        return {"name": self.name, "loss": self._loss.state_dict() if self._loss is not None else {}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`.

        Raises:
            ValueError: the state of another method, or of other groups.
        """
        if state["name"] != self.name:
            msg = f"`resume` is a training with mitigation {state['name']!r}, this one is {self.name!r}: give the same"
            raise ValueError(msg)
        if self._loss is None:
            return
        try:
            self._loss.load_state_dict(state["loss"])
        except RuntimeError as error:
            msg = f"`resume` is a training with mitigation {self.name!r} of other groups or options ({error})"
            raise ValueError(msg) from error


def make_method(
    name: str,
    dataset: DatasetInfo,
    *,
    attributes: Sequence[str] | str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Method:
    """The mitigation method of a name.

    Args:
        name: a key of ``METHODS``.
        dataset: the loaded dataset.
        attributes: attribute (list, or text with commas; several are crossed) whose groups are meant; None = the first.
        options: of the method.
        seed: of samplers.

    Raises:
        ValueError: an unknown method, option or attribute; lists the valid ones with their meaning.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(str(name), [*METHODS, *POSTPROCESSORS], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        listed = "; ".join(f"{key} ({meaning})" for key, (_, _, meaning) in METHODS.items())
        msg = (
            f"`mitigation` must be one of the methods below, but got {name!r}.{hint} Methods: {listed}. "
            f"After training, on a table of predictions: {', '.join(POSTPROCESSORS)} "
            "(python -m fairmedfm_monai evaluate eval/predictions.parquet --mitigation NAME)"
        )
        raise ValueError(msg)
    module, kind, _ = METHODS[name]
    found: type[Method] = getattr(importlib.import_module(module, __package__), kind)
    return found(name, dataset, attributes=attributes, options=options, seed=seed)
