"""One training step with an optimizer that calls the loss itself, such as L-BFGS."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor


class ClosureUpdate:
    """``iteration_update`` of MONAI's ``SupervisedTrainer`` for ``torch.optim.LBFGS``.

    The step minimises ``loss(batch) + weight_decay / 2 * sum of squared weights``, biases left out: with the whole
    training set as one batch, a linear head and cross-entropy this is the logistic regression of scikit-learn with
    ``C = 1 / (weight_decay * n)``. Always in full precision. With several processes every one of them sees the same
    loss and gradient, so that their searches along a line agree.

    Args:
        weight_decay: strength of the penalty.
    """

    def __init__(self, *, weight_decay: float = 0.0) -> None:
        self.weight_decay = weight_decay

    def __call__(self, engine: Engine, batchdata: dict[str, Any]) -> dict[str, Tensor]:
        """One call of the optimizer on one batch; gives the trainer's usual output."""
        trainer: Any = engine
        image, label = trainer.prepare_batch(batchdata, trainer.state.device, trainer.non_blocking, **trainer.to_kwargs)
        output: dict[str, Tensor] = {Keys.IMAGE: image, Keys.LABEL: label}
        trainer.state.output = output
        trainer.network.train()
        loss_function = trainer.loss_function
        codes = getattr(loss_function, "codes", None)  # a loss that knows groups uses them up with each call

        def closure() -> Tensor:
            trainer.optimizer.zero_grad(set_to_none=trainer.optim_set_to_none)
            output[Keys.PRED] = trainer.inferer(image, trainer.network)
            if codes is not None:
                loss_function.set_codes(codes)
            loss = loss_function(output[Keys.PRED], label).mean() + self._penalty(trainer.network)
            if codes is not None:
                loss_function.eval()  # what moves in a loss moves once per step, not within the search along a line
            loss.backward()
            output[Keys.LOSS] = _mean_over_processes(loss.detach())
            return output[Keys.LOSS]

        trainer.optimizer.step(closure)
        if codes is not None:
            loss_function.train()
        trainer.fire_event(IterationEvents.MODEL_COMPLETED)
        return output

    def _penalty(self, network: torch.nn.Module) -> Tensor:
        weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
        return self.weight_decay / 2 * torch.stack([weight.square().sum() for weight in weights]).sum()


def _mean_over_processes(loss: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(loss)
        loss /= dist.get_world_size()
    return loss
