from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fairmedfm_monai.losses import DomainIndependentHead, DomainIndependentLoss
from fairmedfm_monai.losses.domain_independent import own_head
from tests.losses.toy import normal


def heads():
    torch.manual_seed(0)
    return DomainIndependentHead.of(lambda: nn.Linear(4, 3), 2).double()


def test_each_case_trains_the_head_of_its_own_group():
    head, features, target = heads(), normal(5, 4, seed=1), torch.tensor([0, 1, 2, 0, 1])
    codes = torch.tensor([0, 0, 0, 0, 0])
    loss = DomainIndependentLoss(nn.CrossEntropyLoss(), 2)
    loss.set_codes(codes)
    value = loss(head(features), target)
    torch.testing.assert_close(value, nn.CrossEntropyLoss()(head.heads[0](features), target))
    value.backward()
    assert head.heads[0].weight.grad.abs().max() > 0
    assert head.heads[1].weight.grad.abs().max() == 0


def test_cases_of_unknown_group_have_the_mean_of_all_heads():
    pred = normal(3, 2, 4, seed=0)
    found = own_head(pred, torch.tensor([1, -1, 0]))
    torch.testing.assert_close(found, torch.stack([pred[0, 1], pred[1].mean(0), pred[2, 0]]))


def test_inference_is_the_normalised_mean_of_log_probabilities():
    head, features = heads(), normal(6, 4, seed=1)
    log_p = head(features).log_softmax(-1).detach().numpy()
    expected = np.exp(log_p.mean(1))
    expected /= expected.sum(1, keepdims=True)
    found = head.eval()(features)
    assert found.shape == (6, 3)
    np.testing.assert_allclose(found.softmax(1).detach(), expected, rtol=1e-9)
    assert torch.equal(found.argmax(1), torch.from_numpy(log_p.sum(1)).argmax(1))  # the paper's sum


def test_independent_labels_use_their_own_loss():
    head, features, target = heads(), normal(4, 4, seed=1), (normal(4, 3, seed=2) > 0).double()
    loss = DomainIndependentLoss(nn.BCEWithLogitsLoss(), 2)
    loss.set_codes([1, 1, 1, 1])
    torch.testing.assert_close(loss(head(features), target), nn.BCEWithLogitsLoss()(head.heads[1](features), target))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 3), (2, 2, 3, 3)])
def test_logits_of_one_head_are_refused(shape):
    loss = DomainIndependentLoss(nn.CrossEntropyLoss(), 2)
    loss.set_codes([0, 1])
    with pytest.raises(ValueError, match=r"needs logits .B, 2, C."):
        loss(torch.zeros(shape), torch.zeros(2, dtype=torch.int64))


def test_no_heads_are_refused():
    with pytest.raises(ValueError, match="`heads` must hold one module per group"):
        DomainIndependentHead([])
