"""A batch over two processes is the batch in one."""

from __future__ import annotations

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from fairmedfm_monai.losses.ddp import union
from fairmedfm_monai.losses.groups import group_means
from tests.losses import toy
from tests.processes import run_ranks

SHARDS = (slice(0, 3), slice(3, None))  # of unequal size; group 1 is in the first only, unknown in the second


def worker(rank, folder):
    outcomes = {}
    for name in toy.SETUPS:
        setup = toy.setup(name).rows(SHARDS[rank])
        setup.network = DistributedDataParallel(setup.network)
        outcomes[name] = {**setup.outcome(), "state": setup.loss.state_dict()}
    values, codes = torch.arange(8.0).exp()[SHARDS[rank]], torch.tensor(toy.CODES)[SHARDS[rank]]
    outcomes["means"] = group_means(values, codes, toy.GROUPS)
    empty = torch.ones(2 * rank, 3)  # the first process has no row at all
    outcomes["empty"] = union(empty)[0]
    torch.save(outcomes, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(worker, str(folder))
    return [torch.load(folder / f"{rank}.pt") for rank in range(len(SHARDS))]


@pytest.mark.parametrize("name", toy.SETUPS)
def test_losses_gradients_and_state_are_those_of_one_process(outcomes, name):
    setup = toy.setup(name)
    expected = setup.outcome()
    for found in (ranks[name] for ranks in outcomes):
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-12)
        for key, value in setup.loss.state_dict().items():
            torch.testing.assert_close(found["state"][key], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", toy.SETUPS)
def test_processes_agree_to_the_bit(outcomes, name):
    first, second = (ranks[name] for ranks in outcomes)
    assert torch.equal(first["values"], second["values"])
    assert torch.equal(first["audit"], second["audit"])


def test_means_count_every_process(outcomes):
    means, counts = group_means(torch.arange(8.0).exp(), torch.tensor(toy.CODES), toy.GROUPS)
    for found in outcomes:
        torch.testing.assert_close(found["means"][0], means)
        assert torch.equal(found["means"][1], counts)
        assert found["empty"].shape == (2, 3)


def test_one_process_gets_back_its_own_tensors():
    tensor = torch.ones(3)
    assert union(tensor)[0] is tensor
