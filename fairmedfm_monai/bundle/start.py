"""Where a training starts, and which epoch it keeps: with the weights of an earlier training; the last epoch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver
from torch import nn

from fairmedfm_monai.bundle.model_info import FILE_NAME, ModelInfo, read_model_info
from fairmedfm_monai.data.problems import DatasetError, Problem
from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked, read_checkpoint

if TYPE_CHECKING:
    from fairmedfm_monai.data.dataset import DatasetInfo
    from fairmedfm_monai.usages import MergedState

LAST = "last"
"""``select_by`` that keeps the last epoch and validates nothing."""
_LOGGER = logging.getLogger(__name__)


def start_from_model(
    start_from: str | Path | None,
    state: nn.Module | MergedState,
    *,
    info: ModelInfo,
    resume: str | Path | None = None,
) -> None:
    """Begin a training where an earlier one of the same bundle ended, with a new optimizer and schedule.

    The network computes what the earlier one did, and the same parameters train. With LoRA that takes the
    ``adapter.safetensors`` beside the model.

    Args:
        start_from: path of a ``model.pt``; None = nothing is done.
        state: whose ``state_dict`` becomes model.pt; changed in place.
        info: of this training.
        resume: path of a ``progress.pt``, which has the later weights: where it is given, nothing is done.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a model of another FM, usage, variant or other classes.
        WeightsError: tensors are missing, unexpected or of other shapes.
    """
    if start_from is None:
        return
    if resume is not None:
        _LOGGER.info("`resume` is given: `start_from` is left aside")
        return
    path = Path(start_from)
    if not path.is_file():
        msg = f"`start_from` must be the model.pt of an earlier training of this bundle, but {path} is not there"
        raise FileNotFoundError(msg)
    _check_info(path, info)
    try:
        if isinstance(state, nn.Module):
            load_checked(state, read_checkpoint(path), origin=str(path))
        else:
            state.start(path)
    except WeightsError as error:
        msg = f"`start_from`: {error}"
        raise WeightsError(msg) from error
    _LOGGER.info("the training starts from %s", path)


def _check_info(path: Path, info: ModelInfo) -> None:
    """Compare with the ``model.json`` beside the file, where there is one."""
    if not path.with_name(FILE_NAME).is_file():
        return
    found = read_model_info(path)
    for name in ("fm", "usage", "variant", "classes"):
        theirs, ours = getattr(found, name), getattr(info, name)
        same = list(theirs.items()) == list(ours.items()) if isinstance(theirs, dict) else theirs == ours
        if not same:
            msg = f"`start_from`: {path} is a model of {name} {theirs!r}, but this training is of {ours!r}"
            raise ValueError(msg)
    other = {key for key in {*found.settings, *info.settings} if found.settings.get(key) != info.settings.get(key)}
    if other:
        _LOGGER.warning("`start_from`: %s was trained with another %s", path, ", ".join(sorted(other)))


def validation_cases(dataset: DatasetInfo, select_by: str | Sequence[str]) -> list[dict[str, Any]]:
    """The validation split; nothing where the last epoch is kept.

    Raises:
        DatasetError: there is none, but something is to be chosen by it.
    """
    if select_by == LAST:
        return []
    try:
        return dataset.cases("val")
    except DatasetError as error:
        advice = (
            f"a training chooses its model.pt on it; --select_by {LAST} keeps the last epoch and needs no validation"
        )
        message = "; ".join([*(problem.message for problem in error.problems), advice])
        raise DatasetError(dataset.root, [Problem("split", message)]) from error


def check_selection(
    trainer: Engine, *, select_by: str | Sequence[str], val_interval: int, patience: int | None = None
) -> None:
    """Make sure that a training can leave a ``model.pt`` and end as it is asked to.

    Args:
        trainer: engine of the training.
        select_by: of the training.
        val_interval: epochs from one validation to the next.
        patience: of the training.

    Raises:
        ValueError: no epoch would be validated, or ``patience`` without any validation that could end the training.
    """
    if select_by == LAST:
        if patience is not None:
            msg = f"--patience {patience} counts validations, but --select_by {LAST} makes none; leave one of them out"
            raise ValueError(msg)
        return
    epochs = trainer.state.max_epochs
    if epochs is not None and val_interval > epochs:
        msg = (
            f"--val_interval {val_interval} is more than the {epochs} epochs: none would be validated, and no model.pt "
            f"be kept; take a smaller one, or --select_by {LAST} to keep the last epoch"
        )
        raise ValueError(msg)


def keep_last(trainer: Engine, folder: str | Path, state: Any, *, select_by: str | Sequence[str]) -> None:
    """Write ``model.pt`` after every epoch where ``select_by`` is ``last``.

    Args:
        trainer: engine of the training.
        folder: where the file goes.
        state: whose ``state_dict`` it is.
        select_by: of the training.
    """
    if select_by == LAST:
        saver = DiskSaver(str(folder), create_dir=True, require_empty=False)
        keep = Checkpoint({"model": state}, saver, filename_pattern="model.pt", n_saved=None)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, keep)
