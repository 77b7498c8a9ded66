from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from torch import nn

from fairmedfm_monai.losses import ReweightedLoss, inverse_frequency
from tests.losses.toy import normal


def test_weights_per_group_are_scikit_learns_balanced_weights():
    groups = np.repeat([0, 1, 2], [70, 7, 23])
    expected = compute_class_weight("balanced", classes=np.unique(groups), y=groups)
    np.testing.assert_allclose(inverse_frequency(torch.tensor([70, 7, 23])), expected, rtol=1e-6)


def test_weights_of_cells_have_mean_1_over_the_training_cases():
    table = torch.tensor([[30, 10], [4, 0], [20, 3]])
    weights = inverse_frequency(table)
    assert float((weights * table).sum() / table.sum()) == pytest.approx(1)
    assert float(weights[1, 1]) == 1  # never met
    shares = (weights * table)[table > 0]
    np.testing.assert_allclose(shares, shares[0].expand(5), rtol=1e-6)  # every cell has the same part


@pytest.mark.parametrize("by_class", [False, True])
def test_the_loss_is_scikit_learns_weighted_loss_of_the_training_set(by_class):
    generator = np.random.default_rng(0)
    groups, labels = generator.choice(3, size=60, p=[0.7, 0.1, 0.2]), generator.integers(0, 2, size=60)
    cells = groups * 2 + labels if by_class else groups
    weights = compute_sample_weight("balanced", cells)
    logits = normal(60, 2, seed=1)
    p = logits.softmax(1).numpy()[np.arange(60), labels]
    counts = np.bincount(cells, minlength=6 if by_class else 3)
    loss = ReweightedLoss(nn.CrossEntropyLoss(), counts.reshape(3, -1).squeeze().tolist())
    loss.set_codes(groups.tolist())
    assert float(loss(logits, torch.tensor(labels))) == pytest.approx((weights * -np.log(p)).mean(), rel=1e-6)


def test_unknown_groups_have_weight_1():
    loss = ReweightedLoss(nn.CrossEntropyLoss(), [9, 1])
    weights = loss.case_weights(torch.tensor([0, 1, 0]), torch.tensor([0, -1, 1]))
    np.testing.assert_allclose(weights, [10 / 18, 1, 5], rtol=1e-6)


def test_labels_that_are_no_classes_cannot_be_weighted_by_class():
    loss = ReweightedLoss(nn.BCEWithLogitsLoss(), [[3, 1], [2, 2]])
    loss.set_codes([0, 1])
    with pytest.raises(ValueError, match="reweight by group alone"):
        loss(torch.zeros(2, 3), torch.zeros(2, 3))


@pytest.mark.parametrize(("counts", "message"), [([0, 0], "above 0"), ([-1, 2], "above 0"), ([[[1]]], "must be .G,.")])
def test_bad_counts_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        ReweightedLoss(nn.CrossEntropyLoss(), counts)
