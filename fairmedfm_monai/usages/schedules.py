"""Learning rates that change from iteration to iteration."""

from __future__ import annotations

from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupPolynomialLR(LambdaLR):
    """Linear warm-up, then polynomial decay, as SAMed has them (Zhang & Liu, arXiv:2304.13785); see :func:`factor`.

    Its state is the iteration alone: a resumed training goes by the numbers of its own configuration.

    Args:
        optimizer: its rates are the highest ones.
        warmup: iterations until the rate is reached; 0 = none.
        total: iterations after the warm-up until the rate is 0.
        power: of the decay; 1 = linear, 0 = none.

    Raises:
        ValueError: a negative ``warmup`` or ``power``, or a ``total`` below 1.
    """

    def __init__(self, optimizer: Optimizer, *, warmup: int, total: int, power: float) -> None:
        if warmup < 0 or power < 0 or total < 1:
            msg = (
                "`warmup` and `power` must not be negative and `total` be at least 1, but got "
                f"{warmup}, {power} and {total}"
            )
            raise ValueError(msg)
        super().__init__(optimizer, partial(factor, warmup=warmup, total=total, power=power))


def factor(iteration: int, *, warmup: int, total: int, power: float) -> float:
    """Of iteration i = 0, 1, ...: ``(i + 1) / warmup`` while i < warmup, then ``(1 - (i - warmup) / total)^power``."""
    if iteration < warmup:
        return (iteration + 1) / warmup
    return max(0.0, 1 - (iteration - warmup) / total) ** power
