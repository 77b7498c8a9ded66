"""Drawing cases so that every group, every class, or every class of every group comes equally often."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

BY = {
    "group": "every group equally often",
    "class": "every class equally often",
    "group_class": "every class of every group equally often",
}


class GroupSampler(DistributedSampler):
    """Draws with replacement; an epoch is as long as the data.

    The weight of a case is 1 over the number of cases of its cell (group, class, or both), so that each cell that has
    cases has the same share of the draw. A case of unknown group has the mean weight of the others: together the
    unknown keep the share that they have in the data.

    MONAI's engines call ``set_epoch`` of a ``DistributedSampler``, which this is also where there is one process only.
    The draw of an epoch depends on the seed and the epoch alone. With several processes each takes every R-th of the
    one draw: the batches of one process are the R processes' batches taken together.

    Args:
        codes: (n,) group codes, -1 = unknown.
        labels: (n,) class indices; only for ``class`` and ``group_class``.
        by: ``group``, ``class`` or ``group_class``.
        seed: of the draws.
        num_replicas: number of processes R, by default those of ``torch.distributed``.
        rank: of this process.

    Raises:
        ValueError: an unknown ``by``, missing labels, lengths that differ, no case, or a rank that there is not.
    """

    def __init__(
        self,
        codes: Tensor | Sequence[int],
        labels: Tensor | Sequence[int] | None = None,
        *,
        by: str = "group",
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        running = dist.is_available() and dist.is_initialized()
        processes = num_replicas or (dist.get_world_size() if running else 1)
        own = rank if rank is not None else (dist.get_rank() if running else 0)
        self.weights = case_weights(codes, labels, by=by)
        super().__init__(self.weights, num_replicas=processes, rank=own, seed=seed)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        """Indices of the cases; the last draws repeat the first where they do not come out even."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        drawn = torch.multinomial(self.weights, len(self.weights), replacement=True, generator=generator)
        even = torch.cat([drawn, drawn[: self.total_size - len(drawn)]])
        return iter(even[self.rank :: self.num_replicas].tolist())


def case_weights(
    codes: Tensor | Sequence[int], labels: Tensor | Sequence[int] | None = None, *, by: str = "group"
) -> Tensor:
    """Weights (n,) float64 of the draw, mean 1; see :class:`GroupSampler`."""
    groups = torch.as_tensor(codes, dtype=torch.int64)
    if by not in BY:
        msg = f"`by` must be one of {', '.join(f'{name} ({what})' for name, what in BY.items())}, but got {by!r}"
        raise ValueError(msg)
    if labels is None and by != "group":
        msg = f"`labels` are needed to draw by {by!r}"
        raise ValueError(msg)
    classes = torch.zeros_like(groups) if labels is None or by == "group" else torch.as_tensor(labels).long()
    if groups.ndim != 1 or not len(groups) or groups.shape != classes.shape:
        msg = f"`codes` and `labels` must be one value per case, but have the shapes {groups.shape} and {classes.shape}"
        raise ValueError(msg)
    known = groups >= 0 if by != "class" else torch.ones_like(groups, dtype=torch.bool)
    cells = (torch.zeros_like(groups) if by == "class" else groups) * (classes.max() + 1) + classes
    weights = torch.ones(len(groups), dtype=torch.float64)
    if known.any():
        sizes = torch.bincount(cells[known])
        weights[known] = 1 / sizes[cells[known]].double()
        weights[~known] = weights[known].mean()
    return weights / weights.mean()
