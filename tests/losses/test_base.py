from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from fairmedfm_monai.losses import GroupDROLoss, ReweightedLoss


@pytest.fixture
def loss():
    return ReweightedLoss(nn.CrossEntropyLoss(), [3, 1])


class TestCodes:
    def test_a_batch_without_codes_is_refused(self, loss):
        with pytest.raises(ValueError, match=r"ReweightedLoss does not know the groups .* set_codes"):
            loss(torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64))

    def test_codes_serve_one_batch_only(self, loss):
        loss.set_codes([0, 1])
        loss(torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64))
        with pytest.raises(ValueError, match="does not know the groups"):
            loss(torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64))

    def test_codes_of_another_batch_are_refused_and_forgotten(self, loss):
        loss.set_codes([0, 1, 0])
        with pytest.raises(ValueError, match="codes of 3 cases, but a batch of 2"):
            loss(torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64))
        assert loss.codes is None

    @pytest.mark.parametrize("codes", [[2, 0], [-2], [[0, 1]], [0.0, 1.0], [True, False]])
    def test_what_is_no_code_is_refused(self, loss, codes):
        with pytest.raises(ValueError, match="`codes` must be"):
            loss.set_codes(codes)

    def test_codes_are_not_in_the_state(self, loss):
        loss.set_codes(torch.tensor([0, 1], dtype=torch.int32))
        assert "codes" not in loss.state_dict()


def test_meta_data_of_images_stays_outside(loss):
    loss.set_codes([0, 1])
    found = loss(MetaTensor(torch.zeros(2, 2)), torch.zeros(2, dtype=torch.int64))
    assert type(found) is torch.Tensor


def test_a_loss_without_groups_is_refused():
    with pytest.raises(ValueError, match="`num_groups` must be at least 1, but got 0"):
        GroupDROLoss(nn.CrossEntropyLoss(), 0)
