"""An end to a training that does not become better any more, by the number that chooses the checkpoint."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine, Events

from . import records, selection

logger = logging.getLogger(__name__)


class EarlyStopping:
    """Ends the training after ``patience`` validations in a row without a better ``selection``.

    Sits on all ranks among the handlers of the validation, after ``FairnessHandler`` and ``CheckpointSaver``. Better
    is strictly larger, as for the checkpoint. Validations count once ``selection`` was defined: before that there is
    nothing to be better than. It also counts without ``patience``, so that a resumed training can be given one.

    Args:
        patience: number of validations; None = the training is never ended.

    Raises:
        ValueError: ``patience`` is no whole number above 0.
    """

    def __init__(self, patience: int | None = None) -> None:
        if patience is not None and (type(patience) is not int or patience < 1):
            msg = f"`patience` must be a number of validations of at least 1, or null for never, but got {patience!r}"
            raise ValueError(msg)
        self.patience = patience
        self.best = -math.inf
        self.waited = 0
        self._trainer: Engine | None = None

    @property
    def is_over(self) -> bool:
        """Whether it has been waited long enough."""
        return self.patience is not None and self.waited >= self.patience

    def set_trainer(self, trainer: Engine) -> None:
        """Name the engine to end; ``keep_progress`` does it."""
        self._trainer = trainer

    def attach(self, engine: Engine) -> None:
        """Register with the engine of the validation."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Compare, and end the training when it is time.

        Raises:
            RuntimeError: there is a ``patience``, but no trainer was named.
        """
        if self.patience is not None and self._trainer is None:
            msg = "`patience` needs the trainer: give this handler to keep_progress(..., early_stopping=...) before"
            raise RuntimeError(msg)
        # One rank decides: ranks that stop at different epochs would wait for each other for ever.
        value = records.on_rank0(lambda: float(engine.state.metrics[selection.KEY]))
        if value > self.best:
            self.best, self.waited = value, 0
        elif math.isfinite(self.best):
            self.waited += 1
        if self.is_over and self._trainer is not None:
            logger.info("stopped early after epoch %d: %s", self._trainer.state.epoch, self.reason)
            self._trainer.terminate()

    @property
    def reason(self) -> str:
        """Why it is over, for people."""
        times = "1 validation" if self.waited == 1 else f"{self.waited} validations"
        return f"no better value of `select_by` in {times}"

    def state_dict(self) -> dict[str, Any]:
        """The best value and the validations since."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.best, self.waited = float(state["best"]), int(state["waited"])
