from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from torch.optim.lr_scheduler import CosineAnnealingLR

from fairmedfm_monai.bundle.checkpoint import check_checkpoint, export_model, keep_progress
from fairmedfm_monai.bundle.model_info import ModelInfo


def _trainer(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Engine:
    def step(engine: Engine, batch: torch.Tensor) -> float:
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Engine(step)


def _parts(seed: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, 1)
    return model, torch.optim.Adam(model.parameters(), lr=0.1)


def _run(trainer: Engine, epochs: int) -> None:
    trainer.state.max_epochs = epochs
    trainer.run([torch.ones(2, 3), -torch.ones(2, 3)], max_epochs=epochs)


def test_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    model, optimizer = _parts(0)
    whole = _trainer(model, optimizer)
    _run(whole, 6)

    first, first_optimizer = _parts(0)
    trainer = _trainer(first, first_optimizer)
    keep_progress(trainer, tmp_path, model=first, optimizer=first_optimizer)
    _run(trainer, 3)

    second, second_optimizer = _parts(1)
    resumed = _trainer(second, second_optimizer)
    resumed.state.max_epochs = 6
    keep_progress(resumed, tmp_path, resume=tmp_path / "progress.pt", model=second, optimizer=second_optimizer)
    resumed.run([torch.ones(2, 3), -torch.ones(2, 3)], max_epochs=6)
    assert resumed.state.epoch == 6
    assert torch.equal(second.weight, model.weight)


@pytest.mark.parametrize(("epochs", "rate", "told"), [(3, 0.1, ""), (6, 0.1, "T_max"), (3, 0.2, "lr")])
def test_what_a_resumed_training_keeps_is_told(
    epochs: int, rate: float, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for chosen, resume in (((3, 0.1), None), ((epochs, rate), tmp_path / "progress.pt")):
        model, optimizer = _parts(0)
        optimizer.param_groups[0]["lr"] = chosen[1]
        parts = {"model": model, "optimizer": optimizer, "schedule": CosineAnnealingLR(optimizer, T_max=chosen[0])}
        trainer = _trainer(model, optimizer)
        keep_progress(trainer, tmp_path, resume=resume, **parts)
        if resume is None:
            _run(trainer, 2)
    lines = [record.message for record in caplog.records if "goes on as it began" in record.message]
    expected = {
        "": [],
        "T_max": ["the schedule goes on as it began: T_max 3 (asked for: 6)"],
        "lr": ["the optimizer goes on as it began: lr 0.1 (asked for: 0.2)"],
    }
    assert lines == expected[told]


def test_a_missing_progress_file_is_named(tmp_path: Path) -> None:
    model, optimizer = _parts(0)
    with pytest.raises(FileNotFoundError, match=r"`resume` must be a progress\.pt"):
        keep_progress(_trainer(model, optimizer), tmp_path, resume=tmp_path / "nothing.pt", model=model)


def test_a_missing_checkpoint_comes_with_advice(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train this bundle first"):
        check_checkpoint(tmp_path / "model.pt")


def test_an_export_is_a_plain_state_dict_with_its_description(tmp_path: Path) -> None:
    model, _ = _parts(0)
    info = ModelInfo(fm="clip", usage="zero_shot", variant="RN50", weights="tiny", classes={"a": ["an a"]})
    path = export_model(model, tmp_path / "models" / "model.pt", info)
    assert torch.equal(torch.load(path, weights_only=True)["weight"], model.weight)
    assert (tmp_path / "models" / "model.json").exists()
    assert not list(tmp_path.rglob("*.part"))
