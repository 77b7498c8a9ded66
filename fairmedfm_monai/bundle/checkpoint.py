"""Checkpoints of bundles: clear words when one is missing, export of untrained usages, resuming a training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver

if TYPE_CHECKING:
    from fairmedfm_monai.bundle.model_info import ModelInfo

PROGRESS_NAME = "progress.pt"


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


def keep_progress(trainer: Engine, folder: str | Path, *, resume: str | Path | None = None, **objects: Any) -> None:
    """Keep what is needed to go on after an interruption, and go on from it when asked.

    After every epoch ``<folder>/progress.pt`` holds the trainer's epoch and the state of ``objects``.

    Args:
        trainer: engine of the training.
        folder: where the file goes.
        resume: path of a ``progress.pt``; the training then continues after the epoch it holds.
        **objects: name -> object with ``state_dict`` and ``load_state_dict``.

    Raises:
        FileNotFoundError: when ``resume`` is not there.
        ValueError: when nothing is left to train.
    """
    state = {"trainer": trainer, **objects}
    if resume is not None:
        if not Path(resume).is_file():
            msg = f"`resume` must be a {PROGRESS_NAME} of an earlier training, but {resume} is not there"
            raise FileNotFoundError(msg)
        epochs = trainer.state.max_epochs
        content = torch.load(resume, map_location="cpu", weights_only=True)
        if epochs is not None and content["trainer"].get("max_epochs") is not None:
            content["trainer"]["max_epochs"] = max(epochs, _done(content["trainer"]))
        Checkpoint.load_objects(to_load=state, checkpoint=content)
        if epochs is not None and trainer.state.epoch >= epochs:
            msg = f"{resume} already holds {trainer.state.epoch} epochs: ask for more than that with --epochs"
            raise ValueError(msg)
    saver = Checkpoint(
        state,
        DiskSaver(str(folder), create_dir=True, require_empty=False),
        filename_pattern=PROGRESS_NAME,
        n_saved=None,
    )
    trainer.add_event_handler(Events.EPOCH_COMPLETED, saver)


def _done(trainer_state: dict[str, Any]) -> int:
    return int(trainer_state["iteration"] // trainer_state["epoch_length"])
