"""What must hold for every loss."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from fairmedfm_monai.losses.groups import per_case
from tests.losses import toy

EXACT = {"rtol": 1e-9, "atol": 1e-12}
# The published rule takes unknown cases for the last group, so it depends on which group that is.
FAIR = sorted(set(toy.SETUPS) - {"febs_published"})


def assert_same(found, expected):
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, **EXACT)


@pytest.mark.parametrize("name", FAIR)
class TestEveryLoss:
    def test_relabelling_the_groups_changes_nothing(self, name):
        expected = toy.setup(name).outcome()
        for order in ((1, 2, 0), (2, 1, 0)):
            found = toy.setup(name, order).outcome()
            for outcome in (found, expected):
                outcome["gradient"] = outcome["gradient"].sort().values  # heads of groups change places
            assert_same(found, expected)

    def test_shuffling_the_batch_changes_nothing(self, name):
        rows = torch.randperm(len(toy.CODES), generator=torch.Generator().manual_seed(0))
        assert_same(toy.setup(name).rows(rows).outcome(), toy.setup(name).outcome())

    def test_the_groups_matter(self, name):
        """Otherwise the two properties above would say nothing."""
        other = toy.setup(name)
        other.codes = other.codes.roll(1)
        assert not torch.allclose(other.outcome()["values"], toy.setup(name).outcome()["values"])

    def test_batches_that_lack_something_give_finite_losses_and_gradients(self, name):
        codes = torch.tensor(toy.CODES)
        whole = toy.setup(name)
        only_class = whole.target.flatten(1).amax(1) if whole.target.ndim > 1 else whole.target
        batches = {
            "absent group": (codes != 1).nonzero().flatten(),
            "one group": (codes == 0).nonzero().flatten(),
            "batch of one": torch.tensor([2]),
            "unknown alone": torch.tensor([4]),
            "group with one class": ((codes != 0) | (only_class == only_class[0])).nonzero().flatten(),
        }
        for kind, rows in batches.items():
            outcome = toy.setup(name).rows(rows).outcome()
            assert all(value.isfinite().all() for value in outcome.values()), kind
            assert outcome["gradient"].abs().max() > 0, kind

    def test_nan_goes_through(self, name):
        setup = toy.setup(name)
        setup.inputs[0] = torch.nan
        assert setup.step().isnan()

    def test_half_precision_logits_give_nearly_the_same_loss(self, name):
        expected = toy.setup(name).outcome()["values"]
        setup = toy.setup(name)
        setup.network.bfloat16(), setup.loss.float()
        setup.inputs = setup.inputs.bfloat16()
        setup.target = setup.target.bfloat16() if setup.target.is_floating_point() else setup.target
        with torch.autocast("cpu", torch.bfloat16):
            found = torch.stack([setup.step() for _ in range(3)])
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=0.03, atol=0.03)

    def test_state_goes_through_a_checkpoint(self, name):
        first = toy.setup(name)
        first.outcome()
        file = io.BytesIO()
        torch.save(first.loss.state_dict(), file)
        file.seek(0)
        second = toy.setup(name)
        for parameter in second.loss.parameters():
            nn.init.zeros_(parameter)
        second.loss.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(second.step(), first.step())


@pytest.mark.parametrize("name", [name for name in FAIR if name != "febs"])  # batch Dice: see test_febs.py
def test_unknown_groups_give_the_plain_loss(name):
    setup = toy.setup(name)
    setup.codes = torch.full_like(setup.codes, -1)
    pred = setup.network.eval()(setup.inputs)  # of several heads, their mean
    setup.network.train()
    expected = per_case(setup.loss.loss_function, pred, setup.target).mean()
    torch.testing.assert_close(setup.step(), expected, **EXACT)


def test_every_exported_loss_has_a_setup():
    import fairmedfm_monai.losses as room

    exported = {name for name in dir(room) if name.endswith("Loss")} - {"GroupLoss"}
    assert exported == {type(toy.setup(name).loss).__name__ for name in toy.SETUPS}
