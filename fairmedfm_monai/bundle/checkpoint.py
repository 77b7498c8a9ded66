"""Checkpoints of bundles: clear words when one is missing, export of untrained usages, resuming a training."""

from __future__ import annotations

import inspect
import logging
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

if TYPE_CHECKING:
    from monai.handlers import CheckpointSaver

    from fairmedfm_monai.bundle.model_info import ModelInfo
    from fairmedfm_monai.handlers.early_stopping import EarlyStopping

PROGRESS_NAME = "progress.pt"
_LOGGER = logging.getLogger(__name__)


def check_checkpoint(checkpoint: str | Path) -> None:
    """Stop with advice when ``model.pt`` is not there.

    Raises:
        FileNotFoundError: names the file and says how to make it.
    """
    if not Path(checkpoint).is_file():
        msg = (
            f"{checkpoint} not found: train this bundle first "
            "(python -m monai.bundle run --config_file configs/train.json), or give --checkpoint"
        )
        raise FileNotFoundError(msg)


def export_model(network: torch.nn.Module, checkpoint: str | Path, info: ModelInfo) -> Path:
    """Write the ``state_dict`` of an untrained usage and its ``model.json``: MONAI Label and Deploy need them."""
    target = Path(checkpoint)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    torch.save(network.state_dict(), part)
    part.replace(target)
    info.write(target.parent)
    return target


def keep_progress(
    trainer: Engine,
    folder: str | Path,
    *,
    resume: str | Path | None = None,
    best: CheckpointSaver | None = None,
    early_stopping: EarlyStopping | None = None,
    **objects: Any,
) -> None:
    """Keep what is needed to go on after an interruption, and go on from it when asked.

    After every epoch ``<folder>/progress.pt`` holds the trainer's epoch, the state of ``objects``, that of torch's
    random numbers, and the best value so far: on the CPU a training that was interrupted ends as one that was not.

    Args:
        trainer: engine of the training.
        folder: where the file goes.
        resume: path of a ``progress.pt``; the training then continues after the epoch it holds, with the learning rate,
            weight decay and schedule that it holds. A warning names those that were asked for otherwise.
        best: writes ``model.pt`` when a value is the best so far; with ``resume`` it goes on comparing with the best
            value of before, as long as the file is there. While that value is undefined (``-inf``) each validation
            replaces the file: it is then of the last epoch and not of the first.
        early_stopping: may end the training; is told the trainer here.
        **objects: name -> object with ``state_dict`` and ``load_state_dict``.

    Raises:
        FileNotFoundError: when ``resume`` is not there.
        ValueError: when nothing is left to train, the training had stopped early, or ``resume`` is of another
            kind of training.
    """
    state = {"trainer": trainer, **objects}
    extra: dict[str, Any] = {"random": _RandomState(trainer)}
    if best is not None:
        extra["best"] = _Best(best)
        trainer.add_event_handler(Events.EPOCH_STARTED, extra["best"].give_way)
    if early_stopping is not None:
        extra["early_stopping"] = early_stopping
        early_stopping.set_trainer(trainer)
    if resume is not None:
        _resume(trainer, state, extra, resume)
        if early_stopping is not None and early_stopping.is_over:
            msg = (
                f"{resume} is of a training that stopped early after epoch {trainer.state.epoch}: "
                f"{early_stopping.reason}. Its model.pt is finished; to train on, give a larger --patience, or none"
            )
            raise ValueError(msg)
    saver = Checkpoint(
        {**state, **extra},
        DiskSaver(str(folder), create_dir=True, require_empty=False),
        filename_pattern=PROGRESS_NAME,
        n_saved=None,
    )
    trainer.add_event_handler(Events.EPOCH_COMPLETED, saver)


def _resume(trainer: Engine, state: dict[str, Any], extra: dict[str, Any], resume: str | Path) -> None:
    if not Path(resume).is_file():
        msg = f"`resume` must be a {PROGRESS_NAME} of an earlier training, but {resume} is not there"
        raise FileNotFoundError(msg)
    epochs = trainer.state.max_epochs
    content = torch.load(resume, map_location="cpu", weights_only=True)
    if epochs is not None and content["trainer"].get("max_epochs") is not None:
        content["trainer"]["max_epochs"] = max(epochs, _done(content["trainer"]))
    _load(state, extra, content, resume)
    if epochs is not None and trainer.state.epoch >= epochs:
        msg = f"{resume} already holds {trainer.state.epoch} epochs: ask for more than that with --epochs"
        raise ValueError(msg)


def _load(state: dict[str, Any], extra: dict[str, Any], content: dict[str, Any], resume: str | Path) -> None:
    missing = [name for name in state if name not in content]
    if missing:
        msg = f"`resume`: {resume} lacks {', '.join(missing)}: give the {PROGRESS_NAME} of a training of this bundle"
        raise ValueError(msg)
    wanted = state | {name: part for name, part in extra.items() if name in content}
    asked = {name: _numbers(part) for name, part in state.items()}
    Checkpoint.load_objects(to_load=wanted, checkpoint=content)
    for name, part in state.items():
        kept = _numbers(part)
        other = [
            f"{key} {kept[key]} (asked for: {asked[name][key]})" for key in kept if kept[key] != asked[name].get(key)
        ]
        if other:
            _LOGGER.warning("the %s goes on as it began: %s", name, ", ".join(other))


def _numbers(part: Any) -> dict[str, float]:
    """What a user chose of an optimizer or of a schedule."""
    if isinstance(part, Optimizer):
        group = part.param_groups[0]
        found = {"lr": group.get("initial_lr", group["lr"]), "weight_decay": group.get("weight_decay")}
    elif isinstance(part, LRScheduler):
        arguments = inspect.signature(type(part)).parameters.keys() - {"last_epoch"}
        found = {name: value for name, value in part.state_dict().items() if name in arguments}
    else:
        return {}
    return {name: value for name, value in found.items() if isinstance(value, (int, float))}


class _RandomState:
    """Torch's random numbers on the CPU; taken up when the training starts, since encoding before it draws some."""

    def __init__(self, trainer: Engine) -> None:
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        return {"torch": torch.get_rng_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._trainer.add_event_handler(Events.STARTED, lambda: torch.set_rng_state(state["torch"]))


class _Best:
    """The best value that a ``CheckpointSaver`` of MONAI has seen, as long as the file that it stands for is there."""

    def __init__(self, saver: CheckpointSaver) -> None:
        self._saver = saver

    def give_way(self) -> None:
        """An undefined value (-inf) does not keep its place: ignite keeps the first of equals."""
        checkpoint = self._saver._key_metric_checkpoint
        if checkpoint is not None and [item[0] for item in self.state_dict()["_saved"]] == [-math.inf]:
            checkpoint.reset()

    def state_dict(self) -> dict[str, Any]:
        checkpoint = self._saver._key_metric_checkpoint
        return {} if checkpoint is None else dict(checkpoint.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        written = getattr(self._saver._key_metric_checkpoint, "save_handler", None)
        name = getattr(written, "filename", None)
        if state and name and (Path(self._saver.save_dir) / name).is_file():
            self._saver.load_state_dict(state)


def _done(trainer_state: dict[str, Any]) -> int:
    return int(trainer_state["iteration"] // trainer_state["epoch_length"])
