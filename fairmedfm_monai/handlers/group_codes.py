"""The groups of each batch for the loss, and a stop when the loss is no number any more."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Engine, Events

from . import records

if TYPE_CHECKING:
    from fairmedfm_monai.mitigation.method import Method

FILE_NAME = "nan_batch.json"
logger = logging.getLogger(__name__)


class GroupCodes:
    """Tells the trainer's loss which group each case of the batch belongs to.

    Sits on all ranks, first of the trainer's handlers. A loss that is NaN or infinite stops the training before
    anything of that epoch is saved: ``model.pt`` and ``progress.pt`` stay what they were after the last good epoch, and
    ``nan_batch.json`` names the cases of the batch. At the end a warning counts the training cases that could not be
    used: others stood in for them, with their own groups, while samplers and group counts know the card only.

    Args:
        method: of :func:`fairmedfm_monai.mitigation.make_method`.
        folder: where the file goes.
        log_cases: write case ids as they are; otherwise as salted hashes.

    Raises:
        FloatingPointError: in the training, when the loss is not finite.
    """

    def __init__(self, method: Method, *, folder: str | Path, log_cases: bool = False) -> None:
        self.method = method
        self.folder = Path(folder)
        self.log_cases = log_cases
        self._cases: list[str] = []
        self._drawn = 0
        self._replaced: Counter[str] = Counter()

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self.iteration_started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)
        engine.add_event_handler(Events.COMPLETED, self.completed)

    def iteration_started(self, engine: Engine) -> None:
        """Give the loss the codes of the batch."""
        batch: Any = engine.state.batch
        self._cases = [str(case_id) for case_id in batch.get("case_id", ())]
        self._drawn += len(self._cases)
        self._replaced.update(text.partition(": ")[0] for text in batch.get("failed", ()) if text)
        trainer: Any = engine
        if hasattr(trainer.loss_function, "set_codes"):
            trainer.loss_function.set_codes(self.method.codes(batch))

    def iteration_completed(self, engine: Engine) -> None:
        """Look at the loss, then let the method train what is its own."""
        output: Any = engine.state.output
        loss = torch.as_tensor((output[0] if isinstance(output, list) else output)["loss"]).item()
        if not math.isfinite(loss):
            self._stop(engine, loss)
        scaler = getattr(engine, "scaler", None)
        self.method.step(scaler.get_scale() if scaler is not None else 1.0)

    def completed(self, engine: Engine) -> None:
        """Count the cases that could not be used, over all ranks."""
        parts = records.gather([{"drawn": self._drawn, "replaced": dict(self._replaced)}])
        replaced: Counter[str] = Counter()
        for part in parts:
            replaced.update(part["replaced"])
        if replaced and not getattr(engine.state, "rank", 0):
            logger.warning(
                "%d training cases could not be used%s: the next usable case stood in for them, with its own group, in "
                "%d of the %d draws of this run; the shares of groups in the draw are off by that",
                *(len(replaced), self._by_group(replaced), replaced.total(), sum(part["drawn"] for part in parts)),
            )

    def _by_group(self, names: Counter[str]) -> str:
        coder = self.method.coder
        if coder is None:
            return ""
        cases = [case for case in self.method.dataset.cases("train") if str(case["case_id"]) in names]
        codes = coder.codes([case["attributes"] for case in cases])
        groups = Counter(coder.names[code] if code >= 0 else "unknown" for code in codes.tolist())
        return f" ({', '.join(f'{group} {count}' for group, count in sorted(groups.items()))})"

    def _stop(self, engine: Engine, loss: float) -> None:
        rank = int(engine.state.rank) if hasattr(engine.state, "rank") else 0
        target = self.folder / (f"rank{rank}_{FILE_NAME}" if rank else FILE_NAME)
        target.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "loss": str(loss),
            "case_ids": self._named(),
            "hashed": not self.log_cases,
        }
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
        part.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
        part.replace(target)
        msg = (
            f"the training loss became {loss} in epoch {engine.state.epoch}, iteration {engine.state.iteration}: "
            f"stopped. The cases of this batch are in {target}; model.pt and progress.pt are those of the last good "
            "epoch. A smaller `learning_rate` or other `mitigation_options` may help, and so may a look at these cases"
        )
        raise FloatingPointError(msg)

    def _named(self) -> list[str]:
        from fairmedfm_monai.data.home import home
        from fairmedfm_monai.handlers.privacy import hash_id, private_salt

        if self.log_cases:
            return self._cases
        salt = private_salt(home())
        return [hash_id(case_id, salt) for case_id in self._cases]
