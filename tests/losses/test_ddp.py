"""A batch over two processes is the batch in one."""

from __future__ import annotations

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from fairmedfm_monai.losses.ddp import union
from fairmedfm_monai.losses.groups import group_means
from tests.losses import toy

SHARDS = (slice(0, 3), slice(3, None))  # of unequal size; group 1 is in the first only, unknown in the second
WORLD = len(SHARDS)


def worker(rank, port, folder):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD)
    try:
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
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, (port, str(folder)), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


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
