from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from monai.data import DistributedSampler

from fairmedfm_monai.fairness import read_predictions, read_table
from fairmedfm_monai.handlers import EarlyStopping, FairnessHandler
from tests.handlers import toy
from tests.processes import run_ranks


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


def worker(rank, folder, output):
    for even in (True, False):
        evaluate(folder, f"{output}-{even}", rank, even)
    # The second process sees other values, as rounding on another machine can give.
    trainer, validator = toy.validated([[0.5, 0.6, 0.6, 0.6, 0.7], [0.5, 0.6, 0.6000000001, 0.61, 0.7]][rank])
    handler = EarlyStopping(2)
    handler.set_trainer(trainer)
    handler.attach(validator)
    trainer.run([0], max_epochs=5)
    Path(f"{output}-stopped-rank{rank}").write_text(str(trainer.state.epoch))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    folder = toy.write_xray(tmp_path_factory.mktemp("two") / "data", n=57)  # an odd number: unequal shards
    (folder / "img010.png").write_bytes(b"broken")
    base = folder.parent / "eval"
    evaluate(folder, f"{base}-one")
    run_ranks(worker, str(folder), str(base))
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


def test_both_processes_stop_early_at_the_same_epoch(outputs):
    assert [Path(f"{outputs}-stopped-rank{rank}").read_text() for rank in (0, 1)] == ["4", "4"]
