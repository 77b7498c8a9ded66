"""SAMed's learning rate, iteration by iteration."""

from __future__ import annotations

import io

import pytest
import torch
from torch.optim import AdamW

from fairmedfm_monai.usages import WarmupPolynomialLR

BASE = 0.005


def schedule(warmup: int = 250, total: int = 16_700, power: float = 0.9) -> WarmupPolynomialLR:
    """Of 8,000 images in batches of 48: 167 iterations in each of 100 epochs."""
    return WarmupPolynomialLR(AdamW([torch.zeros(1)], lr=BASE), warmup=warmup, total=total, power=power)


def rates(found: WarmupPolynomialLR, count: int) -> list[float]:
    """The rates that iterations 0 .. count - 1 are made with."""
    values = []
    for _ in range(count):
        values.append(found.optimizer.param_groups[0]["lr"])
        found.optimizer.step()
        found.step()
    return values


def test_rates_are_the_formula_s() -> None:
    found = rates(schedule(), 11_691)  # 70 epochs, and one iteration
    expected = {
        0: BASE / 250,
        124: BASE / 2,
        249: BASE,
        250: BASE,
        251: BASE * (1 - 1 / 16_700) ** 0.9,
        8_600: BASE * 0.5**0.9,  # half of the way after the warm-up
        11_689: BASE * (1 - 11_439 / 16_700) ** 0.9,  # the last one of epoch 70
    }
    assert {iteration: found[iteration] for iteration in expected} == pytest.approx(expected, rel=1e-12)
    assert max(found) == BASE


def test_without_warm_up_it_begins_at_the_full_rate() -> None:
    found = rates(schedule(warmup=0, total=100), 103)
    assert found[0] == BASE
    assert found[50] == pytest.approx(BASE * 0.5**0.9)
    assert found[100:] == [0, 0, 0]


def test_a_stored_state_goes_on_by_the_new_numbers() -> None:
    one, file = schedule(warmup=2, total=10), io.BytesIO()
    rates(one, 6)
    torch.save(one.state_dict(), file)
    file.seek(0)
    other = schedule(warmup=2, total=20)
    other.load_state_dict(torch.load(file, weights_only=True))
    other.optimizer.step()
    other.step()
    assert other.optimizer.param_groups[0]["lr"] == pytest.approx(BASE * (1 - 5 / 20) ** 0.9)


@pytest.mark.parametrize(("name", "value"), [("warmup", -1), ("total", 0), ("power", -0.1)])
def test_numbers_that_make_no_schedule_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        schedule(**{name: value})  # type: ignore[arg-type]
