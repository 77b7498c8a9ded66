from __future__ import annotations

import copy

import pytest
import torch

from fairmedfm_monai.networks.encoders.demo_clip import DemoCLIP
from fairmedfm_monai.usages.linear_probe import LinearProbe


@pytest.fixture(scope="module")
def trained() -> LinearProbe:
    model = LinearProbe(DemoCLIP("tiny"), 2, seed=1)
    with torch.no_grad():
        model.head.weight.fill_(0.5)
    return model


@pytest.mark.parametrize("strict", [True, False])
def test_head_takes_its_part_of_the_whole_model(trained: LinearProbe, strict: bool) -> None:
    head = copy.deepcopy(LinearProbe(DemoCLIP("tiny"), 2, seed=2).head)
    state = trained.state_dict()
    names = list(state)
    head.load_state_dict(state, strict=strict)
    assert torch.equal(head.weight, trained.head.weight)
    assert torch.equal(head.bias, trained.head.bias)
    assert list(state) == names


def test_head_loads_its_own_state(trained: LinearProbe) -> None:
    head = LinearProbe(DemoCLIP("tiny"), 2, seed=2).head
    head.load_state_dict(trained.head.state_dict())
    assert torch.equal(head.weight, trained.head.weight)


def test_whole_model_still_loads(trained: LinearProbe) -> None:
    model = LinearProbe(DemoCLIP("tiny"), 2, seed=2)
    model.load_state_dict(trained.state_dict())
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in model.state_dict().items())
