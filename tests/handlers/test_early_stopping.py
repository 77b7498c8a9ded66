from __future__ import annotations

import json
import math
import random

import pytest
from ignite.engine import Events
from ignite.handlers import EarlyStopping as Reference

from fairmedfm_monai.handlers import EarlyStopping
from tests.handlers import toy

EPOCHS = 12


def last_epoch(values: list[float], handler: EarlyStopping, *, first: int = 0) -> int:
    """Epochs of a training."""
    trainer, validator = toy.validated(values, first)
    handler.attach(validator)
    handler.set_trainer(trainer)
    trainer.run([0], max_epochs=len(values) - first)
    return first + trainer.state.epoch


def reference(values: list[float], patience: int) -> int:
    trainer, validator = toy.validated(values)
    validator.add_event_handler(
        Events.EPOCH_COMPLETED, Reference(patience, lambda engine: engine.state.metrics["selection"], trainer)
    )
    trainer.run([0], max_epochs=len(values))
    return trainer.state.epoch


def sequences() -> list[list[float]]:
    """Values on a coarse grid, so that many are equal; undefined ones after the first."""
    drawn = random.Random(0)
    grid = [*(number / 5 for number in range(6)), -math.inf]
    return [[drawn.choice(grid[:-1]), *drawn.choices(grid, k=EPOCHS - 1)] for _ in range(50)]


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_it_stops_where_ignite_does(patience: int) -> None:
    stops = [last_epoch(values, EarlyStopping(patience)) for values in sequences()]
    assert stops == [reference(values, patience) for values in sequences()]
    assert len(set(stops)) > 2


@pytest.mark.parametrize("epoch", range(1, 6))
def test_it_goes_on_where_it_was(epoch: int) -> None:
    for values in sequences():
        whole = EarlyStopping(3)
        expected = last_epoch(values, whole)
        if expected < epoch:
            continue
        before = EarlyStopping(None)  # what comes before may have had no patience
        last_epoch(values[:epoch], before)
        after = EarlyStopping(3)
        after.load_state_dict(json.loads(json.dumps(before.state_dict())))
        assert after.is_over == (expected == epoch)
        if not after.is_over:
            assert last_epoch(values, after, first=epoch) == expected
            assert after.state_dict() == whole.state_dict()


def test_what_was_never_defined_says_nothing_about_progress() -> None:
    assert last_epoch([-math.inf] * 6, EarlyStopping(1)) == 6
    assert last_epoch([-math.inf, -math.inf, -math.inf, 0.5, 0.4, 0.6], EarlyStopping(1)) == 5


def test_without_patience_nothing_stops() -> None:
    assert last_epoch([0.5] * 6, EarlyStopping()) == 6


@pytest.mark.parametrize("patience", [0, -1, 2.0, "3", True])
def test_patience_is_a_number_of_validations(patience: object) -> None:
    with pytest.raises(ValueError, match=r"`patience` must be a number of validations"):
        EarlyStopping(patience)  # type: ignore[arg-type]


def test_the_trainer_must_be_known() -> None:
    trainer, validator = toy.validated([0.5])
    EarlyStopping(1).attach(validator)
    with pytest.raises(RuntimeError, match="early_stopping="):
        trainer.run([0], max_epochs=1)
