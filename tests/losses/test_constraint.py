from __future__ import annotations

import numpy as np
import pytest
import torch
from fairlearn.metrics import (
    demographic_parity_difference,
    equal_opportunity_difference,
    equalized_odds_difference,
)
from torch import nn

from fairmedfm_monai.losses import ConstrainedLoss
from fairmedfm_monai.losses.cells import CRITERIA
from fairmedfm_monai.losses.constraint import STATISTICS, soft_gap, soft_rates
from tests.losses.toy import normal

REFERENCES = {
    "demographic_parity": demographic_parity_difference,
    "equal_opportunity": equal_opportunity_difference,
    "equalised_odds": lambda *args, **options: equalized_odds_difference(*args, **options, agg="mean"),
}


def batch(seed=0, count=40, classes=2):
    generator = np.random.default_rng(seed)
    return normal(count, classes, seed=seed), generator.integers(0, classes, count), generator.integers(0, 3, count)


@pytest.mark.parametrize("criterion", REFERENCES)
def test_gaps_of_sure_predictions_are_fairlearns(criterion):
    logits, target, codes = batch()
    sure = logits * 1e4  # softmax is 0 or 1 then
    tensors = (sure, torch.tensor(target), torch.tensor(codes))
    found = soft_gap(*soft_rates(*tensors, 3, criterion=criterion, positive=1))
    expected = REFERENCES[criterion](target, logits.argmax(1).numpy(), sensitive_features=codes)
    assert expected > 0.05
    assert float(found) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("criterion", REFERENCES)
def test_independent_labels_give_the_mean_gap_of_the_labels(criterion):
    logits, _, codes = batch(1)
    target = (normal(40, 2, seed=9) > 0).double()
    tensors = (logits * 1e8, target, torch.tensor(codes))
    found = soft_gap(*soft_rates(*tensors, 3, criterion=criterion))
    gaps = [
        REFERENCES[criterion](target[:, label].numpy(), (logits[:, label] > 0).numpy(), sensitive_features=codes)
        for label in range(2)
    ]
    assert float(found) == pytest.approx(np.mean(gaps), rel=1e-9)


def test_two_classes_give_the_same_gap_from_either_side():
    logits, target, codes = batch(2)
    for criterion in ("demographic_parity", "equalised_odds"):
        gaps = [
            float(soft_gap(*soft_rates(logits, torch.tensor(target), torch.tensor(codes), 3, **options)))
            for options in ({"criterion": criterion, "positive": positive} for positive in (0, 1, None))
        ]
        np.testing.assert_allclose(gaps, gaps[0], rtol=1e-9)


def test_soft_rates_are_mean_probabilities():
    logits, target, codes = batch(3, count=200, classes=4)
    p = logits.softmax(1).numpy()
    means, present = soft_rates(logits, torch.tensor(target), torch.tensor(codes), 4, criterion="equalised_odds")
    assert not present[3].any()
    for group in range(3):
        for label in range(4):
            has = (codes == group) & (target == label)
            has_not = (codes == group) & (target != label)
            assert float(means[group, label]) == pytest.approx(p[has, label].mean())
            assert float(means[group, 4 + label]) == pytest.approx(p[has_not, label].mean())


@pytest.mark.parametrize("statistic", STATISTICS)
def test_gradients_are_those_of_finite_differences(statistic):
    logits, target, codes = batch(4, count=12)
    loss = ConstrainedLoss(nn.CrossEntropyLoss(), 3, statistic=statistic, strength=2.0, positive=1)

    def value(pred):
        loss.set_codes(codes)
        return loss(pred, torch.tensor(target))

    assert torch.autograd.gradcheck(value, logits.requires_grad_())


@pytest.mark.parametrize("statistic", STATISTICS)
def test_strength_0_is_the_plain_loss_and_more_adds_the_gap(statistic):
    logits, target, codes = batch(5)
    values = []
    for strength in (0.0, 1.0, 3.0):
        loss = ConstrainedLoss(nn.CrossEntropyLoss(), 3, statistic=statistic, strength=strength, positive=1)
        loss.set_codes(codes)
        values.append(float(loss(logits, torch.tensor(target))))
    assert values[0] == pytest.approx(float(nn.CrossEntropyLoss()(logits, torch.tensor(target))))
    assert values[1] > values[0]
    assert values[2] - values[0] == pytest.approx(3 * (values[1] - values[0]))


def test_a_group_with_one_class_is_left_out_of_the_rate_it_lacks():
    logits = torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, -2.0], [0.0, 5.0]])
    target, codes = torch.tensor([1, 1, 0, 0]), torch.tensor([0, 1, 0, 2])  # group 1 is all positive, group 2 negative
    p = torch.tensor([1.0, 3.0, -2.0, 5.0]).sigmoid()
    found = soft_gap(*soft_rates(logits, target, codes, 3, criterion="equalised_odds", positive=1))
    assert float(found) == pytest.approx(float(((p[1] - p[0]) + (p[3] - p[2])) / 2))


class TestRefusals:
    def test_unknown_statistic_lists_the_choices(self):
        with pytest.raises(ValueError, match=r"`statistic` must be one of loss, demographic_parity.*soft TPR"):
            ConstrainedLoss(nn.CrossEntropyLoss(), 2, statistic="equality")

    def test_negative_strength(self):
        with pytest.raises(ValueError, match="`strength` must not be negative"):
            ConstrainedLoss(nn.CrossEntropyLoss(), 2, strength=-1.0)

    @pytest.mark.parametrize(
        ("statistic", "positive", "shape", "message"),
        [
            ("equal_opportunity", None, (2,), "needs `positive`"),
            ("demographic_parity", 2, (2,), "one of 2 classes, but got 2"),
            ("equalised_odds", None, (2, 1, 4, 4), "need logits .B, K."),
        ],
    )
    def test_targets_without_such_rates(self, statistic, positive, shape, message):
        loss = ConstrainedLoss(lambda pred, _: pred.mean(), 2, statistic=statistic, positive=positive)
        loss.set_codes([0, 1])
        with pytest.raises(ValueError, match=message):
            loss(torch.zeros(2, 2, *shape[2:]), torch.zeros(shape, dtype=torch.int64))

    def test_every_criterion_is_a_statistic(self):
        assert set(STATISTICS) == {"loss", *CRITERIA}
