"""Which group of patients each case belongs to, as codes that samplers and losses compute with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fairmedfm_monai.data.card_checks import did_you_mean

if TYPE_CHECKING:
    from fairmedfm_monai.data.dataset import DatasetInfo

UNKNOWN = -1
CROSSING = "__"  # as in the names of intersections everywhere


class GroupCoder:
    """Codes 0..G-1 of the groups of one attribute, or of several attributes crossed; -1 where the group is unknown.

    Args:
        dataset: gives the attributes with their groups, in the card's order.
        attributes: names of attributes (a list, or text with commas); several are crossed: ``["sex", "age"]`` has the
            groups ``female__lt60``, ``female__ge60``, ... None is the first attribute that the dataset has.

    Attributes:
        attributes: the names, in the order given.
        names: group names; the position is the code.

    Raises:
        ValueError: a name that the dataset does not have, a name given twice, or no attribute at all.
    """

    def __init__(self, dataset: DatasetInfo, attributes: Sequence[str] | str | None = None) -> None:
        self.attributes = _chosen(dataset, attributes)
        self._dataset = dataset
        self._groups = [list(dataset.attributes[name]) for name in self.attributes]
        self.names = [""]
        for groups in self._groups:
            self.names = [CROSSING.join(filter(None, (before, group))) for before in self.names for group in groups]
        self._code = {name: code for code, name in enumerate(self.names)}

    @property
    def num_groups(self) -> int:
        """G."""
        return len(self.names)

    def codes(self, attributes: Mapping[str, Sequence[str]] | Sequence[Mapping[str, str]]) -> Tensor:
        """Codes (N,) int64 of N cases.

        Args:
            attributes: what cases hold under ``attributes``: one dict per case, or the one dict of lists (N,) that
                collating makes of them.

        Raises:
            KeyError: cases without one of the attributes.
            ValueError: a group that the card does not have.
        """
        if isinstance(attributes, Mapping):
            columns = [attributes[name] for name in self._present(attributes)]
        else:
            columns = [[case[name] for case in attributes if self._present(case)] for name in self.attributes]
        return torch.tensor([self._code_of(groups) for groups in zip(*columns, strict=True)], dtype=torch.int64)

    def training(self) -> Tensor:
        """Codes (n,) of the training cases, in the order of ``dataset.cases("train")``."""
        return self.codes([case["attributes"] for case in self._dataset.cases("train")])

    def counts(self) -> Tensor:
        """Training cases per group, (G,) int64; those of unknown group are in none."""
        codes = self.training()
        return torch.bincount(codes[codes >= 0], minlength=self.num_groups)

    def unseen(self) -> list[str]:
        """Names of groups without training cases."""
        return [name for name, count in zip(self.names, self.counts().tolist(), strict=True) if not count]

    def class_counts(self) -> Tensor:
        """Training cases per group and class, (G, C) int64; of independent labels, those that have the label."""
        labels = one_hot([case["label"] for case in self._dataset.cases("train")], len(self._dataset.classes))
        codes = self.training()
        counts = torch.zeros(self.num_groups, labels.shape[1], dtype=torch.int64)
        return counts.index_add_(0, codes[codes >= 0], labels[codes >= 0])

    def _present(self, attributes: Mapping[str, Any]) -> list[str]:
        missing = [name for name in self.attributes if name not in attributes]
        if missing:
            msg = f"cases must hold the attribute {missing[0]!r} under `attributes`, but hold {sorted(attributes)}"
            raise KeyError(msg)
        return self.attributes

    def _code_of(self, groups: Sequence[str]) -> int:
        known = [group in allowed for group, allowed in zip(groups, self._groups, strict=True)]
        if all(known):
            return self._code[CROSSING.join(groups)]
        for name, group, allowed in zip(self.attributes, groups, self._groups, strict=True):
            if group not in allowed and group != "unknown":
                msg = f"attribute {name!r}: expected one of {', '.join(allowed)} or unknown, but got {group!r}"
                raise ValueError(msg)
        return UNKNOWN


def one_hot(labels: Sequence[Any], num_classes: int) -> Tensor:
    """Class indices, or vectors (C,) of independent labels, as (N, C) int64."""
    rows = torch.stack([torch.as_tensor(label) for label in labels]).long()
    return rows if rows.ndim > 1 else torch.nn.functional.one_hot(rows, num_classes)


def _chosen(dataset: DatasetInfo, attributes: Sequence[str] | str | None) -> list[str]:
    there = list(dataset.attributes)
    if not there:
        msg = f"dataset {dataset.name!r} has no attribute to mitigate by: add one to its card, or use erm"
        raise ValueError(msg)
    if attributes is None:
        return there[:1]
    split = attributes.split(",") if isinstance(attributes, str) else attributes
    names = [str(name).strip() for name in split]
    for name in names:
        if name not in there:
            hint = did_you_mean(name, there)
            msg = f"`mitigation_attributes`: no attribute {name!r}{hint}; `attributes` selects {', '.join(there)}"
            raise ValueError(msg)
    if not names or len(set(names)) < len(names):
        msg = f"`mitigation_attributes` must name at least one attribute, each once, but got {names}"
        raise ValueError(msg)
    return names
