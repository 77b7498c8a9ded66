"""What all losses that know groups share: the codes of the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fairmedfm_monai.losses.groups import LossFunction


class GroupLoss(nn.Module):
    """A loss that knows the group of each case.

    It is called as any loss, ``loss(pred, target)``, after :meth:`set_codes` gave it the groups of the batch. Codes are
    used once: a second call needs them again, so that codes of an earlier batch are never taken for this one's.
    Subclasses write :meth:`compute`.

    Args:
        loss_function: the plain loss of ``pred`` and ``target``.
        num_groups: number G of groups.

    Raises:
        ValueError: for fewer than one group.
    """

    def __init__(self, loss_function: LossFunction, num_groups: int) -> None:
        super().__init__()
        if num_groups < 1:
            msg = f"`num_groups` must be at least 1, but got {num_groups}"
            raise ValueError(msg)
        self.loss_function = loss_function
        self.num_groups = num_groups
        self.codes: Tensor | None = None

    def set_codes(self, codes: Tensor | Sequence[int]) -> None:
        """Groups of the next batch.

        Args:
            codes: (B,) integers 0..G-1, -1 = unknown.

        Raises:
            ValueError: for other shapes, types or values.
        """
        given = torch.as_tensor(codes)
        if given.ndim != 1 or given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
            msg = f"`codes` must be integers (B,), but got {given.dtype} of shape {tuple(given.shape)}"
            raise ValueError(msg)
        if len(given) and not -1 <= int(given.min()) <= int(given.max()) < self.num_groups:
            msg = (
                f"`codes` must be 0..{self.num_groups - 1}, or -1 for unknown, but got values from {int(given.min())} "
                f"to {int(given.max())}"
            )
            raise ValueError(msg)
        self.codes = given.long()

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss () of the batch whose codes were set.

        Args:
            pred: (B, ...) logits.
            target: (B, ...) as the plain loss wants it.

        Raises:
            ValueError: when no codes were set since the last call, or not one per case.
        """
        codes = self._take_codes(len(pred)).to(pred.device)
        # MONAI's images carry meta data through every operation, which nothing here needs.
        return self.compute(pred.as_subclass(Tensor), target.as_subclass(Tensor), codes)

    def compute(self, pred: Tensor, target: Tensor, codes: Tensor) -> Tensor:
        """Loss () of logits (B, ...), targets (B, ...) and codes (B,)."""
        raise NotImplementedError

    def _take_codes(self, count: int) -> Tensor:
        codes, self.codes = self.codes, None
        if codes is None:
            msg = (
                f"{type(self).__name__} does not know the groups of this batch: call set_codes(codes) before each call "
                "(in a bundle the handler `GroupCodes` does it; the batch needs `attributes`)"
            )
            raise ValueError(msg)
        if len(codes) != count:
            msg = f"{type(self).__name__} got codes of {len(codes)} cases, but a batch of {count}"
            raise ValueError(msg)
        return codes
