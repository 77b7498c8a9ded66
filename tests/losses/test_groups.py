from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss
from sklearn.metrics import log_loss
from torch import nn

from fairmedfm_monai.losses import group_means, per_case
from tests.losses.toy import normal


class TestPerCase:
    def test_cross_entropy_is_that_of_each_case(self):
        logits, target = normal(6, 4, seed=0), torch.tensor([0, 1, 2, 3, 1, 1])
        found = per_case(nn.CrossEntropyLoss(), logits, target)
        for case in range(6):
            probabilities = np.exp(logits[case]) / np.exp(logits[case]).sum()
            expected = log_loss([int(target[case])], [probabilities.numpy()], labels=range(4))
            assert float(found[case]) == pytest.approx(expected, rel=1e-9)

    def test_class_weights_multiply_and_are_not_divided_out(self):
        logits, target = normal(3, 2, seed=0), torch.tensor([0, 1, 1])
        plain = per_case(nn.CrossEntropyLoss(), logits, target)
        weighted = nn.CrossEntropyLoss(weight=torch.tensor([0.5, 3.0], dtype=torch.float64))
        torch.testing.assert_close(
            per_case(weighted, logits, target), plain * torch.tensor([0.5, 3, 3], dtype=torch.float64)
        )
        assert weighted.reduction == "mean"  # the loss itself stays as it was

    def test_independent_labels_are_averaged(self):
        logits, target = normal(5, 3, seed=1), (normal(5, 3, seed=2) > 0).double()
        p = 1 / (1 + np.exp(-logits.numpy()))
        expected = -np.where(target.numpy() == 1, np.log(p), np.log(1 - p)).mean(1)
        np.testing.assert_allclose(per_case(nn.BCEWithLogitsLoss(), logits, target), expected, rtol=1e-9)

    @pytest.mark.parametrize("batch", [False, True])
    @pytest.mark.parametrize("size", [3, 4])
    def test_dice_is_that_of_each_case_even_with_as_many_classes_as_cases(self, batch, size):
        logits = normal(size, 3, 5, 5, seed=3)
        target = (normal(size, 1, 5, 5, seed=4).abs() * 2).long().clamp(max=2)
        p = logits.softmax(1).numpy()
        t = np.stack([target[:, 0].numpy() == label for label in range(3)], 1)
        overlap, total = (p * t).sum((2, 3)), (p**2 + t).sum((2, 3))
        expected = (1 - (2 * overlap + 1e-5) / (total + 1e-5)).mean(1)
        options = {"softmax": True, "to_onehot_y": True, "squared_pred": True, "batch": batch}
        np.testing.assert_allclose(per_case(DiceLoss(**options), logits, target), expected, rtol=1e-6)
        entropy = per_case(nn.CrossEntropyLoss(), logits, target[:, 0]).numpy()
        mixed = per_case(DiceCELoss(**options, lambda_dice=0.8, lambda_ce=0.2), logits, target)
        np.testing.assert_allclose(mixed, 0.8 * expected + 0.2 * entropy, rtol=1e-6)

    def test_any_function_is_called_with_one_case_at_a_time(self):
        def largest(pred, target):
            return (pred - target).abs().max()

        pred = torch.tensor([[1.0, -5.0], [2.0, 0.0]])
        assert per_case(largest, pred, torch.zeros(2, 2)).tolist() == [5, 2]


class TestGroupMeans:
    def test_means_and_counts_are_those_of_numpy(self):
        generator = np.random.default_rng(0)
        values, codes = generator.normal(size=50), generator.integers(-1, 4, size=50)
        means, counts = group_means(torch.tensor(values), torch.tensor(codes), 5)
        np.testing.assert_allclose(means[:4], [values[codes == group].mean() for group in range(4)])
        assert (float(means[4]), int(counts[4])) == (0, 0)  # group 4 is absent
        assert counts.tolist() == [(codes == group).sum() for group in range(5)]

    def test_nan_stays_in_its_group(self):
        means, _ = group_means(torch.tensor([torch.nan, 1, 2]), torch.tensor([0, 1, -1]), 2)
        assert means[0].isnan()
        assert means[1] == 1

    def test_sums_of_half_precision_values_keep_their_digits(self):
        values = torch.full((4096,), 0.1, dtype=torch.float16)
        means, _ = group_means(values, torch.zeros(4096, dtype=torch.int64), 1)
        assert float(means) == pytest.approx(float(values[0]), rel=1e-5)
