from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from torch import nn

from fairmedfm_monai.losses import GroupDROLoss


def of_fixed_losses(groups, **options):
    """Group DRO of cases whose losses are given: pred = loss, target = 0."""
    return GroupDROLoss(nn.L1Loss(), groups, **options)


def step(loss, losses, codes):
    loss.set_codes(codes)
    values = torch.tensor(losses, dtype=torch.float64)[:, None]
    return float(loss(values, torch.zeros_like(values)))


class TestByHand:
    """eta = ln 2, so that q_g is multiplied by 2 to the power of the group's mean loss."""

    def test_weights_and_losses_over_several_steps(self):
        loss = of_fixed_losses(2, eta=math.log(2))
        # Means 1 and 2: q = (1/2 * 2, 1/2 * 4) / 3.
        assert step(loss, [0.5, 1.5, 2], [0, 0, 1]) == pytest.approx(1 / 3 + 4 / 3, rel=1e-6)
        np.testing.assert_allclose(loss.q, [1 / 3, 2 / 3], rtol=1e-6)
        # Means 3 and 1: q = (1/3 * 8, 2/3 * 2) / 4.
        assert step(loss, [3, 1], [0, 1]) == pytest.approx(2 / 3 * 3 + 1 / 3, rel=1e-6)
        np.testing.assert_allclose(loss.q, [2 / 3, 1 / 3], rtol=1e-6)
        # Means 0 and 1: q = (2/3, 1/3 * 2) / (4/3).
        assert step(loss, [1, 0], [1, 0]) == pytest.approx(0.5, rel=1e-6)
        np.testing.assert_allclose(loss.q, [1 / 2, 1 / 2], rtol=1e-6)

    def test_an_absent_group_keeps_its_weight(self):
        loss = of_fixed_losses(3, eta=math.log(2))
        # Present: means 1 and 2, which share 2/3 as 2 : 4.
        assert step(loss, [1, 2], [0, 2]) == pytest.approx(2 / 9 + 2 * 4 / 9, rel=1e-6)
        np.testing.assert_allclose(loss.q, [2 / 9, 3 / 9, 4 / 9], rtol=1e-6)

    def test_size_adjustment(self):
        loss = of_fixed_losses(2, eta=math.log(4), adjustment=1.0, group_sizes=[1, 4])
        # Equal losses, margins 1 and 1/2: q is multiplied by 4 and 2; the loss itself has no margin.
        assert step(loss, [1, 1], [0, 1]) == pytest.approx(1, rel=1e-6)
        np.testing.assert_allclose(loss.q, [2 / 3, 1 / 3], rtol=1e-6)

    def test_unknown_cases_have_weight_1_and_do_not_move_q(self):
        loss = of_fixed_losses(2, eta=math.log(2))
        # Two known cases with q = (1/3, 2/3) and one unknown of loss 7.
        assert step(loss, [1, 7, 2], [0, -1, 1]) == pytest.approx((2 * 5 / 3 + 7) / 3, rel=1e-6)
        np.testing.assert_allclose(loss.q, [1 / 3, 2 / 3], rtol=1e-6)


def test_equals_an_independent_reference_over_many_batches():
    generator = np.random.default_rng(3)
    sizes, eta, adjustment = np.array([100, 10, 40, 3]), 0.2, 1.5
    loss = of_fixed_losses(4, eta=eta, adjustment=adjustment, group_sizes=sizes.tolist())
    q = np.full(4, 0.25)
    for _ in range(30):
        losses, codes = generator.exponential(size=16), generator.integers(0, 4, size=16)
        codes[:4] = range(4)  # with all groups present this is the paper's algorithm 1
        means = np.array([losses[codes == group].mean() for group in range(4)])
        q = q * np.exp(eta * (means + adjustment / np.sqrt(sizes)))
        q /= q.sum()
        assert step(loss, losses, codes.tolist()) == pytest.approx((q * means).sum(), rel=1e-5)
    np.testing.assert_allclose(loss.q, q, rtol=1e-5)


def test_the_gradient_of_a_case_is_q_over_its_groups_size():
    loss = of_fixed_losses(2, eta=0.0)
    pred = torch.tensor([[1.0], [2.0], [3.0]], requires_grad=True)
    loss.set_codes([0, 0, 1])
    loss(pred, torch.zeros(3, 1)).backward()
    np.testing.assert_allclose(pred.grad[:, 0], [0.25, 0.25, 0.5])


def test_training_goes_on_where_a_checkpoint_stopped():
    batches = [([1.0, 2.0, 0.5], [0, 1, 1]), ([0.1, 2.0], [0, 1]), ([3.0, 1.0], [1, 0])]
    whole = of_fixed_losses(2, eta=0.3)
    for batch in batches:
        step(whole, *batch)
    first, second = of_fixed_losses(2, eta=0.3), of_fixed_losses(2, eta=0.3)
    step(first, *batches[0])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    for batch in batches[1:]:
        step(second, *batch)
    assert torch.equal(second.q, whole.q)


def test_evaluation_mode_does_not_move_q():
    loss = of_fixed_losses(2).eval()
    step(loss, [1, 5], [0, 1])
    assert loss.q.tolist() == [0.5, 0.5]


def test_a_loss_that_is_not_finite_comes_out_and_leaves_q_usable():
    loss = of_fixed_losses(2)
    assert math.isnan(step(loss, [1, math.nan], [0, 1]))
    assert loss.q.tolist() == [0.5, 0.5]


def test_very_large_losses_do_not_overflow():
    loss = of_fixed_losses(2, eta=1.0)
    assert step(loss, [1e4, 1], [0, 1]) == pytest.approx(1e4)
    assert loss.q.tolist() == [1, 0]
    assert step(loss, [1, 1e4], [0, 1]) == pytest.approx(1)  # q = 0 stays 0, as in the paper's rule


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": -1.0}, "must not be negative"),
        ({"adjustment": 1.0}, "needs `group_sizes`.*got none"),
        ({"adjustment": 1.0, "group_sizes": [1, 2, 3]}, "each of 2 groups, but got 3"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        of_fixed_losses(2, **options)
