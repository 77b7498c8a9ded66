"""Cells of fairness criteria: group x condition, and means in them.

Classes are exclusive when the target holds class indices (B,), and labels are independent when it holds 0/1 in the
shape of the logits (B, K).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fairmedfm_monai.losses.groups import full_precision, group_sums

CRITERIA = {
    "demographic_parity": "everyone, whatever the truth (Dwork et al. 2012)",
    "equal_opportunity": "cases of the positive class only (Hardt et al. 2016)",
    "equalised_odds": "cases of each class by themselves (Hardt et al. 2016)",
}


def check_criterion(name: str, value: str, choices: dict[str, str]) -> None:
    """Refuse what is not offered.

    Raises:
        ValueError: listing the choices and what they mean.
    """
    if value not in choices:
        offered = "; ".join(f"{choice}: {meaning}" for choice, meaning in choices.items())
        msg = f"`{name}` must be one of {', '.join(choices)}, but got {value!r} ({offered})"
        raise ValueError(msg)


def is_exclusive(pred: Tensor, target: Tensor) -> bool:
    """Whether a target holds one class per case.

    Raises:
        ValueError: for anything but class indices (B,) or 0/1 labels (B, K) beside logits (B, K).
    """
    if pred.ndim == 2 and target.ndim == 1 and not target.is_floating_point():
        return True
    if pred.ndim == 2 and target.shape == pred.shape:
        return False
    msg = (
        "rates of a classification need logits (B, K) with class indices (B,) or 0/1 labels (B, K), but got "
        f"{tuple(pred.shape)} with {tuple(target.shape)} {target.dtype}"
    )
    raise ValueError(msg)


def truth(pred: Tensor, target: Tensor) -> Tensor:
    """0/1 (B, K): one column per class or label."""
    labels = functional.one_hot(target, pred.shape[1]) if is_exclusive(pred, target) else target
    return labels.to(full_precision(pred).dtype)


def probabilities(pred: Tensor, target: Tensor) -> Tensor:
    """Probabilities (B, K): softmax of exclusive classes, sigmoid of independent labels."""
    logits = full_precision(pred)
    return logits.softmax(1) if is_exclusive(pred, target) else logits.sigmoid()


def positive_column(table: Tensor, positive: int | None) -> Tensor:
    """The column (B, 1) of one class of a table (B, K), or all of it.

    Raises:
        ValueError: when there is no such column.
    """
    if positive is None:
        return table
    if not 0 <= positive < table.shape[1]:
        msg = f"`positive` must be the index of one of {table.shape[1]} classes, but got {positive}"
        raise ValueError(msg)
    return table[:, positive : positive + 1]


def cell_means(values: Tensor, conditions: Tensor, codes: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Means (G, K) of values over the cases of each group that meet each condition, and (G, K) whether there are any.

    Args:
        values: (B, K), or (B, 1) for the same under every condition.
        conditions: (B, K) 0/1.
        codes: (B,) int64, -1 = unknown.
        num_groups: G.
    """
    counts = group_sums(conditions, codes, num_groups)
    present = counts > 0
    return group_sums(values * conditions, codes, num_groups) / torch.where(present, counts, 1), present
