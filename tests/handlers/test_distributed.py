from __future__ import annotations

import json
import socket
from pathlib import Path

import pandas as pd
import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from monai.data import DistributedSampler

from fairmedfm_monai.fairness import read_predictions, read_table
from fairmedfm_monai.handlers import FairnessHandler
from tests.handlers import toy


def evaluate(folder, output, rank=0, even=None):
    """Full evaluation and training-mode evaluation in this process; returns what rank's engine ended with."""
    info = toy.load(Path(folder))
    sampler = None
    if even is not None:
        sampler = DistributedSampler(toy.loader(info, "val", "test").dataset, even_divisible=even, shuffle=False)
    engine = toy.evaluator(
        info, [FairnessHandler(info, output_dir=output, n_bootstrap=20, log_cases=True)], "val", "test", sampler=sampler
    )
    engine.run()
    fast = toy.evaluator(info, [FairnessHandler(info, select_by="val/auc")], "val", "test", sampler=sampler)
    fast.run()
    state = {"full": engine.state.metrics, "fast": fast.state.metrics, "failed": engine.state.failed_cases}
    Path(f"{output}-rank{rank}.json").write_text(json.dumps(state))


def worker(rank, port, folder, output):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        for even in (True, False):
            evaluate(folder, f"{output}-{even}", rank, even)
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    folder = toy.write_xray(tmp_path_factory.mktemp("two") / "data", n=57)  # an odd number: unequal shards
    (folder / "img010.png").write_bytes(b"broken")
    base = folder.parent / "eval"
    evaluate(folder, f"{base}-one")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, (port, str(folder), str(base)), nprocs=2)
    return base


@pytest.mark.parametrize("even", [True, False])
def test_two_processes_give_the_numbers_of_one(outputs, even):
    one = json.loads(Path(f"{outputs}-one-rank0.json").read_text(encoding="utf-8"))
    assert one["full"]["test/auc"] > 0.5
    for rank in (0, 1):
        assert json.loads(Path(f"{outputs}-{even}-rank{rank}.json").read_text(encoding="utf-8")) == one
    ours, _ = read_predictions(f"{outputs}-{even}/predictions.parquet")
    reference, _ = read_predictions(f"{outputs}-one/predictions.parquet")
    assert ours.drop(columns="failed").equals(reference.drop(columns="failed"))
    assert (ours["failed"] != "").sum() == 1
    for name in ("subgroups.csv", "disparities.csv"):
        # Interval ends may differ in the last bit: processes that share a machine sum with fewer threads.
        pd.testing.assert_frame_equal(
            read_table(f"{outputs}-{even}/{name}"), read_table(f"{outputs}-one/{name}"), rtol=1e-12
        )
