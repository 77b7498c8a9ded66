from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_sample_weight

from fairmedfm_monai.mitigation import GroupSampler
from fairmedfm_monai.mitigation.samplers import case_weights

RNG = np.random.default_rng(0)
CODES = RNG.choice(3, size=200, p=[0.7, 0.25, 0.05])
LABELS = RNG.choice(2, size=200, p=[0.8, 0.2])


@pytest.mark.parametrize("by", ["group", "class", "group_class"])
def test_weights_are_those_of_scikit_learn(by: str) -> None:
    cells = {"group": CODES, "class": LABELS, "group_class": CODES * 2 + LABELS}[by]
    expected = compute_sample_weight("balanced", cells)
    np.testing.assert_allclose(case_weights(CODES.tolist(), LABELS.tolist(), by=by), expected)


@pytest.mark.parametrize("by", ["group", "group_class"])
def test_unknown_groups_keep_their_share_and_change_no_other(by: str) -> None:
    codes = np.where(np.arange(200) % 4 == 0, -1, CODES)
    known = codes >= 0
    weights = case_weights(codes.tolist(), LABELS.tolist(), by=by).numpy()
    np.testing.assert_allclose(weights[~known], 1)
    alone = case_weights(codes[known].tolist(), LABELS[known].tolist(), by=by)
    np.testing.assert_allclose(weights[known], alone)
    assert case_weights([-1, -1, -1]).tolist() == [1, 1, 1]


def test_each_group_has_the_same_share_of_the_draws() -> None:
    sampler = GroupSampler(CODES.tolist(), seed=3)
    drawn = []
    for epoch in range(60):
        sampler.set_epoch(epoch)
        indices = list(sampler)
        assert len(indices) == len(sampler) == 200
        drawn += CODES[indices].tolist()
    shares = np.bincount(drawn) / len(drawn)
    np.testing.assert_allclose(shares, 1 / 3, atol=4 * np.sqrt(2 / 9 / len(drawn)))


def test_relabelling_groups_changes_no_weight() -> None:
    swapped = np.array([2, 0, 1])[CODES]
    assert torch.equal(case_weights(CODES.tolist()), case_weights(swapped.tolist()))


def test_a_draw_depends_on_seed_and_epoch_alone() -> None:
    one, two = GroupSampler(CODES.tolist(), seed=1), GroupSampler(CODES.tolist(), seed=1)
    torch.manual_seed(99)
    first = list(one)
    assert first == list(one) == list(two)
    two.set_epoch(1)
    assert first != list(two)
    assert first != list(GroupSampler(CODES.tolist(), seed=2))


@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_share_out_the_draw_of_one(ranks: int) -> None:
    whole = list(GroupSampler(CODES.tolist(), seed=5))
    parts = [list(GroupSampler(CODES.tolist(), seed=5, num_replicas=ranks, rank=rank)) for rank in range(ranks)]
    assert len({len(part) for part in parts}) == 1
    union = [index for together in zip(*parts, strict=True) for index in together]
    assert union[: len(whole)] == whole
    assert union[len(whole) :] == whole[: len(union) - len(whole)]


def test_monai_sets_the_epoch() -> None:
    from monai.data import DataLoader
    from monai.engines import SupervisedTrainer

    sampler = GroupSampler([0, 0, 1], seed=0)
    network = torch.nn.Linear(1, 1)
    data = [{"image": torch.ones(1), "label": torch.ones(1)}] * 3
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=3,
        train_data_loader=DataLoader(data, sampler=sampler),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=torch.nn.MSELoss(),
    )
    trainer.run()
    assert sampler.epoch == 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"codes": [0, 1], "by": "sex"}, "`by` must be one of group"),
        ({"codes": [0, 1], "by": "class"}, "`labels` are needed"),
        ({"codes": [0, 1], "labels": [0], "by": "class"}, "one value per case"),
        ({"codes": []}, "one value per case"),
        ({"codes": [0, 1], "num_replicas": 2, "rank": 2}, "rank"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        GroupSampler(**arguments)
